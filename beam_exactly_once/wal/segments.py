"""Segments as bytes. Pure.

A segment holds the records of the offsets ``[base, base + count)``, or a *claim*: it takes one offset, holds no record, and says
who writes from there on. A claim is passed by readers as a transaction marker of Kafka is.

    header, ids (24 bytes a record), arrival times (8 bytes), lengths of keys and values (4 and 4 bytes; -1: none), headers,
    keys, values
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

from beam_exactly_once.logs.records import Headers
from beam_exactly_once.wal.ids import CONTENT_BYTES, ID_BYTES, entries_in, ids_block
from beam_exactly_once.wal.new_records import NewRecords
from beam_exactly_once.wal.sealed import MAX_HEADER_BYTES, Json, blocks_of, corrupt, header_of, with_header

MAX_SEGMENT_BYTES = 8_000_000
"""Of the whole object. GCS takes more than 8 MiB by a resumable upload, whose condition is not decided in one request."""
MAX_SEGMENT_RECORDS = 50_000
MAX_PAYLOAD_BYTES = MAX_SEGMENT_BYTES - MAX_HEADER_BYTES
"""What the records of a segment may take, each as :func:`size_bytes` says."""

_RECORD_BYTES = ID_BYTES + CONTENT_BYTES + 8 + 4 + 4
_NONE = -1


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a ranged read of a segment tells.

    ``claim`` is the offset of its writer's claim; a claim's own is its ``base``. ``rising_ms`` is the latest arrival time up to
    its end: unlike the times of records it never goes back, so an offset can be searched by time.
    ``ids_from`` is the offset from which on all ids are owed, as far as the id window reaches: a window that has grown does not
    bring back what is gone.
    """

    kind: str
    partition: int
    base: int
    count: int
    claim: int
    rising_ms: int
    id_window: int
    ids_from: int
    previous_claim: int | None = None
    owner: str = ""
    claimed_at_ms: int = 0

    @property
    def stop(self) -> int:
        """The offset behind it."""
        return self.base + self.count

    @property
    def is_claim(self) -> bool:
        """Whether it holds no record."""
        return self.kind == "claim"


@dataclass(frozen=True, slots=True)
class Segment:
    """The records of a segment, one list a column; all are empty in a claim."""

    header: SegmentHeader
    arrived_ms: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers] | None


def size_bytes(records: NewRecords) -> int:
    """What records take of a segment."""
    size = len(records) * (_RECORD_BYTES + 2) + _total_bytes(records.values) + _total_bytes(records.keys)
    for headers in filter(None, records.headers):
        size += sum(8 + len(name.encode()) + len(value or b"") for name, value in headers)
    return size


def encode_segment(log_id: str, header: SegmentHeader, records: NewRecords | None = None) -> bytes:
    """The bytes to store. Each call gives others, by a nonce of their own."""
    records = NewRecords() if records is None else records
    ids = ids_block(records.ids, records.contents)
    lengths = chain(_lengths(records.keys), _lengths(records.values))
    blocks = {
        "ids": ids,
        "times": struct.pack(f"<{len(records)}q", *records.arrived_ms),
        "lengths": struct.pack(f"<{2 * len(records)}i", *lengths),
        "headers": b"".join(map(_packed_headers, records.headers)) if any(records.headers) else b"",
        "keys": _joined(records.keys),
        "values": _joined(records.values),
    }
    fields: Json = {
        "kind": header.kind,
        "log_id": log_id,
        "partition": header.partition,
        "base": header.base,
        "count": header.count,
        "claim": header.claim,
        "rising_ms": header.rising_ms,
        "id_window": header.id_window,
        "ids_from": header.ids_from,
        "compression": "none",
        "ids_crc32": zlib.crc32(ids),
        "blocks": {name: len(block) for name, block in blocks.items()},
    }
    if header.is_claim:
        fields |= {
            "previous_claim": header.previous_claim,
            "owner": header.owner,
            "claimed_at_ms": header.claimed_at_ms,
        }
    data = with_header(fields, *blocks.values())
    if len(data) > MAX_SEGMENT_BYTES:
        raise ValueError(f"a segment of {len(data)} bytes is larger than {MAX_SEGMENT_BYTES}")
    return data


def decode_header(data: bytes, *, where: str, log_id: str) -> SegmentHeader:
    """The header of a segment, from its first bytes.

    Raises:
        CorruptObject: it is truncated or altered, or of another log.
        NewerFormat: it needs a newer version of this library.
    """
    return _checked_header(header_of(data, where=where, log_id=log_id)[0], where)


def ids_span(data: bytes, *, where: str, log_id: str) -> tuple[int, int]:
    """Where the ids of a segment begin, and how many bytes they are."""
    header, begin = header_of(data, where=where, log_id=log_id)
    return begin, int(header["blocks"]["ids"])


