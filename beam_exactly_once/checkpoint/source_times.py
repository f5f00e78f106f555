"""When the records of a source happened, as a marker remembers it, and how a batch changes that. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from beam_exactly_once.offsets import NextOffsets, TopicPartition

Json: TypeAlias = dict[str, Any]

END_OF_TIME_MS = 253_402_300_799_999
"""The watermark of a source whose time has ended, or more: nothing happens later. It is the end of the year 9999."""


@dataclass(frozen=True, slots=True)
class NotedTimes:
    """What was noted of records of one partition.

    Attributes:
        max_ms: the latest time that counts; None if there is none.
        future_records: those whose time lies too far ahead to count.
    """

    max_ms: int | None = None
    future_records: int = 0

    def __add__(self, other: NotedTimes) -> NotedTimes:
        """Both together."""
        return NotedTimes(_later(self.max_ms, other.max_ms), self.future_records + other.future_records)


Noted: TypeAlias = Mapping[TopicPartition, NotedTimes]


@dataclass(frozen=True, slots=True)
class PartitionTimes:
    """What is remembered of one partition.

    Attributes:
        max_ms: the latest time of a record; None while there was none.
        seen_at_ms: when the last batch was planned that had a record whose time counts; of a partition without any, when the
            first batch was planned that knew it.
    """

    max_ms: int | None
    seen_at_ms: int


@dataclass(frozen=True, slots=True)
class SourceTimes:
    """What is remembered of one source: its watermark, and what the next one is made of.

    Attributes:
        partitions: of every known partition; of the topics that the source's next offsets are of.
        watermark_ms: of the newest batch that was committed; None while there is none.
        future_records: how many records there were, in all batches, whose time lay too far ahead to count.
    """

    partitions: Mapping[TopicPartition, PartitionTimes] = field(default_factory=dict)
    watermark_ms: int | None = None
    future_records: int = 0

    def behind(
        self,
        next_offsets: NextOffsets,
        replaced: Collection[str],
        planned_at_ms: int,
        watermark_ms: int | None,
        noted: Noted,
    ) -> SourceTimes:
        """What is remembered behind a batch.

        Args:
            next_offsets: of every partition that the batch knows.
            replaced: topics that others had replaced when it was planned.
            planned_at_ms: when that was.
            watermark_ms: as its plan says; None where it says nothing.
            noted: of its records.
        """
        known = self.without(replaced).partitions
        partitions = {}
        for one in next_offsets:
            before, of_batch = known.get(one, PartitionTimes(None, planned_at_ms)), noted.get(one, NotedTimes())
            is_seen = of_batch.max_ms is not None
            partitions[one] = PartitionTimes(
                _later(before.max_ms, of_batch.max_ms),
                max(before.seen_at_ms, planned_at_ms) if is_seen else before.seen_at_ms,
            )
        future_records = self.future_records + sum(one.future_records for one in noted.values())
        return SourceTimes(partitions, _later(self.watermark_ms, watermark_ms), future_records)

    @property
    def have_ended(self) -> bool:
        """Whether all that was open has been closed for good."""
        return has_ended(self.watermark_ms)

    def without(self, topics: Collection[str]) -> SourceTimes:
        """The same, of other topics than these."""
        return replace(self, partitions={one: at for one, at in self.partitions.items() if one.topic not in topics})

    def to_json(self) -> Json:
        """As it is stored."""
        times = ((one, [at.max_ms, at.seen_at_ms]) for one, at in self.partitions.items())
        return {
            "partitions": _by_topic(times),
            "watermark_ms": self.watermark_ms,
            "future_records": self.future_records,
        }

    @classmethod
    def from_json(cls, stored: Json) -> SourceTimes:
        """From what is stored."""
        partitions = {one: PartitionTimes(*times) for one, times in _by_partition(stored["partitions"])}
        return cls(partitions, stored["watermark_ms"], stored["future_records"])


@dataclass(frozen=True, slots=True)
class TimeReached:
    """How far the time of a source has come, for people and their monitoring.

    Attributes:
        watermark_ms: of the batch; None while there is none.
        held_by: the partition that kept it from being later; None if none did.
        held_since_ms: when the last batch was planned that had a record of that partition, or else the first that knew it.
        future_records: how many records there were, in all batches, whose time lay too far ahead to count.
    """

    watermark_ms: int | None
    held_by: TopicPartition | None
    held_since_ms: int | None
    future_records: int

    @classmethod
    def behind(cls, times: SourceTimes, held_by: TopicPartition | None) -> TimeReached:
        """Behind a batch whose plan says ``held_by``."""
        of_partition = None if held_by is None else times.partitions.get(held_by)
        since_ms = None if of_partition is None else of_partition.seen_at_ms
        return cls(times.watermark_ms, held_by, since_ms, times.future_records)

    def to_json(self) -> Json:
        """For machines; absent values are null."""
        return {
            "watermark_ms": self.watermark_ms,
            "held_by": None
            if self.held_by is None
            else {"topic": self.held_by.topic, "partition": self.held_by.partition},
            "held_since_ms": self.held_since_ms,
            "future_records": self.future_records,
        }


def has_ended(watermark_ms: int | None) -> bool:
    """Whether the time of a source with this watermark has ended."""
    return watermark_ms is not None and watermark_ms >= END_OF_TIME_MS


def together(noted: Iterable[Noted]) -> Noted:
    """What was noted in several places."""
    found: dict[TopicPartition, NotedTimes] = {}
    for part in noted:
        for one, times in part.items():
            found[one] = found.get(one, NotedTimes()) + times
    return found


def noted_to_json(noted: Noted) -> Json:
    """As it travels to the commit: ``{topic: {partition: [latest time, records from the future]}}``."""
    return _by_topic((one, [times.max_ms, times.future_records]) for one, times in noted.items())


def noted_from_json(sent: Json) -> Noted:
    """The inverse of :func:`noted_to_json`."""
    return {one: NotedTimes(*times) for one, times in _by_partition(sent)}


def _later(one_ms: int | None, other_ms: int | None) -> int | None:
    return max((at_ms for at_ms in (one_ms, other_ms) if at_ms is not None), default=None)


def _by_topic(values: Iterable[tuple[TopicPartition, list[int | None]]]) -> Json:
    stored: Json = {}
    for one, value in sorted(values, key=lambda named: named[0]):
        stored.setdefault(one.topic, {})[str(one.partition)] = value
    return stored


def _by_partition(stored: Json) -> Iterable[tuple[TopicPartition, list[int]]]:
    for topic, partitions in stored.items():
        for partition, value in partitions.items():
            yield TopicPartition(topic, int(partition)), value
