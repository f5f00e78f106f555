"""What readers and decoders note of the times of records, for the watermark of the next batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from beam_exactly_once.checkpoint.source_times import Noted, NotedTimes
from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.kafka import Chunk
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.rows.event_times import By, Times, time_of_row, times_of_batch, times_of_rows
from beam_exactly_once.rows.rejected import is_of_row

TimesOf: TypeAlias = Callable[[Chunk], Times]
"""When the records of a chunk happened."""

_NO_TIMESTAMP = -1
_NEVER = -(1 << 63)


class TimeNotes:
    """The notes of one bundle of one source."""

    def __init__(self) -> None:
        self._max_ms: dict[tuple[str, int], int] = {}
        self._future_records: Counter[tuple[str, int]] = Counter()

    def clear(self) -> None:
        """Forget what a failed bundle noted."""
        self._max_ms.clear()
        self._future_records.clear()

    def note(self, where: tuple[str, int], at_ms: int, latest_ms: int) -> None:
        """Note when a record of a topic and partition happened. One after ``latest_ms`` is only counted."""
        if at_ms > latest_ms:
            self._future_records[where] += 1
        elif at_ms > self._max_ms.get(where, _NEVER):
            self._max_ms[where] = at_ms

    def note_all(self, where: tuple[str, int], times: Times, latest_ms: int) -> None:
        """The same of many."""
        count = times <= latest_ms
        if len(times) and count.any():
            self.note(where, int(times[count].max()), latest_ms)
        if not count.all():
            self._future_records[where] += int(len(times) - count.sum())

    def taken(self) -> Noted:
        """What was noted; then it is forgotten. Empty if there was no record."""
        places = self._max_ms.keys() | self._future_records.keys()
        noted = {
            TopicPartition(*where): NotedTimes(self._max_ms.get(where), self._future_records[where]) for where in places
        }
        self.clear()
        return noted


class TimedDecoder:
    """A decoder that notes when what it makes of a record happened. Where nobody can tell, it raises, as for a misfit.

    Args:
        decoder: makes a row of a record, or a batch of rows of a batch of records, which are of one partition.
        by: tells when a row happened.
        step: who decodes, for errors.

    Attributes:
        latest_ms: the latest time that counts; the caller sets it.
    """

    def __init__(self, decoder: Callable[[Any], Any], by: By, *, step: str) -> None:
        self._decoder = decoder
        self._by = by
        self._step = step
        self.notes = TimeNotes()
        self.latest_ms = 0

    def __call__(self, record: Any) -> Any:
        """Decode, and note."""
        row = self._decoder(record)
        if type(row) is not pa.RecordBatch:
            at_ms = time_of_row(self._by, row, step=self._step)
            self.notes.note(record[:2], at_ms, self.latest_ms)
        elif row.num_rows:
            times = times_of_batch(self._by, row, step=self._step)
            self.notes.note_all(_partition_of(record), times, self.latest_ms)
        return row


def _partition_of(records: Any) -> tuple[str, int]:
    """The topic and partition of a record, or of a batch of records, which is of one chunk."""
    if type(records) is pa.RecordBatch:
        return records.column("topic")[0].as_py(), records.column("partition")[0].as_py()
    return records.topic, records.partition


def timestamps_of(chunk: Chunk) -> Times:
    """When Kafka says that the records of a chunk happened.

    Raises:
        UnfitRow: it does not say it of one.
    """
    timestamps_ms = chunk.columns.timestamps_ms
    if _NO_TIMESTAMP in timestamps_ms:
        offset = chunk.columns.offsets[timestamps_ms.index(_NO_TIMESTAMP)]
        raise UnfitRow(
            f"{_record(chunk, offset)} has no timestamp in Kafka, as of a producer older than Kafka 0.10, and "
            "event_time=EventTime(…) takes it for when the record happened. Nothing of its batch is committed. Give by=, a "
            "column or a function that tells it."
        )
    return np.array(timestamps_ms, np.int64)


class TimesBy:
    """When the records of a chunk happened, by a function of the user's, or one of their fields.

    Args:
        by: of a record; or of an Arrow batch of records.
        as_arrow: which of them.
    """

    def __init__(self, by: By, *, as_arrow: bool) -> None:
        self._by = by
        self._as_arrow = as_arrow

    def __call__(self, chunk: Chunk) -> Times:
        """
        Raises:
            UnfitRow: nobody can tell of one.
        """
        try:
            if self._as_arrow:
                return times_of_batch(self._by, chunk.to_arrow(), step="event_time")
            return times_of_rows(self._by, list(chunk.records()), step="event_time")
        except Exception as error:
            if not is_of_row(error):
                raise
            failed = error
        raise UnfitRow(self._untold(chunk, failed)) from failed  # behind the block: it is what leaves the reader

    def _untold(self, chunk: Chunk, error: Exception) -> str:
        """Names the record, as far as one can be named."""
        where = f"a record of {chunk.topic}-{chunk.partition} at one of the offsets [{chunk.start}, {chunk.stop})"
        for record in () if self._as_arrow else chunk.records():
            try:
                time_of_row(self._by, record, step="event_time")
            except Exception as of_record:
                where, error = _record(chunk, record.offset), of_record
                break
        said = str(error) if isinstance(error, UnfitRow) else type(error).__name__
        return (
            f"by= of event_time=EventTime(…) cannot tell when {where} happened: {said}. Nothing of its batch is committed. "
            'Mend it, or give a decoder= and on_error="reject".'
        )


def _record(chunk: Chunk, offset: int) -> str:
    return f"record {chunk.topic}-{chunk.partition} at offset {offset}"
