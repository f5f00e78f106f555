"""The driver of a stream that is one unbounded pipeline: it submits, watches, gives up, and submits anew.

The pipeline plans and commits by itself. What the driver knows of it, it reads in the checkpoint location; so a driver that was
frozen, or an answer that came late, is no harm. Each submission has a writer epoch of its own, which the driver claims: what is
left of the one before is fenced.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields

from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker, Plan, StreamWriter, this_process
from beam_exactly_once.clock import Clock, now_ms
from beam_exactly_once.errors import CheckpointHole, Retryable, RunnerUnavailable
from beam_exactly_once.pipelines.claiming import Claimed, StreamSettings, claim_newest, claimed_stream
from beam_exactly_once.pipelines.continuous.job import JobEnd, OpenRunner, OpenRunners
from beam_exactly_once.pipelines.continuous.silence import NO_PLAN_S, Silence
from beam_exactly_once.pipelines.failures import batch_failure
from beam_exactly_once.pipelines.micro_batches import ClaimedStream
from beam_exactly_once.pipelines.runners.lost_runner import LostRunner
from beam_exactly_once.pipelines.runners.watched_run import lost_runner
from beam_exactly_once.pipelines.triggers import Continuous
from beam_exactly_once.planning.batch_feed import FeedClaim
from beam_exactly_once.planning.source import LogSource
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.commit_counts import CommitCounts
from beam_exactly_once.transforms.continuous.plan_batches import ContinuousJob
from beam_exactly_once.transforms.stream_graph import StreamGraph

POLL_S = 0.1
"""How often the driver looks for the next published batch."""
MIN_TRIES = 3
"""So many submissions may end in a row before one batch is published, also where each takes minutes to show that it is silent."""

_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True)
class _Way:
    """What one submission hands on to the next."""

    batch_timeout_s: float | None
    writer: StreamWriter | None = None
    """The newest claim of this driver."""
    last_batch_id: int | None = None
    """Where ``max_batches`` ends."""
    has_begun: bool = False
    batch_id: int = 0
    """The first one that is not known to be published."""
    tries: int = 0
    """How many submissions have ended in a row without a batch."""

    def claim(self, checkpoint: Checkpoint, claimed_at_ms: int) -> StreamWriter:
        """The first time, from whoever has the stream; then only from itself: two drivers must not take it from each other for
        ever."""
        if self.writer is None:
            self.writer = claim_newest(checkpoint, claimed_at_ms)
        else:
            self.writer = self.writer.claim_again(owner=this_process(), claimed_at_ms=claimed_at_ms)
        return self.writer


def run_continuously(
    settings: StreamSettings,
    graph: StreamGraph,
    opened_runner: OpenRunners,
    clock: Clock,
    stop: threading.Event,
    batch_timeout_s: float | None,
) -> None:
    """Keep one job of the stream running until ``stop`` is set, or ``max_batches`` are published.

    Raises:
        Fenced: a newer writer exists.
        Retryable: so many submissions ended one after the other without a batch as :class:`LostRunner` bears, three at least.
        BeamExactlyOnceError: what starting again does not help against.
    """
    way, lost, lost_batch_id = _Way(batch_timeout_s), LostRunner(clock, stop, min_attempts=MIN_TRIES), -1
    while True:
        try:
            with opened_runner() as runner, claimed_stream(settings, graph, clock, way.claim) as claimed:
                stream = _SupervisedStream(settings, graph, runner, clock, stop, claimed, way)
                stream.run()
            if not stream.is_to_be_renewed or stop.is_set():
                return
        except Retryable as error:
            if way.writer is None:
                raise
            if way.batch_id != lost_batch_id:
                lost, lost_batch_id = LostRunner(clock, stop, min_attempts=MIN_TRIES), way.batch_id
            lost.wait_for_next(way.batch_id, error)
            way.tries = lost.attempts
            _LOGGER.warning("batch %d is given up, and the pipeline is submitted anew: %s", way.batch_id, error)


class _SupervisedStream(ClaimedStream):
    """A stream whose batches are planned and committed by a job."""

    def __init__(
        self,
        settings: StreamSettings,
        graph: StreamGraph,
        runner: OpenRunner,
        clock: Clock,
        stop: threading.Event,
        claimed: Claimed,
        way: _Way,
    ) -> None:
        super().__init__(settings, graph, runner.run_task, clock, stop, claimed)
        self._runner = runner
        self._way = way
        self.is_to_be_renewed = False
        """Whether the job was ended in order, and the next one is to go on."""

    def _recover(self) -> Sequence[int]:
        try:
            return super()._recover()
        finally:  # else what is lost while it publishes the batch before would be told of batch 0
            self._way.batch_id = max(self._way.batch_id, self._batch_id)

    def _run_from(self, replays: Sequence[int]) -> None:
        """Submit the job, which replays what is planned first, and watch it."""
        self._way.batch_id = self._batch_id
        if not self._way.has_begun and self._settings.max_batches is not None:
            self._way.last_batch_id = self._batch_id + len(replays) + self._settings.max_batches - 1
        self._way.has_begun = True
        last = self._last_of_job()
        job, submitted_s = self._runner.submit(self._job(last)), self._clock.monotonic_s()
        # Else a machine that is slow to start would submit for ever.
        no_plan_s = NO_PLAN_S * 2**self._way.tries
        silence = Silence(
            self._clock, self._checkpoint, self._planners, self._is_due, self._way.batch_timeout_s, no_plan_s
        )
        stops_at: int | None = None
        while True:
            has_ended = self._clock.wait(job.ended, POLL_S)
            while self._take_published():
                self._way.tries = 0
                silence.ends()
            if self._stop.is_set() and stops_at is None:
                # A batch that is under way is waited for; one that begins now is replayed by the next start.
                stops_at = self._batch_id + (self._checkpoint.read_plan(self._batch_id) is not None)
            if stops_at is not None and self._batch_id >= stops_at:
                return
            if last is not None and self._batch_id > last:
                self.is_to_be_renewed = last != self._way.last_batch_id
                return
            if has_ended:
                raise self._failure(job)
            if silence.is_checked_now():
                self._writer.ensure_newest()
                silence.check(self._batch_id)
                if silence.is_idle and self._clock.monotonic_s() - submitted_s > self._runner.bounds.max_idle_s:
                    self.is_to_be_renewed = True
                    return

    def _last_of_job(self) -> int | None:
        """The last batch of this submission."""
        trigger, last = self._settings.trigger, self._way.last_batch_id
        assert isinstance(trigger, Continuous)
        max_batches = trigger.max_batches_of_job or self._runner.bounds.max_batches
        if max_batches is None:
            return last
        last_of_job = self._batch_id + max_batches - 1
        return last_of_job if last is None else min(last, last_of_job)

    def _job(self, last_batch_id: int | None) -> ContinuousJob:
        trigger = self._settings.trigger
        assert isinstance(trigger, Continuous)
        definitions = {name: sink.definition for name, sink in self._graph.sinks.items()}
        names = [field.name for field in fields(LogSource)]
        sources = [LogSource(**{name: getattr(one, name) for name in names}) for one in self._graph.sources.values()]
        claim = FeedClaim(
            self._checkpoint.stream_id,
            self._writer.writer_epoch,
            self._batch_id,
            last_batch_id,
            trigger.interval_s,
            tuple(sources),
            {"sinks": definitions},
        )
        return ContinuousJob(self._graph.checkpoint, claim, self._operators, self._runner.bounds.rests)

    def _take_published(self) -> bool:
        """Stand behind the next batch, if it is published."""
        batch_id = self._batch_id
        if self._checkpoint.read_published(batch_id) is None:
            return False
        plan, marker = self._checkpoint.read_plan(batch_id), self._checkpoint.read_marker(batch_id)
        if plan is None or marker is None:
            raise CheckpointHole(
                f"batch {batch_id} is published, and its plan or marker is not in {self._checkpoint.store.uri}."
            )
        self._stand_behind(plan, marker)
        run_s = (now_ms(self._clock) - plan.planned_at_ms) / 1000
        counts = CommitCounts.of(marker, commit_us=0, committed=False)
        self._report(plan, counts, marker, 0.0, run_s)
        if self._retention.is_due(batch_id):
            self._sweep(batch_id)
        return True

    def _stand_behind(self, plan: Plan, marker: Marker) -> None:
        for name, planner in self._planners.items():
            if name in marker.sources:
                planner.advance(marker.sources[name])
            with contextlib.suppress(Retryable):  # only for what is said of the lag
                planner.refresh()
        self._batch_id = self._way.batch_id = plan.batch_id + 1
        self._predecessor = marker.as_predecessor
        self._state = self._operators.state_in(marker)
        if not self._operators.are_those_of(self._state):  # to recover here would leave two jobs with one claim
            raise Retryable(f"batch {plan.batch_id} was decided by a pipeline with other operators.")

    def _failure(self, job: JobEnd) -> Exception:
        """What the job ended with; a job that ended well has not done what it is for."""
        error = job.error
        if error is None:
            return RunnerUnavailable("the runner ended the pipeline, which has no end.")
        lost = lost_runner(error)
        if lost is not None or not isinstance(error, Exception):
            return lost or RunnerUnavailable(f"the pipeline ended with {type(error).__name__}.")
        epoch, batch_id = self._writer.writer_epoch, self._batch_id
        plan = self._checkpoint.read_plan(batch_id) or Plan(batch_id, epoch, now_ms(self._clock), {})
        task = BatchTask(self._checkpoint.stream_id, Attempt(epoch, batch_id, ""), plan)
        return batch_failure(error, task, self._checkpoint.store.uri, self._checkpoint.read_marker)
