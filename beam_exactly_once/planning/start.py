"""Where a stream begins that has no checkpoint yet. Pure."""

from __future__ import annotations

import abc
import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from beam_exactly_once.errors import ConfigurationError, DataLoss, NewerFormat
from beam_exactly_once.offsets import LogBounds, NextOffsets, TopicPartition
from beam_exactly_once.planning.limits import is_count
from beam_exactly_once.planning.ranges import listed

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


@dataclass(frozen=True, slots=True)
class LogsNow:
    """What a start may ask of the logs that a source reads."""

    partitions: Sequence[TopicPartition]
    """All that the source reads."""
    bounds: Mapping[TopicPartition, LogBounds]
    """Of each of them."""
    offsets_for_time: Callable[[Sequence[TopicPartition], int], Mapping[TopicPartition, int]]
    """``KafkaLog.offsets_for_time``; called only for a timestamp."""
    checkpoint_offsets: NextOffsets | None = None
    """The next offsets of the checkpoint that the start names, else None. They are passed on unjudged, also for partitions that
    Kafka lost of a topic that is read: ``plan_ranges`` judges loss."""

    @property
    def earliest(self) -> dict[TopicPartition, int]:
        """The first offset that each partition still has."""
        return {one: self.bounds[one].earliest for one in self.partitions}


