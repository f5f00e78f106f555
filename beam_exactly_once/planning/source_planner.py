"""Plans one source, batch after batch: where it stands, what its log has, what to read next."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence

from beam_exactly_once.checkpoint import Checkpoint, Marker, SourceCommit, SourcePlan
from beam_exactly_once.checkpoint.layout import SOURCES
from beam_exactly_once.checkpoint.offsets_json import next_offsets_from_json, next_offsets_to_json
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.checkpoint.source_times import SourceTimes
from beam_exactly_once.clock import Clock
from beam_exactly_once.errors import DataLoss, PipelineChanged
from beam_exactly_once.logs import HeldLog
from beam_exactly_once.logs.opening import open_log
from beam_exactly_once.offsets import LogBounds, NextOffsets, OffsetRange, TopicPartition, lag
from beam_exactly_once.planning.continuing import offsets_behind
from beam_exactly_once.planning.ranges import PlannedRanges, plan_ranges
from beam_exactly_once.planning.source import LogSource
from beam_exactly_once.planning.start import LogsNow
from beam_exactly_once.planning.topic_view import TopicView
from beam_exactly_once.planning.watermarks import Watermark, next_watermark, quiet_partitions
from beam_exactly_once.topics import (
    WAY_OUT,
    ReplacedTopic,
    TopicIds,
    dropped_message,
    gone_message,
    ids_of,
    replaced_message,
    replaced_topics,
    unread_of,
)

RECORD_BYTES_GUESS = 1024.0
"""Average record size where nothing could be measured."""
SAMPLE_RECORDS = 100
"""Records that are read to learn their size, before the first batch of a source with a limit in bytes."""
MAX_COUNTED_RECORDS = 1000
"""Records that are counted at once."""
MAX_COUNTED_PARTITIONS = 100
"""Partitions whose records are counted ahead for one plan: those that lag most."""

_LOGGER = logging.getLogger(__name__)


class SourcePlanner:
    """One source of a running stream. Owns a client of its log; :meth:`close` it.

    Opening it asks the log for its partitions, so that a wrong address or topic fails before anything is claimed.

    Args:
        spec: the source.
        clock: of the waits.
        may_wait: whether a pattern that matches no topic yet is waited for, instead of being an error.

    Raises:
        UnknownTopic: a topic does not exist, or no topic matches.
    """

    def __init__(self, spec: LogSource, clock: Clock, *, may_wait: bool) -> None:
        self.spec = spec
        self._clock = clock
        self._log = open_log(spec.settings)
        self._target: dict[TopicPartition, int] | None = None
        """Where to stop, for who reads what is there now."""
        self._next_offsets: dict[TopicPartition, int] = {}
        self._topic_ids: dict[str, str] = {}
        self._times = None if spec.event_time is None else SourceTimes()
        self._average_record_bytes: float | None = None
        self._is_sparse = False
        """Whether most of the offsets that were read last had no record."""
        self._planned_at_s = clock.monotonic_s()
        self._gone: frozenset[str] = frozenset()
        self._stream_id = ""
        try:
            self._kafka = TopicView(spec, self._log, clock, may_wait=may_wait)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the client."""
        self._log.close()

    @property
    def lag(self) -> dict[TopicPartition, int]:
        """Offsets not read yet of each partition, as of the last plan."""
        return lag(self._next_offsets, self._bounds)

    @property
    def times(self) -> SourceTimes | None:
        """What is remembered of the times of its records; None of a source that never had event time."""
        return self._times

    @property
    def _bounds(self) -> Mapping[TopicPartition, LogBounds]:
        """What there is to read, up to the target."""
        if self._target is None:
            return self._kafka.bounds
        target = self._target
        return {one: _up_to(target[one], log) for one, log in self._kafka.bounds.items() if one in target}

    def hold(self, stream_id: str) -> None:
        """Keep what the log has, before it is decided where the source begins: one that deletes nothing that a stream may read.

        Raises:
            ConfigurationError: somebody has released the log for this source.
        """
        self._stream_id = stream_id
        if isinstance(self._log, HeldLog):
            self._hold(self._log)

    def _hold(self, log: HeldLog) -> None:
        """Hold first, then look: what may be deleted without regard to this source is known then, and begins below it."""
        while True:
            least = log.hold(self._stream_id, self.spec.name)
            if not self._kafka.look():
                break
        self._kafka.begin_at(least)

    def let_go(self, checkpoint: Checkpoint) -> None:
        """Tell the log what no start of the stream, and none that goes on from its checkpoint, can read again."""
        if not isinstance(self._log, HeldLog):
            return
        oldest = checkpoint.oldest_marker()
        stood = None if oldest is None else oldest.sources.get(self.spec.name)
        if oldest is None or stood is None:
            return
        present = ids_of(self._kafka.topics)
        is_same = {topic for topic, id_ in stood.topic_ids.items() if present.get(topic) == id_}
        finished = {one: offset for one, offset in stood.next_offsets.items() if one.topic in is_same}
        self._log.let_go(self._stream_id, self.spec.name, oldest.batch_id, finished)

    def take_position(
        self, checkpoint: Checkpoint, newest: Marker | None, elsewhere: SourceCommit | None = None
    ) -> None:
        """Stand where the newest marker says; a source that it does not know stands at its first offsets.

        First offsets are recorded in the checkpoint, so that ``latest`` means the same at every start. What was read and is not
        named any more is said in the log.

        Args:
            checkpoint: the stream's own.
            newest: its newest marker; None while it has no batch.
            elsewhere: where the source stood in the checkpoint that the stream goes on from; then ``start`` says nothing.

        Raises:
            PipelineChanged: the checkpoint knows this name as something else.
        """
        if newest is not None and self.spec.name in newest.sources:
            committed = newest.sources[self.spec.name]
            self.advance(committed)
            self.measured(committed.records_read, committed.bytes_read, self._offsets_of(checkpoint, newest))
            self._note_dropped()
            return
        first = self._first() if elsewhere is None else self.behind(elsewhere)
        recorded = self._recorded(checkpoint, first, None if elsewhere is None else elsewhere.event_time)
        self._next_offsets = next_offsets_from_json(recorded["first_offsets"])
        self._topic_ids = dict(recorded.get("topic_ids", {}))
        if "event_time" in recorded:
            self._times = SourceTimes.from_json(recorded["event_time"])
        self._note_dropped()

    def _offsets_of(self, checkpoint: Checkpoint, newest: Marker) -> int:
        """How many offsets the newest batch read, where that matters. One that was passed over shows nothing."""
        plan = checkpoint.read_plan(newest.batch_id) if self._counts_ahead and newest.outcome == "committed" else None
        return 0 if plan is None else sum(one.size for one in plan.ranges.get(self.spec.name, ()))

    def behind(self, elsewhere: SourceCommit) -> SourcePlan:
        """A plan that reads nothing, and stands where the source stood in another checkpoint."""
        present = ids_of(self._kafka.topics)
        stood_in = {one: id_ for one, id_ in elsewhere.topic_ids.items() if one in present}
        return self._standing(offsets_behind(elsewhere, self._now()), {**present, **stood_in})

    def record(self, checkpoint: Checkpoint, first: SourcePlan) -> None:
        """Record that the stream's first batch, which is decided, stands there.

        Raises:
            PipelineChanged: the checkpoint knows otherwise.
        """
        recorded = self._recorded(checkpoint, first)
        if next_offsets_from_json(recorded["first_offsets"]) != first.next_offsets:
            raise PipelineChanged(
                f"{checkpoint.store.uri} has recorded that source {self.spec.name!r} begins elsewhere, at a start that did not "
                "continue from another stream's state. Start with an empty checkpoint_location."
            )

    def _first(self) -> SourcePlan:
        return self._standing(self.spec.start.first_offsets(self._now()), ids_of(self._kafka.topics))

    def _now(self) -> LogsNow:
        return LogsNow.of(self._log, self._kafka.partitions, self._kafka.bounds)

    def _standing(self, next_offsets: NextOffsets, topic_ids: TopicIds) -> SourcePlan:
        return SourcePlan((), (), next_offsets, topic_ids, isolation_level=self.spec.settings.isolation_level)

    def _recorded(self, checkpoint: Checkpoint, first: SourcePlan, times: SourceTimes | None = None) -> Json:
        """What is recorded of the source: that it begins there, unless something is recorded already."""
        recorded = checkpoint.create_definition(
            SOURCES,
            self.spec.name,
            {
                **self.spec.definition,
                "first_offsets": next_offsets_to_json(first.next_offsets),
                "topic_ids": dict(first.topic_ids),
                **({} if times is None else {"event_time": times.to_json()}),
            },
        )
        if recorded.get("kind") != self.spec.definition["kind"]:
            raise PipelineChanged(
                f"{checkpoint.store.uri} knows source {self.spec.name!r} as {recorded.get('kind')!r}, not as "
                f"{self.spec.definition['kind']!r}. Give this source another name=."
            )
        return recorded

    def take_target(self) -> None:
        """Plan only up to what is there now."""
        self._kafka.look()
        self._target = {one: bounds.latest for one, bounds in self._kafka.bounds.items()}

    def refresh(self) -> None:
        """Ask what the log has now."""
        replaced = self._kafka.look()
        if replaced and isinstance(self._log, HeldLog):
            self._hold(self._log)  # the log that took its place knows nothing of this stream
        if self._target is not None:  # of a new topic, what is there now is to be read
            kept = {one: latest for one, latest in self._target.items() if one.topic not in replaced}
            new = {one: log.latest for one, log in self._kafka.bounds.items() if one.topic in replaced}
            self._target = {**kept, **new}

    def plan(self, planned_at_ms: int) -> SourcePlan:
        """The next ranges; none while there is nothing to read, or not yet enough. And how far the source's time has come.

        Args:
            planned_at_ms: when the batch is planned, as its plan will say.

        Raises:
            DataLoss: the log no longer has offsets that were not read yet, or a topic.
        """
        present = ids_of(self._kafka.topics)
        replaced = replaced_topics(self._next_offsets, self._topic_ids, present)
        self._judge(replaced, present)
        stands = {one: offset for one, offset in self._next_offsets.items() if one.topic not in replaced}
        # Partitions that the user no longer names keep their place; they are not lost.
        read = {one: offset for one, offset in stands.items() if self.spec.selection.is_read(one)}
        self._kafka.look_for_the_end_of(read)
        if self._average_record_bytes is None:
            self._average_record_bytes = self._sampled_record_bytes(read)
        planned = plan_ranges(
            read,
            self._kafka.bounds,
            self.spec.limits,
            until=self._target,
            topics_without_id=self._kafka.topics_without_id,
            average_record_bytes=self._average_record_bytes,
            count_ahead=self._count_ahead if self._is_sparse and self._counts_ahead else None,
            # What is available now is read now, however little.
            waited_s=math.inf if self._target is not None else self._clock.monotonic_s() - self._planned_at_s,
            on_data_loss=self.spec.on_data_loss,
        )
        watermark = self._watermark(planned, replaced, planned_at_ms)
        return SourcePlan(
            planned.ranges,
            (*planned.lost, *unread_of(replaced, self._kafka.replaced_bounds)),
            {**stands, **planned.next_offsets},
            {**self._topic_ids, **present},
            replaced,
            self.spec.settings.isolation_level,
            watermark.at_ms,
            watermark.held_by,
        )

    def _watermark(self, planned: PlannedRanges, replaced: Collection[str], planned_at_ms: int) -> Watermark:
        """A partition is idle only if it shows nothing more, and no open transaction hides anything."""
        event_time = self.spec.event_time
        if event_time is None or self._times is None:
            return Watermark(None if self._times is None else self._times.watermark_ms, None)
        times, partitions = self._times.without(replaced), list(self._kafka.bounds)
        quiet = set(quiet_partitions(times, partitions, event_time, planned_at_ms))
        ends = self._kafka.ends(sorted(quiet - {one.topic_partition for one in planned.ranges}))
        idle = [one for one, end in ends.items() if planned.next_offsets.get(one, -1) >= end]
        return next_watermark(times, partitions, idle, event_time)

    def advance(self, after: SourcePlan | SourceCommit) -> None:
        """Stand where a decided batch leaves the source."""
        if (
            self._next_offsets != after.next_offsets
        ):  # else the batch was of other sources, or of timers, and this one waits on
            self._planned_at_s = self._clock.monotonic_s()
        self._next_offsets = dict(after.next_offsets)
        self._topic_ids.update(after.topic_ids)
        if isinstance(after, SourceCommit) and after.event_time is not None:
            self._times = after.event_time
        self._kafka.forget_replaced()

    def measured(self, records: int, bytes_read: int, offsets: int) -> None:
        """Learn the average record size, for limits in bytes, and whether offsets have records: compacted ones may not."""
        if records:
            self._average_record_bytes = max(1.0, bytes_read / records)
        if offsets:  # else the batch was of other sources, or of timers
            self._is_sparse = 2 * records < offsets

    def _note_dropped(self) -> None:
        """Say what the source leaves behind; it is the user's choice, or a slip."""
        reads = self.spec.selection
        dropped = {
            one: offset
            for one, offset in self._next_offsets.items()
            if not reads.reads(one.topic) or not reads.is_read(one)
        }
        if dropped:
            _LOGGER.warning("source %r %s", self.spec.name, dropped_message(dropped))

    def _judge(self, replaced: Mapping[str, ReplacedTopic], present: Mapping[str, str]) -> None:
        """Topics that are others, or that a pattern no longer finds, are data loss."""
        known = {one.topic for one in self._next_offsets}
        gone = self.spec.selection.gone(known - self._kafka.topics.keys())
        messages = [replaced_message(replaced, present)] if replaced else []
        if gone - self._gone:
            messages.append(gone_message(gone, self._next_offsets, str(self.spec.selection)))
        if messages and self.spec.on_data_loss == "fail":
            raise DataLoss(f"{'; '.join(messages)}. {WAY_OUT}")
        self._gone = gone
        for message in messages:
            _LOGGER.warning("source %r goes on: %s", self.spec.name, message)

    def _sampled_record_bytes(self, read: NextOffsets) -> float:
        """Average size of the next records of the partition that lags most."""
        bounds = self._bounds
        place, behind = max(lag(read, bounds).items(), key=lambda one: one[1], default=(None, 0))
        if place is None or behind <= SAMPLE_RECORDS or self.spec.limits.max_batch_bytes is None:
            return RECORD_BYTES_GUESS
        latest = bounds[place].latest
        try:
            sample = self._log.next_chunk(place, latest - behind, latest, SAMPLE_RECORDS)
        except DataLoss:  # retention was faster; the plan judges that
            return RECORD_BYTES_GUESS
        self._is_sparse = 2 * len(sample) < sample.stop - sample.start
        return max(1.0, sample.bytes / len(sample)) if len(sample) else RECORD_BYTES_GUESS

    @property
    def _counts_ahead(self) -> bool:
        """Whether bytes alone limit a batch."""
        limits = self.spec.limits
        return limits.max_batch_bytes is not None and limits.max_batch_offsets is None

    def _count_ahead(self, left: Sequence[OffsetRange]) -> dict[TopicPartition, int]:
        """Offsets of each partition that a limit in bytes lets through, as their records show.

        A compacted log has few records among many offsets, and no average tells how many of the next ones it has. So they are
        read twice: here to be counted, while most offsets have none.
        """
        most = sorted(left, key=lambda one: (-one.size, one))[:MAX_COUNTED_PARTITIONS]
        share = (self.spec.limits.max_batch_bytes or 0) // len(most)
        return {one.topic_partition: self._offsets_within(one, share) for one in most}

    def _offsets_within(self, left: OffsetRange, max_bytes: int) -> int:
        """How many of the offsets, from the first of them on, hold about ``max_bytes``."""
        position = left.start
        records = min(MAX_COUNTED_RECORDS, max(1, int(max_bytes / (self._average_record_bytes or RECORD_BYTES_GUESS))))
        counted_bytes = 0
        try:
            while position < left.stop and counted_bytes < max_bytes:
                chunk = self._log.next_chunk(left.topic_partition, position, left.stop, records)
                position, counted_bytes = chunk.stop, counted_bytes + chunk.bytes
        except DataLoss:  # retention was faster; the plan judges that
            return 0
        return position - left.start


def _up_to(target: int, bounds: LogBounds) -> LogBounds:
    """What a log holds of offsets below ``target``."""
    return LogBounds(bounds.earliest, min(bounds.latest, max(target, bounds.earliest)))
