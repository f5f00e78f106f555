"""Plans the batches of one claim, one behind the other: for a stream whose pipeline plans by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from beam_exactly_once.checkpoint import Checkpoint, Marker, Plan, Predecessor, SourcePlan, StreamWriter
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.checkpoint.source_times import SourceTimes
from beam_exactly_once.clock import Clock, now_ms
from beam_exactly_once.errors import CheckpointHole, Retryable
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.planning.source import LogSource
from beam_exactly_once.planning.source_planner import SourcePlanner

CHECK_S = 1.0
"""How often a feed that plans nothing looks whether it is still the newest writer's."""
IDLE_POLL_S = 0.1
"""How long a feed without an interval waits before it asks Kafka again when there was nothing."""


@dataclass(frozen=True, slots=True)
class FeedClaim:
    """Whose batches are planned, and from where on.

    Attributes:
        stream_id: of the stream.
        writer_epoch: that the driver has claimed for this feed, and for no other.
        first_batch_id: everything before it is published.
        last_batch_id: the last batch to plan; None means no limit.
        interval_s: from the start of one batch to that of the next; 0 means as fast as possible.
        sources: what to read.
        graph: what plans say of the pipeline.
    """

    stream_id: str
    writer_epoch: int
    first_batch_id: int
    last_batch_id: int | None
    interval_s: float
    sources: tuple[LogSource, ...]
    graph: Json


@dataclass(frozen=True, slots=True)
class Planned:
    """The next batch, and what it stands on."""

    plan: Plan
    before: Marker | None
    """What decided the batch before; None for the first one of a stream."""
    times: Mapping[str, SourceTimes]

    @property
    def predecessor(self) -> Predecessor | None:
        """The same, as a task says it."""
        return None if self.before is None else self.before.as_predecessor


IsDue: TypeAlias = Callable[[Mapping[str, SourcePlan], Marker | None, int], bool]
"""Whether a batch that reads nothing is to be planned all the same: asked with what it would plan, the marker before it, and the
time in milliseconds."""


def never_due(sources: Mapping[str, SourcePlan], before: Marker | None, at_ms: int) -> bool:
    """Of a stream without operators that wait for a time."""
    return False


