"""What is around every object of a write-ahead log: whose it is, in which format, and whether it is whole. Never pickle.

Small objects are JSON. Those with records or ids begin with a header of JSON, which one ranged read has and which is checked by
itself:

    BEOWAL1\\n, length of the header (4 bytes), its CRC-32 (4 bytes), the header, blocks

The nonce makes every write unique, so that a writer recognises its own bytes after a lost answer.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any, TypeAlias

import orjson

from beam_exactly_once.errors import CorruptObject, NewerFormat
from beam_exactly_once.randomness import new_token

Json: TypeAlias = dict[str, Any]

FORMAT_VERSION = 1
"""What this version writes."""
MIN_READER_VERSION = 1
"""The oldest reader that understands what this version writes."""
MAX_HEADER_BYTES = 4096
"""One ranged read of so much has the whole header."""

_MAGIC = b"BEOWAL1\n"
_LENGTHS = struct.Struct("<II")
_FRONT_BYTES = len(_MAGIC) + _LENGTHS.size


def seal(kind: str, log_id: str, body: Json) -> bytes:
    """A small object. Its log id is empty in ``wal.json`` alone, which says it."""
    sealed = {
        "format_version": FORMAT_VERSION,
        "min_reader_version": MIN_READER_VERSION,
        "kind": kind,
        "log_id": log_id,
        "nonce": new_token(),
        "body": body,
    }
    return orjson.dumps({**sealed, "checksum": _checksum(sealed)}, option=orjson.OPT_SORT_KEYS)


def unseal(data: bytes, *, where: str, kind: str, log_id: str) -> Json:
    """What is inside a small object.

    Args:
        data: its bytes.
        where: its full name, for messages.
        kind: what it must be.
        log_id: the log it must belong to.

    Raises:
        CorruptObject: it is not that, or not whole.
        NewerFormat: it needs a newer version of this library.
    """
    try:
        sealed = orjson.loads(data)
        checksum = sealed.pop("checksum")
        _check_version(sealed, where)
        if checksum != _checksum(sealed) or (sealed["kind"], sealed["log_id"]) != (kind, log_id):
            raise ValueError("wrong checksum, kind or log")
        body: Json = sealed["body"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # what orjson raises is a ValueError
        raise corrupt(where, f"is not a whole record of kind {kind!r} of log {log_id!r} ({error})") from None
    return body


def with_header(header: Json, *blocks: bytes) -> bytes:
    """A large object: its header, which gets a nonce and the checksum of the blocks, and the blocks."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    whole = {
        "format_version": FORMAT_VERSION,
        "min_reader_version": MIN_READER_VERSION,
        "nonce": new_token(),
        "sha256": digest.hexdigest(),
        "blocks_bytes": sum(map(len, blocks)),
        **header,
    }
    text = orjson.dumps(whole)
    if _FRONT_BYTES + len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(text)} bytes is longer than one read of it")
    return b"".join((_MAGIC, _LENGTHS.pack(len(text), zlib.crc32(text)), text, *blocks))


def header_of(data: bytes, *, where: str, log_id: str) -> tuple[Json, int]:
    """The header of a large object, and where its blocks begin.

    Args:
        data: its bytes, or the first :data:`MAX_HEADER_BYTES` of them.
        where: its full name, for messages.
        log_id: the log it must belong to.

    Raises:
        CorruptObject: it is truncated or altered, or of another log.
        NewerFormat: it needs a newer version of this library.
    """
    try:
        size_bytes, crc32 = _LENGTHS.unpack_from(data, len(_MAGIC))
        text = data[_FRONT_BYTES : _FRONT_BYTES + size_bytes]
        if not data.startswith(_MAGIC) or len(text) != size_bytes or zlib.crc32(text) != crc32:
            raise ValueError("truncated or altered")
        header: Json = orjson.loads(text)
        _check_version(header, where)
        if header["log_id"] != log_id:
            raise ValueError(f"of log {header['log_id']}")
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise corrupt(where, f"has no whole header of log {log_id} ({error})") from None
    return header, _FRONT_BYTES + size_bytes


def blocks_of(data: bytes, *, where: str, log_id: str) -> tuple[Json, memoryview]:
    """Header and blocks of a large object that is there as a whole.

    Raises:
        CorruptObject: it is truncated or altered, or of another log.
        NewerFormat: it needs a newer version of this library.
    """
    header, begin = header_of(data, where=where, log_id=log_id)
    blocks = memoryview(data)[begin:]
    if len(blocks) != header["blocks_bytes"] or hashlib.sha256(blocks).hexdigest() != header["sha256"]:
        raise corrupt(where, "is truncated, or does not match its checksum")
    return header, blocks


def corrupt(where: str, what: str) -> CorruptObject:
    """An object that is not what it must be."""
    return CorruptObject(f"{where} {what}. Restore it from a copy or an older version of it; nothing was changed.")


def _check_version(sealed: Json, where: str) -> None:
    if int(sealed["min_reader_version"]) > FORMAT_VERSION:
        raise NewerFormat(
            f"{where} needs a reader of format version {sealed['min_reader_version']}; this one reads up to {FORMAT_VERSION}. "
            "Install the newer beam_exactly_once that wrote it."
        )


def _checksum(sealed: Json) -> str:
    return "sha256:" + hashlib.sha256(orjson.dumps(sealed, option=orjson.OPT_SORT_KEYS)).hexdigest()
