"""What is in a request: its records, their ids and their headers. Pure.

Any body is one record; with the type ``application/x-ndjson`` each of its lines is one. An id comes in a header, and holds for
the request: line k has the id "header and k", and is compared by the whole body, so a request that comes again is the same or is
refused. Or the id is a field of each record's JSON. The name of who sends is part of an id: senders cannot take each other's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from beam_exactly_once.logs.records import Headers
from beam_exactly_once.receiver.refusals import Refused
from beam_exactly_once.wal.ids import NO_CONTENT, NO_ID, compound_id, content_of, line_ids, stored_id
from beam_exactly_once.wal.new_records import NewRecords

MAX_ID_BYTES = 256
"""The longest id that a sender may give."""
LINES = b"application/x-ndjson"
_OF_REQUEST, _OF_LINES, _OF_FIELD = b"r", b"l", b"f"
"""Kinds of ids: none of one kind is equal to one of another."""


class Records(NamedTuple):
    """The records of a request. Their ids are ``sent`` of each; or of all together, and then ``whole`` is the body."""

    values: list[bytes]
    keys: list[bytes | None]
    sent: list[bytes] | bytes | None
    whole: bytes
    headers: Headers

    def of_log(self, log_id: str, arrived_ms: int) -> NewRecords:
        """As a log takes them.

        Args:
            log_id: the log's.
            arrived_ms: when they came.
        """
        count = len(self.values)
        if self.sent is None:
            ids, contents = [NO_ID] * count, [NO_CONTENT] * count
        elif isinstance(self.sent, bytes):
            ids, contents = line_ids(log_id, self.sent, count), [content_of(self.whole)] * count
        else:
            ids, contents = [stored_id(log_id, one) for one in self.sent], list(map(content_of, self.values))
        return NewRecords([*self.values], [arrived_ms] * count, ids, contents, self.keys, [self.headers] * count)


@dataclass(frozen=True)
class Form:
    """How requests are read.

    Args:
        id_header: name of the header that holds the id of a request.
        id_json_field: name of the field that holds the id of a record, instead.
        keep_headers: names of headers that become headers of the records.
        max_record_bytes: the largest record.
    """

    id_header: str = "Idempotency-Key"
    id_json_field: str | None = None
    keep_headers: tuple[str, ...] = ()
    max_record_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "_id_header", self.id_header.lower().encode())
        object.__setattr__(self, "_kept", [(name, name.lower().encode()) for name in self.keep_headers])

    _id_header: bytes = b""
    _kept: Any = ()

    def records(self, sender: bytes, headers: dict[bytes, bytes], body: bytes) -> Records:
        """What a request holds.

        Args:
            sender: the name of who sends.
            headers: of the request, by their names in small letters.
            body: all of it.

        Raises:
            Refused: the request has no such form.
        """
        are_lines = headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == LINES
        values = body.removesuffix(b"\n").split(b"\n") if are_lines else [body]
        if not body:
            raise Refused(400, "the request has no body: a record is what the body holds.")
        if are_lines:
            _check_json(values)
        if max(map(len, values)) > self.max_record_bytes:
            raise Refused(
                413, f"a record is larger than {self.max_record_bytes} bytes. Nothing of the request was taken."
            )
        kept = self._kept_of(headers) if self._kept else ()
        if self.id_json_field is not None:
            found = [self._key_in(value, number) for number, value in enumerate(values, start=1)]
            ids = [compound_id(_OF_FIELD, sender, *one) for one in found]
            return Records(values, [key for _, key in found], ids, body, kept)
        key = headers.get(self._id_header)
        if key is not None and not 0 < len(key) <= MAX_ID_BYTES:
            raise Refused(400, f"an id of {len(key)} bytes is not possible: give 1 to {MAX_ID_BYTES}.")
        keys = [key] * len(values)
        if key is None:
            return Records(values, keys, None, body, kept)
        sent = compound_id(_OF_LINES if are_lines else _OF_REQUEST, sender, key)
        return Records(values, keys, sent if are_lines else [sent], body, kept)

    def _key_in(self, value: bytes, number: int) -> tuple[bytes, bytes]:
        """Its type and text: the number 7 and the text "7" are two ids."""
        record = _json(value, number)
        key = record.get(self.id_json_field) if isinstance(record, dict) else None
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise Refused(
                400, f"record {number} is no JSON object with text or a whole number as {self.id_json_field!r}."
            )
        text = key.encode() if isinstance(key, str) else b"%d" % key
        if not 0 < len(text) <= MAX_ID_BYTES:
            raise Refused(400, f"record {number} has an id of {len(text)} bytes: give 1 to {MAX_ID_BYTES}.")
        return (b"text" if isinstance(key, str) else b"number"), text

    def _kept_of(self, headers: dict[bytes, bytes]) -> Headers:
        return tuple((name, headers[key]) for name, key in self._kept if key in headers)


def _check_json(values: list[bytes]) -> None:
    """Whether each of them is: at the speed of the parser, and one by one only to tell which is not."""
    try:
        deque(map(orjson.loads, values), maxlen=0)
    except orjson.JSONDecodeError:
        for number, value in enumerate(values, start=1):
            _json(value, number)


def _json(value: bytes, number: int) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise Refused(400, f"record {number} is not JSON in UTF-8. Nothing of the request was taken.") from None