class Start(abc.ABC):
    """Where a stream begins that has no checkpoint yet. Once it has one, the checkpoint alone decides.

    Made by :meth:`earliest`, :meth:`latest`, :meth:`at_timestamp`, :meth:`at_offsets` or :meth:`from_checkpoint`.
    """

    __slots__ = ()
    kind: ClassVar[str]

    @staticmethod
    def earliest() -> Start:
        """From the first offset that Kafka still has."""
        return FromEarliest()

    @staticmethod
    def latest() -> Start:
        """Only what arrives after the first plan."""
        return FromLatest()

    @staticmethod
    def at_timestamp(timestamp: int | datetime.datetime) -> Start:
        """From each partition's first record at or after ``timestamp``; where there is none, from the latest offset.

        Args:
            timestamp: milliseconds since 1970 UTC, or a datetime with a time zone.

        Raises:
            ConfigurationError: the time lies before 1970, or the datetime has no time zone.
        """
        if isinstance(timestamp, datetime.datetime):
            if timestamp.utcoffset() is None:
                raise ConfigurationError(
                    f"the start time {timestamp.isoformat()} has no time zone: give one, such as datetime.timezone.utc"
                )
            # Rounded up: a record of the millisecond before is not at or after the time asked for.
            timestamp = -((_EPOCH - timestamp) // datetime.timedelta(milliseconds=1))
        if not is_count(timestamp):
            raise ConfigurationError(
                f"a start time is a datetime, or an integer of milliseconds since 1970 UTC; got {timestamp!r}"
            )
        return AtTimestamp(timestamp)

    @staticmethod
    def at_offsets(offsets: Mapping[TopicPartition, int]) -> Start:
        """From the given offset of each partition; partitions that are not mentioned from their earliest.

        Raises:
            ConfigurationError: ``offsets`` is empty, or a key is no TopicPartition, or a value no offset.
        """
        if not offsets:
            raise ConfigurationError("the start offsets are empty: name partitions, or use Start.earliest()")
        for topic_partition, offset in offsets.items():
            if not isinstance(topic_partition, TopicPartition):
                raise ConfigurationError(f"start offsets are keyed by TopicPartition, got {topic_partition!r}")
            if not is_count(offset):
                raise ConfigurationError(
                    f"partition {topic_partition}: a start offset is an integer of at least 0, got {offset!r}. For the "
                    "ends of the log use Start.earliest() or Start.latest()."
                )
        return AtOffsets(dict(offsets))

    @staticmethod
    def from_checkpoint(
        checkpoint_location: str, batch_id: int, storage_options: Mapping[str, Any] | None = None
    ) -> Start:
        """From where another stream stood after its batch ``batch_id``.

        Args:
            checkpoint_location: of the other stream.
            batch_id: a batch whose marker it still has.
            storage_options: of the store of that location.

        Raises:
            ConfigurationError: the location is empty, or the batch id no integer of at least 0.
        """
        if not checkpoint_location:
            raise ConfigurationError("the checkpoint to start from is an empty string: give its location")
        if not is_count(batch_id):
            raise ConfigurationError(f"a batch id is an integer of at least 0, got {batch_id!r}")
        return FromCheckpoint(checkpoint_location, batch_id, None if storage_options is None else dict(storage_options))

    @abc.abstractmethod
    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """The next offsets of a stream that has read nothing yet.

        Raises:
            DataLoss: an explicit offset lies below the partition's earliest.
            ConfigurationError: an explicit offset lies above the partition's latest, or in a partition that is not read.
        """

    def to_json(self) -> dict[str, Any]:
        """``{"kind": …}`` and what that kind needs, less store options; :meth:`from_json` reads it back."""
        return {"kind": self.kind}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Start:
        """The inverse of :meth:`to_json`.

        Raises:
            NewerFormat: a kind that this version does not know.
        """
        match stored["kind"]:
            case FromEarliest.kind:
                return FromEarliest()
            case FromLatest.kind:
                return FromLatest()
            case AtTimestamp.kind:
                return Start.at_timestamp(stored["timestamp_ms"])
            case AtOffsets.kind:
                return Start.at_offsets({TopicPartition(topic, part): at for topic, part, at in stored["offsets"]})
            case FromCheckpoint.kind:
                return Start.from_checkpoint(stored["checkpoint_location"], stored["batch_id"])
            case unknown:
                raise NewerFormat(f"this version does not know the start {unknown!r}: upgrade beam_exactly_once")


@dataclass(frozen=True, slots=True)
class FromEarliest(Start):
    """See :meth:`Start.earliest`."""

    kind: ClassVar[str] = "earliest"

    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Of each partition, the earliest."""
        return now.earliest


@dataclass(frozen=True, slots=True)
class FromLatest(Start):
    """See :meth:`Start.latest`."""

    kind: ClassVar[str] = "latest"

    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Of each partition, the latest."""
        return {one: now.bounds[one].latest for one in now.partitions}


@dataclass(frozen=True, slots=True)
class AtTimestamp(Start):
    """See :meth:`Start.at_timestamp`."""

    kind: ClassVar[str] = "timestamp"
    timestamp_ms: int

    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Where Kafka has the first record of that time, within the bounds."""
        found = now.offsets_for_time(now.partitions, self.timestamp_ms)
        # The log moves between the two requests, and an open transaction holds `latest` back: an offset outside
        # the bounds would look like data loss. Nearer than asked skips nothing.
        return {one: min(max(found[one], now.bounds[one].earliest), now.bounds[one].latest) for one in now.partitions}

    def to_json(self) -> dict[str, Any]:
        """With its time."""
        return {"kind": self.kind, "timestamp_ms": self.timestamp_ms}


@dataclass(frozen=True, slots=True)
class AtOffsets(Start):
    """See :meth:`Start.at_offsets`."""

    kind: ClassVar[str] = "offsets"
    offsets: Mapping[TopicPartition, int] = field(hash=False)

    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Those that were given, and the earliest of all others."""
        _check_explicit_offsets(self.offsets, now)
        return {**now.earliest, **self.offsets}

    def to_json(self) -> dict[str, Any]:
        """With its offsets."""
        offsets = [[one.topic, one.partition, offset] for one, offset in sorted(self.offsets.items())]
        return {"kind": self.kind, "offsets": offsets}


@dataclass(frozen=True, slots=True)
class FromCheckpoint(Start):
    """See :meth:`Start.from_checkpoint`."""

    kind: ClassVar[str] = "checkpoint"
    checkpoint_location: str
    batch_id: int
    storage_options: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)

    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Where the other stream stood, and the earliest of partitions that it did not read."""
        if now.checkpoint_offsets is None:
            raise ValueError("a start from a checkpoint needs the next offsets of that checkpoint")
        topics = {topic_partition.topic for topic_partition in now.partitions}
        stood = {one: offset for one, offset in now.checkpoint_offsets.items() if one.topic in topics}
        return {**now.earliest, **stood}

    def to_json(self) -> dict[str, Any]:
        """With its place; the options of a store may be secret."""
        return {"kind": self.kind, "checkpoint_location": self.checkpoint_location, "batch_id": self.batch_id}


def _check_explicit_offsets(offsets: Mapping[TopicPartition, int], now: LogsNow) -> None:
    unread = [str(one) for one in sorted(set(offsets) - set(now.partitions))]
    if unread:
        raise ConfigurationError(
            f"the start offsets name partitions that this source does not read: {listed(unread)}. "
            "Correct them, or the source's topics."
        )
    below, above = [], []
    for topic_partition, offset in sorted(offsets.items()):
        log = now.bounds[topic_partition]
        fault = f"partition {topic_partition}: start offset {offset}, but the log holds [{log.earliest}, {log.latest})"
        if offset < log.earliest:
            below.append(fault)
        elif offset > log.latest:
            above.append(fault)
    if above:
        raise ConfigurationError(
            f"start offsets above the end of the log: {listed(above)}. Give offsets up to it, or use Start.latest()."
        )
    if below:
        raise DataLoss(
            f"Kafka no longer has the start offsets asked for: {listed(below)}. Give offsets that it has, or use "
            "Start.earliest()."
        )
