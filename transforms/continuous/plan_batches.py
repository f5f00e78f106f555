"""The root of a stream that is one unbounded pipeline: a splittable DoFn that plans, and emits a task a batch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue

from beam_exactly_once.checkpoint import Attempt, Marker, SourcePlan
from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import Fenced, leaving_step
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.planning.batch_feed import BatchFeed, FeedClaim, Planned
from beam_exactly_once.randomness import new_token
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.continuous.batch_windows import BatchWindows, batch_time
from beam_exactly_once.transforms.emit_task import ATTEMPT, SEED, TASK, BatchTasks
from beam_exactly_once.transforms.reports import Gathered, gathered
from beam_exactly_once.transforms.stateful.operators_of_batch import OperatorsOfBatches
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import typed

POLL_S = 0.05
"""How long the planning step waits before it looks again whether a batch is published, or due."""
_MAX_BATCHES = 1 << 31
"""Of one job. They end before the year 10000."""


@dataclass(frozen=True, slots=True)
class Rests:
    """How long the planning step waits before it rests: then it gives the runner what is left of its work, to come back for it.

    A runner may come back at once, and may keep something of every rest. By default the step rests at once, for :data:`POLL_S`.

    Attributes:
        on_its_way_s: while a batch is on its way, which the waiting step may hold up.
        idle_s: while none is.
    """

    on_its_way_s: float = 0.0
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ContinuousJob:
    """What one submission of the pipeline is to do."""

    checkpoint: StoreLocation
    claim: FeedClaim
    operators: OperatorsOfBatches = field(default_factory=OperatorsOfBatches)
    rests: Rests = Rests()

    def is_due(self, sources: Mapping[str, SourcePlan], before: Marker | None, at_ms: int) -> bool:
        """Whether an operator asks for a batch that reads nothing."""
        return self.operators.ask_for_batch(sources, self.operators.state_in(before), at_ms, None)

    def task(self, planned: Planned) -> BatchTask:
        """A new attempt at a planned batch."""
        stream_id, plan = self.claim.stream_id, planned.plan
        attempt = Attempt(self.claim.writer_epoch, plan.batch_id, new_token())
        operators = self.operators.tasks(plan, self.operators.state_in(planned.before), planned.times)
        return BatchTask(stream_id, attempt, plan, planned.predecessor, operators, planned.times)


@dataclass(frozen=True, slots=True)
class _Batches:
    """The batches of a job from number ``next_one`` on, below ``end``."""

    next_one: int
    end: int = _MAX_BATCHES


class _Tracker(RestrictionTracker):
    """One batch after the other. It gives all the rest away or nothing: two that plan would plan the same."""

    def __init__(self, batches: _Batches) -> None:
        self._batches = batches

    def current_restriction(self) -> _Batches:
        return self._batches

    def try_claim(self, position: int) -> bool:
        if position >= self._batches.end:
            return False
        self._batches = _Batches(position + 1, self._batches.end)
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[_Batches, _Batches] | None:
        at, end = self._batches.next_one, self._batches.end
        if fraction_of_remainder or at >= end:
            return None
        self._batches = _Batches(at, at)
        return self._batches, _Batches(at, end)

    def check_done(self) -> None:
        """A step that returns without a rest has ended on purpose."""

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(completed=self._batches.next_one, remaining=1)

    def is_bounded(self) -> bool:
        return False


class _BatchesCoder(beam.coders.Coder):
    """Wire shape: the JSON list ``[1, next one, end]``; the 1 is its version."""

    VERSION = 1

    def encode(self, value: _Batches) -> bytes:
        return orjson.dumps([self.VERSION, value.next_one, value.end])

    def decode(self, encoded: bytes) -> _Batches:
        version, *fields = orjson.loads(encoded)
        if version != self.VERSION:
            raise ValueError(f"cannot decode batches of version {version}: workers and driver must run one version")
        return _Batches(*fields)

    def is_deterministic(self) -> bool:
        return True


class _AllBatches(RestrictionProvider):
    def create_tracker(self, restriction: _Batches) -> _Tracker:
        return _Tracker(restriction)

    def initial_restriction(self, element: bytes) -> _Batches:
        return _Batches(0)

    def restriction_size(self, element: bytes, restriction: _Batches) -> int:
        return 1

    def restriction_coder(self) -> _BatchesCoder:
        return _BatchesCoder()


class PlanBatches(StatelessDoFn):
    """Plans one batch after the other, as :class:`BatchFeed` says, and emits its task at the batch's time.

    It ends its bundle behind every task: what a bundle emits goes on only when it ends. What it knows is in the checkpoint: where
    another worker goes on, it looks there.
    """

    def __init__(self, job: ContinuousJob | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._job = job
        self._clock = clock
        self._feed: BatchFeed | None = None

    def teardown(self) -> None:
        """Close the clients of Kafka."""
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        impulse: bytes,
        tracker: Any = beam.DoFn.RestrictionParam(_AllBatches()),  # noqa: B008 (Beam's way)
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),  # noqa: B008
    ) -> Iterator[TimestampedValue]:
        """Emit the next task, if there is one; then rest. Without a rest there is no next one: another writer has the stream."""
        if self._job is None:
            raise RuntimeError("the graph of a stream was run without a job; run it through ExactlyOnceStream")
        number = tracker.current_restriction().next_one
        if watermark.current_watermark() is None:
            watermark.set_watermark(batch_time(number))
        with leaving_step():
            try:
                feed = self._feed_at(self._job, number)
                planned = self._next(feed, self._job.rests)
            except Fenced:
                self.teardown()
                return  # the pipeline ends, and its driver looks who has replaced it
        if planned is None:
            # Flink's runner loses a watermark that a step is told while it has a bundle, until it is told another one.
            watermark.set_watermark(min(watermark.current_watermark() + 1, batch_time(number)))
            tracker.defer_remainder(beam.utils.timestamp.Duration(POLL_S))
            return
        if not tracker.try_claim(number):  # the rest was asked for: who has it finds the plan
            self.teardown()
            return
        yield TimestampedValue(self._job.task(planned), batch_time(number))
        watermark.set_watermark(batch_time(number) + 1)
        tracker.defer_remainder(beam.utils.timestamp.Duration(POLL_S))

    def _next(self, feed: BatchFeed, rests: Rests) -> Planned | None:
        began_s, never = self._clock.monotonic_s(), threading.Event()
        while (planned := feed.next()) is None:
            most_s = rests.idle_s if feed.is_idle else rests.on_its_way_s
            if self._clock.monotonic_s() - began_s >= most_s:
                break
            self._clock.wait(never, POLL_S)
        return planned

    def _feed_at(self, job: ContinuousJob, number: int) -> BatchFeed:
        batch_id = job.claim.first_batch_id + number
        if self._feed is None or self._feed.batch_id != batch_id:
            self.teardown()
            self._feed = BatchFeed.open(job.claim, job.checkpoint.store, batch_id, self._clock, job.is_due)
        return self._feed


class _EmitTask(StatelessDoFn):
    """Emits the task of a batch, its attempt, and what the commit gathers of it."""

    def process(self, task: BatchTask) -> Iterator[Any]:
        yield task
        yield beam.pvalue.TaggedOutput(ATTEMPT, task.attempt)
        yield beam.pvalue.TaggedOutput(SEED, gathered(task))


class ContinuousTasks(BatchTasks):
    """The root of a stream's graph that runs all batches: tasks, each in the window of its batch."""

    def expand(self, begin: beam.pvalue.PBegin) -> dict[str, beam.PCollection[Any]]:
        """Impulse and :class:`PlanBatches`; the collections by their tags."""
        emitted = (
            begin
            | beam.Impulse()
            | "PlanBatches" >> beam.ParDo(PlanBatches()).with_output_types(BatchTask)
            | "Window" >> beam.WindowInto(BatchWindows())
            | "EmitTask" >> beam.ParDo(_EmitTask()).with_outputs(ATTEMPT, SEED, main=TASK)
        )
        return {
            TASK: typed(emitted[TASK], BatchTask),
            ATTEMPT: typed(emitted[ATTEMPT], Attempt),
            SEED: typed(emitted[SEED], Gathered),
        }
