"""Which offsets the next batch reads: next offsets + bounds + limits -> ranges.

Everything here is pure and deterministic: no Kafka, no store, no clock. Two drivers with the same arguments
make the same plan, and the plan says all that it decided: what to read, what Kafka had already lost, and where
each partition stands after it.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from beam_exactly_once.errors import ConfigurationError, DataLoss, NewerFormat
from beam_exactly_once.offsets import LogBounds, NextOffsets, OffsetRange, TopicPartition

_NAMED_MAX = 10
"""Partitions that an error names before it only counts: enough to see the pattern, short enough to read."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much one batch of one source may, and must, read. What is None does not limit.

    Offsets count, not records: in a compacted or transactional topic a batch holds fewer records than offsets.

    Args:
        max_offsets: at most so many offsets a batch.
        max_bytes: at most about so many bytes a batch, judged by the average size of the records read before.
            A batch takes at least one offset, however large its record.
        min_offsets: while fewer are available, wait for more …
        max_delay_s: … but at most so many seconds. Needed with ``min_offsets``, and only then.

    Raises:
        ConfigurationError: a limit is no positive number, or the limits contradict each other.
    """

    max_offsets: int | None = None
    max_bytes: int | None = None
    min_offsets: int | None = None
    max_delay_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_offsets", "max_bytes", "min_offsets"):
            limit = getattr(self, name)
            if limit is not None and not (_is_count(limit) and limit > 0):
                raise ConfigurationError(f"{name} must be an integer above 0, or None for no limit; got {limit!r}")
        if self.max_delay_s is not None and not 0 < self.max_delay_s < math.inf:
            raise ConfigurationError(f"max_delay_s must be a positive number of seconds, got {self.max_delay_s!r}")
        if (self.min_offsets is None) != (self.max_delay_s is None):
            raise ConfigurationError(
                f"min_offsets={self.min_offsets} and max_delay_s={self.max_delay_s} need each other: without a delay a "
                "quiet topic would never be read. Give both, or neither."
            )
        if self.min_offsets is not None and self.max_offsets is not None and self.min_offsets > self.max_offsets:
            raise ConfigurationError(
                f"min_offsets={self.min_offsets} is above max_offsets={self.max_offsets}: no batch could satisfy both"
            )


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
        if not _is_count(timestamp):
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
            if not _is_count(offset):
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
        if not _is_count(batch_id):
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
            f"the start offsets name partitions that this source does not read: {_listed(unread)}. "
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
            f"start offsets above the end of the log: {_listed(above)}. Give offsets up to it, or use Start.latest()."
        )
    if below:
        raise DataLoss(
            f"Kafka no longer has the start offsets asked for: {_listed(below)}. Give offsets that it has, or use "
            "Start.earliest()."
        )


@dataclass(frozen=True, slots=True)
class PlannedRanges:
    """What one batch of one source reads, and where the source stands after it.

    Attributes:
        ranges: what to read: not empty, sorted, at most one a partition.
        lost: offsets that were not read and that Kafka no longer has; sorted. Empty when loss is an error.
        next_offsets: of every known partition after the batch. Partitions that are not read stand where they stood.
    """

    ranges: tuple[OffsetRange, ...]
    lost: tuple[OffsetRange, ...]
    next_offsets: NextOffsets


def plan_ranges(
    next_offsets: NextOffsets,
    bounds: Mapping[TopicPartition, LogBounds],
    limits: BatchLimits,
    *,
    average_record_bytes: float,
    waited_s: float,
    fail_on_data_loss: bool = True,
) -> PlannedRanges:
    """Choose what the next batch reads.

    The limit is shared in proportion to how far each partition lags, at least one offset each. A limit below
    the number of lagging partitions goes round: one offset each, to the next ones in turn at every batch.

    Args:
        next_offsets: where the source stands.
        bounds: of every partition to read. One that is not in ``next_offsets`` is new: it is read from its earliest.
        limits: of this source.
        average_record_bytes: of what was read before; turns ``limits.max_bytes`` into offsets. 0 if nothing is
            known: then ``max_bytes`` does not limit.
        waited_s: seconds since the source's last batch was planned.
        fail_on_data_loss: False goes on behind what Kafka no longer has, and names it in ``lost``.

    Raises:
        DataLoss: offsets that were not read are gone from Kafka. Names each partition, how many, and the way out.
    """
    lost, losses = _find_loss(next_offsets, bounds)
    if losses and fail_on_data_loss:
        raise DataLoss(
            f"Kafka no longer has offsets that were not read: {_listed(losses)}. To go on without them, "
            "set fail_on_data_loss=False: they are then recorded as lost. To start over, use a new checkpoint_location."
        )
    positions = {one: log.position(next_offsets.get(one)) for one, log in bounds.items()}
    takes = _takes(positions, bounds, limits, average_record_bytes, waited_s)
    ranges = tuple(
        OffsetRange(one.topic, one.partition, positions[one], positions[one] + take)
        for one, take in sorted(takes.items())
        if take
    )
    after = {**next_offsets, **positions, **{planned.topic_partition: planned.stop for planned in ranges}}
    return PlannedRanges(ranges, tuple(lost), after)


def _find_loss(
    next_offsets: NextOffsets, bounds: Mapping[TopicPartition, LogBounds]
) -> tuple[list[OffsetRange], list[str]]:
    """Offsets that should be read next and that Kafka no longer has, as ranges and for people."""
    topics = {topic_partition.topic for topic_partition in bounds}
    ranges: list[OffsetRange] = []
    sentences: list[str] = []
    for one, next_offset in sorted(next_offsets.items()):
        log = bounds.get(one)
        if log is None:
            # A topic that is not read at all any more is the user's choice; a hole in one that is read is not.
            if one.topic in topics:
                sentences.append(f"partition {one}, next offset {next_offset}, is no longer among those read")
        elif next_offset < log.earliest:
            ranges.append(OffsetRange(one.topic, one.partition, next_offset, log.earliest))
            sentences.append(f"partition {one} lost {ranges[-1].size} offsets, [{next_offset}, {log.earliest})")
        elif next_offset > log.latest:
            ranges.append(OffsetRange(one.topic, one.partition, log.latest, next_offset))
            sentences.append(
                f"partition {one} ends at {log.latest}, {ranges[-1].size} offsets below the next offset {next_offset} "
                "(the log was truncated, or the topic made anew, or an isolation_level of read_committed is new and a "
                "transaction is open)"
            )
    return ranges, sentences


def _takes(
    positions: Mapping[TopicPartition, int],
    bounds: Mapping[TopicPartition, LogBounds],
    limits: BatchLimits,
    average_record_bytes: float,
    waited_s: float,
) -> dict[TopicPartition, int]:
    """How many offsets to read of each lagging partition."""
    lags = {one: log.latest - positions[one] for one, log in sorted(bounds.items()) if log.latest > positions[one]}
    available = sum(lags.values())
    if available < (limits.min_offsets or 0) and waited_s < (limits.max_delay_s or 0):
        return {}
    limit = available if limits.max_offsets is None else min(available, limits.max_offsets)
    if limits.max_bytes is not None and average_record_bytes > 0:
        limit = min(limit, max(1, int(limits.max_bytes / average_record_bytes)))
    if limit < len(lags):
        return _one_each(lags, limit, turn=sum(positions.values()))
    return _in_proportion(lags, limit)


def _one_each(lags: Mapping[TopicPartition, int], limit: int, turn: int) -> dict[TopicPartition, int]:
    """One offset of each of ``limit`` partitions.

    ``turn`` is the sum of all positions. Every such batch raises it by ``limit``, so the next batch goes on behind
    the partitions of this one: nobody starves, and nothing besides the positions need be remembered.
    """
    in_order = list(lags)
    return {in_order[(turn + step) % len(in_order)]: 1 for step in range(limit)}


def _in_proportion(lags: Mapping[TopicPartition, int], limit: int) -> dict[TopicPartition, int]:
    """Share ``limit``, at least ``len(lags)`` and at most the sum of ``lags``: one each, the rest by largest remainder.

    In whole numbers throughout: offsets exceed what a float holds exactly.
    """
    spare = limit - len(lags)
    beyond_first = sum(lags.values()) - len(lags)
    if spare == beyond_first:
        return dict(lags)
    takes: dict[TopicPartition, int] = {}
    remainders: dict[TopicPartition, int] = {}
    for one, lagging in lags.items():
        quotient, remainders[one] = divmod(spare * (lagging - 1), beyond_first)
        takes[one] = 1 + quotient
    # The sort is stable and `lags` is in the order of partitions: ties fall to the first.
    by_remainder = sorted(remainders, key=lambda one: remainders[one], reverse=True)
    for one in by_remainder[: limit - sum(takes.values())]:
        takes[one] += 1
    return takes


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def _listed(sentences: Sequence[str]) -> str:
    """On one line, since a runner's text of an error keeps only the first."""
    more = f"; and {len(sentences) - _NAMED_MAX} more" if len(sentences) > _NAMED_MAX else ""
    return "; ".join(sentences[:_NAMED_MAX]) + more
