"""The envelope around every object of a checkpoint: who wrote it, in which format, and whether it is whole.

    {"format_version": 3, "min_reader_version": 2, "kind": "offsets", "stream_id": "…", "nonce": "…",
     "checksum": "sha256:…", "body": {…}}

The nonce makes every write unique, so that a writer recognises its own bytes after a lost answer. The
checksum is over the canonical JSON of kind, stream id, nonce and body. JSON, never pickle: a checkpoint is safe
to open, and fields that this version does not know are let through.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson

from beam_exactly_once.errors import CorruptObject, ForeignObject, NewerFormat, OlderFormat

FORMAT_VERSION = 3
"""What this version writes."""
MIN_READER_VERSION = 2
"""The oldest reader that understands what this version writes."""
STATE_READER_VERSION = 3
"""The oldest reader that carries the state of operators on."""
OLDEST_VERSION = 2
"""The oldest format that this version reads. Format 1 is of before the first release."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """One checked object."""

    kind: str
    stream_id: str
    nonce: str
    body: dict[str, Any]


def seal(envelope: Envelope, min_reader_version: int = MIN_READER_VERSION) -> bytes:
    """The bytes to store, for readers of that version and newer ones."""
    return orjson.dumps(
        {
            "format_version": FORMAT_VERSION,
            "min_reader_version": min_reader_version,
            "kind": envelope.kind,
            "stream_id": envelope.stream_id,
            "nonce": envelope.nonce,
            "checksum": _checksum(envelope),
            "body": envelope.body,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def unseal(data: bytes, *, where: str, kind: str, stream_id: str | None) -> Envelope:
    """Check ``data``, found at ``where``, and return what is inside.

    Args:
        data: the object's bytes.
        where: its full name, for messages.
        kind: what it must be.
        stream_id: the stream it must belong to; None accepts any (only for ``metadata.json``).

    Raises:
        CorruptObject: truncated, not JSON, of another kind, or its checksum is wrong.
        NewerFormat: it needs a newer version of this library.
        OlderFormat: it was written by an older one, in a format that this one does not read.
        ForeignObject: it belongs to another stream.
    """
    try:
        stored = orjson.loads(data)
        min_reader_version = int(stored["min_reader_version"])
        if min_reader_version > FORMAT_VERSION:
            raise NewerFormat(
                f"{where} needs a reader of format version {min_reader_version}; this one reads up to "
                f"{FORMAT_VERSION}. Install the newer beam_exactly_once that wrote it."
            )
        format_version = int(stored["format_version"])
        if format_version < OLDEST_VERSION:
            raise OlderFormat(
                f"{where} has format version {format_version}; this version reads {OLDEST_VERSION} and newer. Go on with the "
                "beam_exactly_once that wrote it; or start a new checkpoint_location, with new outputs, at the next offsets of "
                "its newest marker."
            )
        envelope = Envelope(stored["kind"], stored["stream_id"], stored["nonce"], stored["body"])
        intact = stored["checksum"] == _checksum(envelope)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise CorruptObject(_corrupt(where, f"is truncated or is not a record ({type(error).__name__})")) from None
    if not intact:
        raise CorruptObject(_corrupt(where, "does not match its checksum"))
    if envelope.kind != kind:
        raise CorruptObject(_corrupt(where, f"is of kind {envelope.kind!r}, not {kind!r}"))
    if stream_id is not None and envelope.stream_id != stream_id:
        raise ForeignObject(
            f"{where} belongs to stream {envelope.stream_id}, not to {stream_id} of this location's metadata.json. "
            "Two streams wrote to one location, or it was wiped while its old driver ran: stop the other driver and "
            "start with an empty checkpoint_location."
        )
    return envelope


def _checksum(envelope: Envelope) -> str:
    content = orjson.dumps(
        [envelope.kind, envelope.stream_id, envelope.nonce, envelope.body], option=orjson.OPT_SORT_KEYS
    )
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _corrupt(where: str, what: str) -> str:
    return (
        f"{where} {what}. Restore the object from a copy or an older version of it; `beam-exactly-once verify` lists all "
        "faults. A plan that cannot be restored can be passed by `beam-exactly-once resolve`."
    )
