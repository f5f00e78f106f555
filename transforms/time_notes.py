"""What a source's readers note of the times of records, for the watermark of the next batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from beam_exactly_once.checkpoint.source_times import Noted, NotedTimes, together
from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.kafka import Chunk
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.rows.event_times import Times
from beam_exactly_once.transforms.reports import Gathered, TimesNoted, gathered

_NO_TIMESTAMP = -1


class TimeNotes:
    """The notes of one bundle of one source."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._noted: Noted = {}

    def clear(self) -> None:
        """Forget what a failed bundle noted."""
        self._noted = {}

    def note(self, where: TopicPartition, times: Times, latest_ms: int) -> None:
        """Note when records of a partition happened. Those after ``latest_ms`` are counted, and count for nothing else."""
        if not len(times):
            return
        counts = times[times <= latest_ms]
        of_these = NotedTimes(int(counts.max()) if len(counts) else None, len(times) - len(counts))
        self._noted = together([self._noted, {where: of_these}])

    def reports(self) -> Iterator[Gathered]:
        """What the commit is to know; nothing if there was no record."""
        noted, self._noted = self._noted, {}
        if noted:
            yield gathered(TimesNoted(self._source, noted))


def timestamps_of(chunk: Chunk) -> Times:
    """When Kafka says that the records of a chunk happened.

    Raises:
        UnfitRow: it does not say it of one.
    """
    timestamps_ms = chunk.columns.timestamps_ms
    if _NO_TIMESTAMP in timestamps_ms:
        offset = chunk.columns.offsets[timestamps_ms.index(_NO_TIMESTAMP)]
        raise UnfitRow(
            f"record {chunk.topic}-{chunk.partition} at offset {offset} has no timestamp in Kafka, as of a producer older than "
            "Kafka 0.10, and event_time=EventTime(…) takes it for when the record happened. Say by=, a column or a function that "
            "tells it."
        )
    return np.array(timestamps_ms, np.int64)