def decode_ids(data: bytes, *, where: str, log_id: str) -> tuple[SegmentHeader, bytes]:
    """Header and entries of a segment, from bytes that hold both.

    Raises:
        CorruptObject: they are truncated or altered.
        NewerFormat: it needs a newer version of this library.
    """
    header, begin = header_of(data, where=where, log_id=log_id)
    block = data[begin : begin + header["blocks"]["ids"]]
    if len(block) != header["blocks"]["ids"] or zlib.crc32(block) != header["ids_crc32"]:
        raise corrupt(where, "has no whole list of ids")
    checked = _checked_header(header, where)
    return checked, entries_in(checked.base, block) if block else b""


def decode_segment(data: bytes, *, where: str, log_id: str) -> Segment:
    """A segment, from all of its bytes.

    Raises:
        CorruptObject: it is truncated or altered, or of another log.
        NewerFormat: it needs a newer version of this library.
    """
    fields, blocks = blocks_of(data, where=where, log_id=log_id)
    header = _checked_header(fields, where)
    if header.is_claim:
        return Segment(header, [], [], [], None)
    try:
        if fields["compression"] != "none":
            raise ValueError(f"compression {fields['compression']!r}")
        parts = _cut(blocks, fields["blocks"].values())
        _, times, lengths, packed_headers, keys, values = parts
        arrived_ms = list(struct.unpack(f"<{header.count}q", times))
        sizes = struct.unpack(f"<{2 * header.count}i", lengths)
        return Segment(
            header,
            arrived_ms,
            _texts(keys, sizes[: header.count]),
            _texts(values, sizes[header.count :]),
            _unpacked_headers(packed_headers, header.count) if packed_headers else None,
        )
    except (KeyError, ValueError, struct.error) as error:
        raise corrupt(where, f"has blocks that do not fit its header ({error})") from None


def _checked_header(fields: Json, where: str) -> SegmentHeader:
    try:
        header = SegmentHeader(
            kind=str(fields["kind"]),
            partition=int(fields["partition"]),
            base=int(fields["base"]),
            count=int(fields["count"]),
            claim=int(fields["claim"]),
            rising_ms=int(fields["rising_ms"]),
            id_window=int(fields["id_window"]),
            ids_from=int(fields["ids_from"]),
            previous_claim=fields.get("previous_claim"),
            owner=str(fields.get("owner", "")),
            claimed_at_ms=int(fields.get("claimed_at_ms", 0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise corrupt(where, f"has a header that lacks {error}") from None
    if header.kind not in ("records", "claim") or header.base < 0 or header.count < 1:
        raise corrupt(where, f"has a header that cannot be: {header}")
    return header


def _length(text: bytes | None) -> int:
    return _NONE if text is None else len(text)


# Most often all texts are there: then a look at each whether it is would cost more than what is asked.


def _lengths(texts: Sequence[bytes | None]) -> list[int]:
    try:
        return list(map(len, texts))  # type: ignore[arg-type]
    except TypeError:
        return list(map(_length, texts))


def _total_bytes(texts: Sequence[bytes | None]) -> int:
    try:
        return sum(map(len, texts))  # type: ignore[arg-type]
    except TypeError:
        return sum(map(len, filter(None, texts)))


def _joined(texts: Sequence[bytes | None]) -> bytes:
    try:
        return b"".join(texts)  # type: ignore[arg-type]
    except TypeError:
        return b"".join(filter(None, texts))


def _cut(block: memoryview, sizes: Iterable[int]) -> list[memoryview]:
    ends = list(accumulate(sizes))
    if not ends or ends[-1] != len(block):
        raise ValueError("sizes that do not add up")
    return [block[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]


def _texts(block: memoryview, sizes: Sequence[int]) -> list[bytes | None]:
    """The texts that stand in a block one after the other. Most often all of them are there, or none is."""
    missing = sizes.count(_NONE)
    if missing == len(sizes) and not len(block):
        return [None] * missing
    if min(sizes, default=0) < _NONE:
        raise ValueError("a size that cannot be")
    ends = list(accumulate([max(size, 0) for size in sizes] if missing else sizes, initial=0))
    if ends[-1] != len(block):
        raise ValueError("sizes that do not add up")
    whole = bytes(block)  # of which a part is cut in half the time that a view takes
    texts: list[bytes | None] = [whole[start:stop] for start, stop in pairwise(ends)]
    return [None if size == _NONE else text for size, text in zip(sizes, texts, strict=True)] if missing else texts


def _packed_headers(headers: Headers) -> bytes:
    parts = [struct.pack("<H", len(headers))]
    for name, value in headers:
        encoded = name.encode()
        parts += [struct.pack("<ii", len(encoded), _length(value)), encoded, value or b""]
    return b"".join(parts)


def _unpacked_headers(block: memoryview, count: int) -> list[Headers]:
    found: list[Headers] = []
    at = 0
    for _ in range(count):
        (pairs,) = struct.unpack_from("<H", block, at)
        at += 2
        headers = []
        for _ in range(pairs):
            name_bytes, value_bytes = struct.unpack_from("<ii", block, at)
            at += 8
            name = str(block[at : at + name_bytes], "utf-8")
            at += name_bytes
            headers.append((name, None if value_bytes == _NONE else bytes(block[at : at + value_bytes])))
            at += max(value_bytes, 0)
        found.append(tuple(headers))
    if at != len(block):
        raise ValueError("headers that do not add up")
    return found
