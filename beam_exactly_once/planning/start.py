"""Where a stream begins that has no checkpoint yet. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from beam_exactly_once.errors import ConfigurationError, DataLoss, NewerFormat
from beam_exactly_once.offsets import LogBounds, NextOffsets, TopicPartition
from beam_exactly_once.planning.limits import is_count
from beam_exactly_once.planning.ranges import listed

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stream begins that has no checkpoint yet. Once it has one, the checkpoint alone decides.

    Made by :meth:`earliest`, :meth:`latest`, :meth:`at_timestamp`, :meth:`at_offsets` or :meth:`from_checkpoint`.
    """

    kind: Literal["earliest", "latest", "timestamp", "offsets", "checkpoint"]
    timestamp_ms: int | None = None
    offsets: Mapping[TopicPartition, int] = field(default_factory=dict, hash=False)
    checkpoint_location: str | None = None
    batch_id: int | None = None
    store_options: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)

    @classmethod
    def earliest(cls) -> Start:
        """From the first offset that Kafka still has."""
        return cls("earliest")

    @classmethod
    def latest(cls) -> Start:
        """Only what arrives after the first plan."""
        return cls("latest")

    @classmethod
    def at_timestamp(cls, timestamp: int | datetime.datetime) -> Start:
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
        return cls("timestamp", timestamp_ms=timestamp)

    @classmethod
    def at_offsets(cls, offsets: Mapping[TopicPartition, int]) -> Start:
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
        return cls("offsets", offsets=dict(offsets))

    @classmethod
    def from_checkpoint(
        cls, checkpoint_location: str, batch_id: int, store_options: Mapping[str, Any] | None = None
    ) -> Start:
        """From where another stream stood after its batch ``batch_id``.

        Args:
            checkpoint_location: of the other stream.
            batch_id: a batch whose marker it still has.
            store_options: of the store of that location.

        Raises:
            ConfigurationError: the location is empty, or the batch id no integer of at least 0.
        """
        if not checkpoint_location:
            raise ConfigurationError("the checkpoint to start from is an empty string: give its location")
        if not is_count(batch_id):
            raise ConfigurationError(f"a batch id is an integer of at least 0, got {batch_id!r}")
        options = None if store_options is None else dict(store_options)
        return cls("checkpoint", checkpoint_location=checkpoint_location, batch_id=batch_id, store_options=options)

    def to_json(self) -> dict[str, Any]:
        """``{"kind": …}`` and what that kind needs, less store options; :meth:`from_json` reads it back."""
        if self.kind == "timestamp":
            return {"kind": self.kind, "timestamp_ms": self.timestamp_ms}
        if self.kind == "checkpoint":
            return {"kind": self.kind, "checkpoint_location": self.checkpoint_location, "batch_id": self.batch_id}
        if self.kind == "offsets":
            offsets = [[one.topic, one.partition, offset] for one, offset in sorted(self.offsets.items())]
            return {"kind": self.kind, "offsets": offsets}
        return {"kind": self.kind}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Start:
        """The inverse of :meth:`to_json`.

        Raises:
            NewerFormat: a kind that this version does not know.
        """
        match stored["kind"]:
            case "earliest" | "latest" as kind:
                return cls(kind)
            case "timestamp":
                return cls.at_timestamp(stored["timestamp_ms"])
            case "offsets":
                return cls.at_offsets({TopicPartition(topic, part): at for topic, part, at in stored["offsets"]})
            case "checkpoint":
                return cls.from_checkpoint(stored["checkpoint_location"], stored["batch_id"])
            case unknown:
                raise NewerFormat(f"this version does not know the start {unknown!r}: upgrade beam_exactly_once")


def first_offsets(
    start: Start,
    partitions: Sequence[TopicPartition],
    bounds: Mapping[TopicPartition, LogBounds],
    offsets_for_time: Callable[[Sequence[TopicPartition], int], Mapping[TopicPartition, int]],
    checkpoint_offsets: NextOffsets | None,
) -> dict[TopicPartition, int]:
    """The next offsets of a stream that has read nothing yet.

    Args:
        start: where to begin.
        partitions: all that the source reads.
        bounds: of each of them.
        offsets_for_time: ``KafkaLog.offsets_for_time``; called only for a timestamp.
        checkpoint_offsets: the next offsets of the checkpoint that ``start`` names, else None. They are passed on
            unjudged, also for partitions that Kafka lost of a topic that is read: :func:`plan_ranges` judges loss.

    Raises:
        DataLoss: an explicit offset lies below the partition's earliest.
        ConfigurationError: an explicit offset lies above the partition's latest, or in a partition that is not read.
    """
    earliest = {topic_partition: bounds[topic_partition].earliest for topic_partition in partitions}
    if start.kind == "earliest":
        return earliest
    if start.kind == "latest":
        return {topic_partition: bounds[topic_partition].latest for topic_partition in partitions}
    if start.kind == "timestamp":
        assert start.timestamp_ms is not None
        found = offsets_for_time(partitions, start.timestamp_ms)
        # The log moves between the two requests, and an open transaction holds `latest` back: an offset outside
        # the bounds would look like data loss. Nearer than asked skips nothing.
        return {one: min(max(found[one], bounds[one].earliest), bounds[one].latest) for one in partitions}
    if start.kind == "offsets":
        _check_explicit_offsets(start.offsets, partitions, bounds)
        return {**earliest, **start.offsets}
    if checkpoint_offsets is None:
        raise ValueError("a start from a checkpoint needs the next offsets of that checkpoint")
    topics = {topic_partition.topic for topic_partition in partitions}
    return {**earliest, **{one: offset for one, offset in checkpoint_offsets.items() if one.topic in topics}}


def _check_explicit_offsets(
    offsets: Mapping[TopicPartition, int],
    partitions: Sequence[TopicPartition],
    bounds: Mapping[TopicPartition, LogBounds],
) -> None:
    unread = [str(one) for one in sorted(set(offsets) - set(partitions))]
    if unread:
        raise ConfigurationError(
            f"the start offsets name partitions that this source does not read: {listed(unread)}. "
            "Correct them, or the source's topics."
        )
    below, above = [], []
    for topic_partition, offset in sorted(offsets.items()):
        log = bounds[topic_partition]
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