class BatchFeed:
    """Where the next batch stands. Owns clients of its logs; :meth:`close` it.

    The next batch is planned when the one before is published, and its beat has come. A plan that is there already is taken as
    it is: that of an older writer, or of a feed whose task was lost.

    Attributes:
        batch_id: of the next batch.
    """

    def __init__(
        self,
        claim: FeedClaim,
        writer: StreamWriter,
        batch_id: int,
        planners: Mapping[str, SourcePlanner],
        clock: Clock,
        is_due: IsDue,
    ) -> None:
        self.batch_id = batch_id
        self._claim = claim
        self._writer = writer
        self._checkpoint = writer.checkpoint
        self._planners = planners
        self._clock = clock
        self._is_due = is_due
        self._before: Marker | None = None
        """What decided the batch before; None for the first one of a stream."""
        self._stands = False
        """Whether the planners stand behind it."""
        self._has_stood = False
        """Whether they stood anywhere yet."""
        self._planned: Plan | None = None
        """The plan before."""
        self._newest_plan_id = max(self._checkpoint.plan_ids(above=batch_id - 1), default=-1)
        self._began_s = clock.monotonic_s()
        self._beats = 0
        self._due_s = self._checked_s = self._began_s

    @classmethod
    def open(
        cls, claim: FeedClaim, store: ObjectStore, batch_id: int, clock: Clock, is_due: IsDue = never_due
    ) -> BatchFeed:
        """Open the sources, to plan from ``batch_id`` on; ``is_due`` is asked where there is nothing to read.

        Raises:
            BeamExactlyOnceError: see :class:`SourcePlanner`.
        """
        writer = StreamWriter(Checkpoint(store, claim.stream_id), claim.writer_epoch)
        planners: dict[str, SourcePlanner] = {}
        try:
            for source in claim.sources:
                planners[source.name] = planner = SourcePlanner(source, clock, may_wait=True)
                planner.hold(claim.stream_id)
            return cls(claim, writer, batch_id, planners, clock, is_due)
        except BaseException:
            for planner in planners.values():
                planner.close()
            raise

    def close(self) -> None:
        """Close the logs."""
        for planner in self._planners.values():
            planner.close()

    def next(self) -> Planned | None:
        """The next batch, which is planned from now on; None while there is none, or not yet.

        Raises:
            Fenced: a newer writer exists.
            Retryable: somebody else decides batches.
            BeamExactlyOnceError: see :class:`SourcePlanner`.
        """
        last, now_s = self._claim.last_batch_id, self._clock.monotonic_s()
        if now_s - self._checked_s >= CHECK_S:
            self._writer.ensure_newest()
            self._checked_s = now_s
        if (last is not None and self.batch_id > last) or not self._stands_behind():
            return None
        plan = self._checkpoint.read_plan(self.batch_id) if self.batch_id <= self._newest_plan_id else None
        if plan is None:
            if now_s < self._due_s:
                return None
            plan = self._plan()
            self._due_s = self._next_beat_s(idle=plan is None)
        if plan is None:
            return None
        if plan.carries is not None:
            raise Retryable(
                f"batch {plan.batch_id} is planned to carry the state of another stream along; start again."
            )
        times = {name: one.times for name, one in self._planners.items() if one.times is not None}
        self.batch_id += 1
        self._planned, self._stands = plan, False
        return Planned(plan, self._before, times)

    @property
    def is_idle(self) -> bool:
        """Whether no batch is on its way."""
        return self._stands

    def _stands_behind(self) -> bool:
        """Whether the batch before is published, and the planners stand behind it."""
        if self._stands:
            return True
        behind_first = self.batch_id == self._claim.first_batch_id
        if not behind_first and self._checkpoint.read_published(self.batch_id - 1) is None:
            return False
        marker = self._checkpoint.read_marker(self.batch_id - 1) if self.batch_id else None
        if marker is None and self.batch_id:
            raise CheckpointHole(f"the marker of batch {self.batch_id - 1} vanished from {self._checkpoint.store.uri}.")
        for name, planner in self._planners.items():
            if not self._has_stood or marker is None:
                planner.take_position(self._checkpoint, marker)
            elif name in marker.sources:
                planner.advance(marker.sources[name])
                self._measure(planner, marker)
        self._before, self._stands, self._has_stood = marker, True, True
        return True

    def _measure(self, planner: SourcePlanner, marker: Marker) -> None:
        committed = marker.sources[planner.spec.name]
        planned = () if self._planned is None else self._planned.ranges.get(planner.spec.name, ())
        planner.measured(committed.records_read, committed.bytes_read, sum(one.size for one in planned))

    def _plan(self) -> Plan | None:
        """Decide the next batch's input; None while no source has anything to read, and no operator waits for the time it is."""
        at_ms = now_ms(self._clock)
        sources: dict[str, SourcePlan] = {}
        for name, planner in self._planners.items():
            planner.refresh()
            sources[name] = planner.plan(at_ms)
        is_empty = not any(source.ranges or source.lost or source.replaced for source in sources.values())
        if is_empty and not self._is_due(sources, self._before, at_ms):
            return None
        self._writer.ensure_newest()
        return self._writer.plan(Plan(self.batch_id, self._writer.writer_epoch, at_ms, sources, self._claim.graph))

    def _next_beat_s(self, *, idle: bool) -> float:
        """When to plan again. Beats are fixed; a batch that takes longer than one is followed at once."""
        now_s, interval_s = self._clock.monotonic_s(), self._claim.interval_s
        if not interval_s:
            return now_s + IDLE_POLL_S if idle else now_s
        self._beats = max(self._beats + 1, int((now_s - self._began_s) / interval_s))
        return self._began_s + self._beats * interval_s
