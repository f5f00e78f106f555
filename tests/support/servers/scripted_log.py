"""Logs as a test writes them down, and as a broker sends them: aborted and open transactions, control records, holes that
compaction left, a log that begins above zero or lies in remote storage, a corrupt offset.

A :class:`ScriptedLog` is both what is served and the oracle: ``visible()`` says what a reader must see.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_NO_PRODUCER = -1

Headers = tuple[tuple[str, "bytes | None"], ...]


@dataclass(frozen=True)
class ScriptedRecord:
    """One record as a reader must see it."""

    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp_ms: int = 0
    headers: Headers = ()


@dataclass(frozen=True)
class _Batch:
    first_offset: int
    last_offset: int
    records: tuple[ScriptedRecord, ...]
    producer_id: int = _NO_PRODUCER
    control: bool = False
    wire_offset: int | None = None  # what the batch claims as its first offset when that is a lie


@dataclass(frozen=True)
class Aborted:
    """An aborted transaction, as a fetch names it."""

    producer_id: int
    first_offset: int
    marker_offset: int


@dataclass
class ScriptedLog:
    """One partition, written from ``start_offset`` on.

    ``remote_below`` is the offset below which it lies in remote storage: a fetch that waits for less than ``remote_ms`` gets
    none of it, however often it is sent.
    """

    start_offset: int = 0
    remote_below: int = 0
    remote_ms: int = 0
    _batches: list[_Batch] = field(default_factory=list)
    _aborted: list[Aborted] = field(default_factory=list)
    _open: dict[int, int] = field(default_factory=dict)
    _end: int = -1
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._end = self.start_offset

    def append(
        self,
        values: Sequence[bytes | None],
        *,
        producer_id: int = _NO_PRODUCER,
        keep: Iterable[int] | None = None,
        first_timestamp_ms: int = 1_000,
        headers: Headers = (),
        wire_offset: int | None = None,
    ) -> ScriptedLog:
        """One batch.

        ``keep`` are the indexes that compaction left of it, ``producer_id`` puts it into a transaction, and
        ``wire_offset`` is the first offset that it claims on the wire when that is a lie.
        """
        kept = range(len(values)) if keep is None else sorted(keep)
        first = self._end
        records = tuple(
            ScriptedRecord(
                first + index, values[index], b"key-%d" % (first + index), first_timestamp_ms + index, headers
            )
            for index in kept
        )
        if producer_id != _NO_PRODUCER:
            self._open.setdefault(producer_id, first)
        return self._write(_Batch(first, first + len(values) - 1, records, producer_id, wire_offset=wire_offset))

    def skip(self, count: int) -> ScriptedLog:
        """Offsets of which compaction left nothing at all."""
        self._end += count
        return self

    def commit(self, producer_id: int) -> ScriptedLog:
        """End this producer's transaction; takes one offset."""
        self._open.pop(producer_id)
        return self._write_marker(producer_id, committed=True)

    def abort(self, producer_id: int) -> ScriptedLog:
        """Abort this producer's transaction; takes one offset."""
        self._aborted.append(Aborted(producer_id, self._open.pop(producer_id), self._end))
        return self._write_marker(producer_id, committed=False)

    @property
    def high_watermark(self) -> int:
        """The offset after the last one written."""
        return self._end

    @property
    def last_stable_offset(self) -> int:
        """The first offset of the oldest open transaction, or else the high watermark."""
        return min(self._open.values(), default=self._end)

    def end(self, read_committed: bool) -> int:
        """What a reader of this isolation level takes for the log's end."""
        return self.last_stable_offset if read_committed else self.high_watermark

    def visible(self, start: int = 0, stop: int | None = None, read_committed: bool = True) -> list[ScriptedRecord]:
        """The records that a reader of ``[start, stop)`` must see, in order."""
        end = self.end(read_committed)
        stop = end if stop is None else min(stop, end)
        return [
            record
            for batch in self._batches
            if not batch.control and not (read_committed and self._is_aborted(batch))
            for record in batch.records
            if start <= record.offset < stop
        ]

    def offset_for_time(self, timestamp_ms: int) -> int:
        """The first visible record at or after this time, or -1."""
        found = [record.offset for record in self.visible() if record.timestamp_ms >= timestamp_ms]
        return found[0] if found else -1

    def fetch(self, offset: int, read_committed: bool, max_bytes: int) -> tuple[bytes, list[Aborted]]:
        """Whole batches from the one that holds ``offset`` on, and the aborted transactions among them."""
        end = self.end(read_committed)
        parts: list[bytes] = []
        size, upper = 0, offset
        for batch in self._batches:
            if batch.last_offset < offset or batch.first_offset >= end:
                continue
            encoded = _encode_batch(batch)
            if parts and size + len(encoded) > max_bytes:
                break
            parts.append(encoded)
            size, upper = size + len(encoded), batch.last_offset
        aborted = [a for a in self._aborted if a.marker_offset >= offset and a.first_offset <= upper]
        return b"".join(parts), aborted if read_committed else []

    def _is_aborted(self, batch: _Batch) -> bool:
        return any(
            aborted.producer_id == batch.producer_id
            and aborted.first_offset <= batch.first_offset < aborted.marker_offset
            for aborted in self._aborted
        )

    def _write_marker(self, producer_id: int, committed: bool) -> ScriptedLog:
        marker = ScriptedRecord(self._end, struct.pack(">hi", 0, 0), struct.pack(">hh", 0, int(committed)))
        return self._write(_Batch(self._end, self._end, (marker,), producer_id, control=True))

    def _write(self, batch: _Batch) -> ScriptedLog:
        with self.changed:
            self._batches.append(batch)
            self._end = batch.last_offset + 1
            self.changed.notify_all()
        return self


def _encode_batch(batch: _Batch) -> bytes:
    first_timestamp = batch.records[0].timestamp_ms if batch.records else 0
    attributes = (_CONTROL if batch.control else 0) | (_TRANSACTIONAL if batch.producer_id != _NO_PRODUCER else 0)
    body = struct.pack(
        ">hiqqqhii",
        attributes,
        batch.last_offset - batch.first_offset,
        first_timestamp,
        max((record.timestamp_ms for record in batch.records), default=0),
        batch.producer_id,
        0,
        0,
        len(batch.records),
    ) + b"".join(_encode_record(record, batch.first_offset, first_timestamp) for record in batch.records)
    no_crc, magic, leader_epoch = 0, 2, 0  # consumers check the CRC only when told to
    after_length = struct.pack(">ibI", leader_epoch, magic, no_crc) + body
    claimed = batch.first_offset if batch.wire_offset is None else batch.wire_offset
    return struct.pack(">qi", claimed, len(after_length)) + after_length


def _encode_record(record: ScriptedRecord, base_offset: int, base_timestamp: int) -> bytes:
    body = b"\0" + _varint(record.timestamp_ms - base_timestamp) + _varint(record.offset - base_offset)
    body += _varbytes(record.key) + _varbytes(record.value) + _varint(len(record.headers))
    for name, value in record.headers:
        body += _varbytes(name.encode(errors="surrogateescape")) + _varbytes(value)
    return _varint(len(body)) + body


def _varbytes(value: bytes | None) -> bytes:
    return _varint(-1) if value is None else _varint(len(value)) + value


def _varint(number: int) -> bytes:
    zigzag = (number << 1) ^ (number >> 63)
    encoded = bytearray()
    while zigzag > 0x7F:
        encoded.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    encoded.append(zigzag)
    return bytes(encoded)
