"""Where records are: partitions, half-open ranges of offsets, and next offsets.

Everything here is pure. An :class:`OffsetRange` is ``[start, stop)``; offsets may be missing inside
(compaction, transaction markers), so a range says what was *asked for*, never how many records it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias


@dataclass(frozen=True, order=True, slots=True)
class TopicPartition:
    """One partition of one topic."""

    topic: str
    partition: int

    def __post_init__(self) -> None:
        if not self.topic:
            raise ValueError("topic must not be empty")
        if self.partition < 0:
            raise ValueError(f"partition must be >= 0, got {self.partition}")

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


@dataclass(frozen=True, order=True, slots=True)
class OffsetRange:
    """The offsets ``[start, stop)`` of one partition; offsets may be missing inside."""

    topic: str
    partition: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"need 0 <= start <= stop, got {self}")

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition that the offsets are of."""
        return TopicPartition(self.topic, self.partition)

    @property
    def size(self) -> int:
        """Number of offsets, an upper bound of the number of records."""
        return self.stop - self.start

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read."""
        return self.start == self.stop

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}[{self.start}, {self.stop})"


NextOffsets: TypeAlias = Mapping[TopicPartition, int]
"""First unread offset of each partition: last read + 1."""


def tiling_faults(pieces: Iterable[OffsetRange], ranges: Iterable[OffsetRange]) -> list[str]:
    """What keeps ``pieces`` from covering ``ranges`` exactly once; empty when they tile.

    Each fault is a sentence that names exactly the offsets concerned: not read, read several times, read but not
    planned, or planned several times (ranges of one partition must not overlap each other).
    """
    pieces_of: dict[TopicPartition, list[OffsetRange]] = {}
    for piece in pieces:
        if not piece.is_empty:
            pieces_of.setdefault(piece.topic_partition, []).append(piece)
    ranges_of: dict[TopicPartition, list[OffsetRange]] = {}
    for planned in ranges:
        if not planned.is_empty:
            ranges_of.setdefault(planned.topic_partition, []).append(planned)

    faults: list[str] = []
    for topic_partition in sorted(pieces_of.keys() | ranges_of.keys()):
        faults += _partition_faults(
            topic_partition, pieces_of.get(topic_partition, []), ranges_of.get(topic_partition, [])
        )
    return faults


def _partition_faults(where: TopicPartition, pieces: list[OffsetRange], ranges: list[OffsetRange]) -> list[str]:
    """Sweep over all edges: between two neighbours, the number of reads and of plans does not change."""
    read_change = _edge_changes(pieces)
    planned_change = _edge_changes(ranges)
    faulty: list[tuple[OffsetRange, str]] = []
    reads = plans = 0
    for start, stop in pairwise(sorted(read_change.keys() | planned_change.keys())):
        reads += read_change.get(start, 0)
        plans += planned_change.get(start, 0)
        fault = _coverage_fault(reads, plans)
        if fault is None:
            continue
        if faulty and faulty[-1][0].stop == start and faulty[-1][1] == fault:
            start = faulty.pop()[0].start
        faulty.append((OffsetRange(where.topic, where.partition, start, stop), fault))
    return [f"{offsets} {fault}" for offsets, fault in faulty]


def _edge_changes(ranges: Iterable[OffsetRange]) -> dict[int, int]:
    changes: dict[int, int] = {}
    for one in ranges:
        changes[one.start] = changes.get(one.start, 0) + 1
        changes[one.stop] = changes.get(one.stop, 0) - 1
    return changes


def _coverage_fault(reads: int, plans: int) -> str | None:
    if plans > 1:
        return f"was planned {plans} times"
    if plans == 1 and reads == 0:
        return "was not read"
    if plans == 1 and reads > 1:
        return f"was read {reads} times"
    if plans == 0 and reads > 0:
        return "was read but not planned"
    return None


@dataclass(frozen=True, slots=True)
class LogBounds:
    """What a partition holds now: offsets ``[earliest, latest)``.

    ``latest`` is the last stable offset under ``read_committed``, else the high watermark.
    """

    earliest: int
    latest: int

    def position(self, next_offset: int | None, *, may_be_another: bool = False) -> int:
        """Where reading goes on. What lies between a next offset and the log is lost.

        Args:
            next_offset: of the partition; None: it is new.
            may_be_another: whether a log that ends below the next offset may be that of a topic that was recreated. Then all
                of it is to be read.
        """
        if next_offset is None or next_offset < self.earliest or (may_be_another and next_offset > self.latest):
            return self.earliest
        return min(next_offset, self.latest)


def lag(next_offsets: NextOffsets, bounds: Mapping[TopicPartition, LogBounds]) -> dict[TopicPartition, int]:
    """How many offsets of each partition in ``bounds`` wait to be read. New partitions count from their earliest."""
    return {one: log.latest - log.position(next_offsets.get(one)) for one, log in bounds.items()}


def by_topic(values: Mapping[TopicPartition, int]) -> dict[str, dict[int, int]]:
    """``{topic: {partition: value}}``, in order."""
    found: dict[str, dict[int, int]] = {}
    for one, value in sorted(values.items()):
        found.setdefault(one.topic, {})[one.partition] = value
    return found
