"""``FollowRanges``: the splittable DoFn that reads partitions on and on, in a pipeline of Beam's own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock, now_ms
from beam_exactly_once.errors import DataLoss, UnknownTopic, leaving_step
from beam_exactly_once.kafka import Chunk, KafkaSettings
from beam_exactly_once.kafka.topic_watch import TopicWatch
from beam_exactly_once.logs.opening import LogSettings
from beam_exactly_once.offsets import OffsetRange, TopicPartition
from beam_exactly_once.planning.event_time import EventTime
from beam_exactly_once.planning.time_notes import TimesOf
from beam_exactly_once.topics import WAY_OUT, OnDataLoss
from beam_exactly_once.transforms.reading.group_commits import COMMITS, Group
from beam_exactly_once.transforms.reading.growing_range import (
    NO_END,
    GrowingRangeCoder,
    GrowingRangeTracker,
    backlog,
    cut_to_size,
    saw_end,
)
from beam_exactly_once.transforms.reading.one_watermark import OneWatermark
from beam_exactly_once.transforms.reading.partition_time import PartitionTime, PartitionTimes, beam_time
from beam_exactly_once.transforms.reading.range_group import PlannedRange, RangeGroup
from beam_exactly_once.transforms.reading.read_ranges import MAX_INITIAL_SPLIT_OFFSETS, ReadRange, cut_lost

QUIET_POLL_S = 1.0
"""How long a partition rests that had nothing for :data:`QUIET_S`: many topics have many partitions that nobody writes to."""
QUIET_S = 10.0
MAX_PROCESS_S = 1.0
MAX_PROCESS_RECORDS = 50_000
MAX_PROCESS_BYTES = 32 << 20
"""Whichever comes first ends a turn: what a bundle emits goes on only when the bundle ends."""
SHORTER_DOUBT_S = 5.0
"""How long a log must be shorter than what was read of it before it is believed: a deposed leader may still answer."""

_LOGGER = logging.getLogger(__name__)


class _GrowingRanges(RestrictionProvider):
    """The element is a group of one range; its parts are the restrictions."""

    def create_tracker(self, restriction: OffsetRange) -> GrowingRangeTracker:
        return GrowingRangeTracker(restriction)

    def initial_restriction(self, element: RangeGroup) -> OffsetRange:
        (planned,) = element.ranges
        return planned.offsets

    def split(self, element: RangeGroup, restriction: OffsetRange) -> list[OffsetRange]:
        return [restriction] if restriction.stop == NO_END else cut_to_size(restriction, MAX_INITIAL_SPLIT_OFFSETS)

    def restriction_size(self, element: RangeGroup, restriction: OffsetRange) -> int:
        return backlog(restriction)

    def restriction_coder(self) -> GrowingRangeCoder:
        return GrowingRangeCoder()

    def truncate(self, element: RangeGroup, restriction: OffsetRange) -> OffsetRange | None:
        """Where a pipeline is drained: nothing more of a range without an end; one that has an end is read."""
        return None if restriction.stop == NO_END else restriction


@dataclass(frozen=True, slots=True)
class ReadTimes:
    """When records of a read happened: by the clock as they are read, or as ``event_time`` says."""

    event_time: EventTime | None = None
    times_of: TimesOf | None = None
    """Of a chunk, if there is an ``event_time``."""
    together: OneWatermark | None = None
    """What partitions say together, where each may not say its own watermark."""

    def of_chunk(self, chunk: Chunk, at_ms: int) -> tuple[int, int | None]:
        """When the first record of a chunk happened that is read now, and how far the watermark comes by it; None leaves it."""
        if self.event_time is None or self.times_of is None:
            return at_ms, at_ms
        times = self.times_of(chunk)
        counted = times[times <= self.event_time.latest_ms(at_ms)]
        return int(times.min()), self.behind(int(counted.max())) if len(counted) else None

    def of_silence(self, quiet_since_ms: int, at_ms: int) -> int | None:
        """Up to when the watermark comes where there is nothing to read; None leaves it."""
        if self.event_time is None:
            return at_ms
        idle_s = self.event_time.idle_s
        is_idle = idle_s is not None and at_ms - quiet_since_ms >= int(idle_s * 1000)
        return self.behind(at_ms) if is_idle else None

    def behind(self, at_ms: int) -> int:
        """The watermark where a record of this time was the latest."""
        return at_ms - int((0.0 if self.event_time is None else self.event_time.out_of_order_s) * 1000)


class _Turn:
    """How much of a turn is over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_s = clock.monotonic_s()
        self._records = self._bytes = 0

    def count(self, chunk: Chunk) -> None:
        """It was read."""
        self._records += len(chunk)
        self._bytes += chunk.bytes

    @property
    def is_over(self) -> bool:
        """Whether it has all the records or bytes that one may have, or lasts as long as one may."""
        return (
            self._records >= MAX_PROCESS_RECORDS
            or self._bytes >= MAX_PROCESS_BYTES
            or self._clock.monotonic_s() - self._began_s >= MAX_PROCESS_S
        )


def made_anew(topics: Sequence[str]) -> DataLoss:
    """The error for topics that are not those that were found, where nothing may be lost."""
    return DataLoss(
        f"{', '.join(topics)}: deleted and made anew while it was read, so what the old topic still had is lost. Submit the "
        "pipeline anew to read the new one, or give on_data_loss='skip'."
    )


class FollowRanges(ReadRange):
    """Claims and emits chunks, at the times of their first records, until a turn is over; then puts the rest off.

    It ends by itself after a second, or so many records or bytes, or where nothing is left to read. A client is kept from turn to
    turn, for topics that are those it was opened for.
    """

    def __init__(
        self, settings: LogSettings, on_data_loss: OnDataLoss, times: ReadTimes, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        super().__init__(settings, "", on_data_loss)
        self._times = times
        self._clock = clock
        self._topic_ids: dict[str, str | None] = {}
        self._shorter_since_s: dict[TopicPartition, float] = {}
        self._watch = TopicWatch("skip")  # what is an error is said here: a watch speaks of batches
        self._lost_partitions = beam.metrics.Metrics.counter("beam_exactly_once", "partitions_lost")
        self._lost = beam.metrics.Metrics.counter("beam_exactly_once", "offsets_lost")

    def finish_bundle(self) -> None:
        """Nothing: what is emitted was proved before."""

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        group: RangeGroup,
        tracker: Any = beam.DoFn.RestrictionParam(_GrowingRanges()),  # noqa: B008 (Beam's way)
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(PartitionTimes()),  # noqa: B008
    ) -> Iterator[Any]:
        """One turn."""
        with leaving_step():
            (planned,) = group.ranges
            yield from self._turn(planned, tracker, watermark)

    def _turn(self, planned: PlannedRange, tracker: Any, watermark: PartitionTime) -> Iterator[Any]:
        self._renew_client(planned)
        if self._times.together is not None:
            self._times.together.begun(planned, watermark.get_estimator_state()[0])
            watermark.say_no_more_than(partial(self._times.together.least, planned))
        turn, chunks_at_once = _Turn(self._clock), 1
        latest = position = tracker.current_restriction().start
        while position < tracker.current_restriction().stop:
            if latest <= position:
                found = self._latest(planned, position)
                if found is None:
                    self._pass_over(planned, position, tracker)
                    return
                latest = found
            if latest <= position or turn.is_over:
                tracker.defer_remainder(Duration(self._silence(watermark) if latest <= position else 0))
                return
            taken = self._take(planned, position, min(latest, tracker.current_restriction().stop), chunks_at_once, turn)
            if taken is None:
                self._pass_over(planned, position, tracker)
                return
            chunks_at_once *= 2
            for chunk, lost in taken:
                is_whole = tracker.try_claim(chunk.stop - 1)
                if not is_whole:  # a split took the tail; no other split can follow
                    stop = tracker.current_restriction().stop
                    chunk, lost = chunk.cut(stop), [cut_lost(one, stop) for one in lost]
                position = chunk.stop
                self._record(lost)
                if len(chunk):
                    at_ms = now_ms(self._clock)
                    first_ms, reached_ms = self._times.of_chunk(chunk, at_ms)
                    yield TimestampedValue(chunk, beam_time(first_ms))
                    watermark.saw_records(at_ms)
                    _advance(watermark, reached_ms)
                if not is_whole:
                    return

    def _take(
        self, planned: PlannedRange, position: int, stop: int, max_chunks: int, turn: _Turn
    ) -> list[tuple[Chunk, list[OffsetRange]]] | None:
        """The next chunks, each with what is lost in it; None if the topic is another one now, and may be passed over.

        An id never comes back: a topic that has its id behind the reads had it all the while.
        """
        taken: list[tuple[Chunk, list[OffsetRange]]] = []
        try:
            while position < stop and len(taken) < max_chunks and not turn.is_over:
                chunk, lost = self._next(planned, position, stop)
                turn.count(chunk)
                position = chunk.stop
                taken.append((chunk, lost))
        except (DataLoss, UnknownTopic):
            if not self._is_gone(planned):
                raise
            return None
        return None if self._is_gone(planned) else taken

    def _silence(self, watermark: PartitionTime) -> float:
        """Let the watermark go on where nothing is left to read; returns how long to rest, in seconds."""
        at_ms, quiet_since_ms = now_ms(self._clock), watermark.quiet_since_ms()
        _advance(watermark, self._times.of_silence(quiet_since_ms, at_ms))
        return self._settings.rest_s if at_ms - quiet_since_ms < QUIET_S * 1000 else QUIET_POLL_S

    def _renew_client(self, planned: PlannedRange) -> None:
        """What a client has fetched ahead may be of a topic that is no longer there."""
        topic, topic_id = planned.offsets.topic, planned.topic_id
        if self._topic_ids.get(topic, topic_id) != topic_id:
            self.teardown()
            self._topic_ids.clear()
        self._topic_ids[topic] = topic_id

    def _latest(self, planned: PlannedRange, position: int) -> int | None:
        """Up to where there is something to read; None if the topic is gone, or another one now, and may be passed over.

        Raises:
            DataLoss, UnknownTopic: it may not; or the log has become shorter than what was read of it.
        """
        place = planned.offsets.topic_partition
        log = self._log(planned.isolation_level)
        try:
            latest = log.bounds([place])[place].latest
        except UnknownTopic:
            if self._on_data_loss == "fail":
                raise
            return None
        if self._times.together is None:  # else nothing is split off: nobody would know when that is given out
            saw_end(place, latest)
        if latest != position and self._is_gone(planned):
            return None
        if latest >= position:
            self._shorter_since_s.pop(place, None)
            return latest
        if log.ends([place])[place] >= position:  # open transactions hide what was read before
            return latest
        now_s = self._clock.monotonic_s()
        if now_s - self._shorter_since_s.setdefault(place, now_s) >= SHORTER_DOUBT_S:
            raise DataLoss(
                f"partition {place} was read up to offset {position}, and its log ends at {latest}: records that were read are "
                f"gone, and others will get their offsets. {WAY_OUT}"
            )
        return latest

    def _is_gone(self, planned: PlannedRange) -> bool:
        """Whether the topic is not the one that was found any more, and may be passed over. Asks the brokers.

        Raises:
            DataLoss, UnknownTopic: it is not, and may not.
        """
        topic = planned.offsets.topic
        self._watch.begin()
        try:
            self._watch.look(self._log(planned.isolation_level), {topic: planned.topic_id})
        except UnknownTopic:
            if self._on_data_loss == "fail":
                raise
            return True
        if self._watch.is_replaced(topic) and self._on_data_loss == "fail":
            raise made_anew([topic])
        return self._watch.is_replaced(topic)

    def _pass_over(self, planned: PlannedRange, position: int, tracker: Any) -> None:
        """Record that the rest is lost. If another topic has the name, who looks for partitions finds that one."""
        stop = tracker.current_restriction().stop
        if position < stop:  # else a split took it just now
            tracker.try_claim(stop - 1)
        if self._times.together is not None:
            self._times.together.left(planned)
        self._lost_partitions.inc()
        _LOGGER.warning(
            "topic %s is gone, or another one now: what it had of partition %s from offset %d on is lost",
            planned.offsets.topic,
            planned.offsets.topic_partition,
            position,
        )

    def _record(self, lost: list[OffsetRange]) -> None:
        for one in lost:
            if not one.is_empty:
                self._lost.inc(one.size)
                _LOGGER.warning("the log no longer has the offsets %s: the read goes on behind them", one)


class FollowAndCommit(FollowRanges):
    """The same, and tells a consumer group how far it came, when the runner has said that a turn is safe.

    Of the readers of one partition the one whose range has no end tells. Others read what was split off below it.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        on_data_loss: OnDataLoss,
        times: ReadTimes,
        group_id: str,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(settings, on_data_loss, times, clock)
        self._group = Group(settings, group_id)

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        group: RangeGroup,
        finalizer: Any = beam.DoFn.BundleFinalizerParam,  # before the others: Beam gives those by name, and it by position
        tracker: Any = beam.DoFn.RestrictionParam(_GrowingRanges()),  # noqa: B008 (Beam's way)
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(PartitionTimes()),  # noqa: B008
    ) -> Iterator[Any]:
        """One turn."""
        whole = tracker.current_restriction()
        yield from super().process(group, tracker, watermark)
        position, commits = tracker.current_restriction().stop, COMMITS.get(self._group)
        has_moved = whole.stop == NO_END and whole.start < position < NO_END
        if has_moved or commits.are_due:
            finalizer.register(partial(commits.finished, {whole.topic_partition: position} if has_moved else {}))


def _advance(watermark: PartitionTime, to_ms: int | None) -> None:
    if to_ms is not None:
        watermark.advance(to_ms)
