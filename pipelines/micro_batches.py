"""The driver of a stream of micro-batches: claim, recover, then plan and run one batch after the other."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from beam_exactly_once.checkpoint import Attempt, Marker, Plan, Predecessor, SourcePlan, this_process
from beam_exactly_once.checkpoint.retention import Retention
from beam_exactly_once.clock import Clock, now_ms
from beam_exactly_once.errors import CheckpointHole, Fenced, Retryable, RunnerUnavailable
from beam_exactly_once.pipelines.carried_batch import CarriedBatch
from beam_exactly_once.pipelines.claiming import Claimed, StreamSettings, claim_newest, claimed_stream
from beam_exactly_once.pipelines.clock_check import BatchClock
from beam_exactly_once.pipelines.draining import LAST_BATCHES, at_the_end, open_until_ms
from beam_exactly_once.pipelines.failures import batch_failure
from beam_exactly_once.pipelines.progress import fan_out, log_lines
from beam_exactly_once.pipelines.progress.reporting import progress_of
from beam_exactly_once.pipelines.runners.lost_runner import MAX_ATTEMPTS, LostRunner
from beam_exactly_once.pipelines.runners.repeated_run import RunTask
from beam_exactly_once.pipelines.triggers import AvailableNow, ProcessingTime, Trigger
from beam_exactly_once.planning.continuing import marker_at, stood_at
from beam_exactly_once.randomness import new_token
from beam_exactly_once.state.state_list import StateList, state_lists
from beam_exactly_once.state.upkeep.sweeping import sweep_state
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.commit_counts import CommitCounts
from beam_exactly_once.transforms.stateful.operators_of_batch import OperatorsOfBatches
from beam_exactly_once.transforms.stream_graph import StreamGraph

MAX_RECOVERIES = 10
"""One is the rule; an older driver can overtake a start once, an operator as often as they like."""
IDLE_POLL_S = 0.1
"""How long ``ProcessingTime(0)`` waits before it asks Kafka again when there was nothing."""

_LOGGER = logging.getLogger(__name__)


def run_micro_batches(
    settings: StreamSettings, graph: StreamGraph, run_task: RunTask, clock: Clock, stop: threading.Event
) -> None:
    """Start, recover, and run batches, until the trigger ends or ``stop`` is set.

    1. Ask Kafka: a wrong address or topic must not fence a driver that works.
    2. Open the checkpoint, compare its sources and sinks with the graph's, and try every output: neither must a
       wrong bucket or password. Of a stream with state, also compare the clock with the store's.
    3. Claim the next writer epoch. From here on an older driver stops after its next marker.
    4. Recover: publish the newest marker again, replay every plan above it.
    5. Plan and run, until the trigger ends.
    """
    with claimed_stream(settings, graph, clock, claim_newest) as claimed:
        ClaimedStream(settings, graph, run_task, clock, stop, claimed, max_attempts=MAX_ATTEMPTS).run()


class _Overtaken(Exception):
    """Somebody else decided a batch."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run of the graph that ended well."""

    task: BatchTask
    counts: CommitCounts
    attempts_lost: int
    """With their runner, before this one."""


class ClaimedStream:
    """A stream whose newest writer is this driver, or was."""

    def __init__(
        self,
        settings: StreamSettings,
        graph: StreamGraph,
        run_task: RunTask,
        clock: Clock,
        stop: threading.Event,
        claimed: Claimed,
        *,
        max_attempts: int = 1,
    ) -> None:
        self._settings = settings
        self._graph = graph
        self._run_task = run_task
        self._clock = clock
        self._stop = stop
        self._planners = claimed.planners
        self._known = claimed.known
        self._writer = claimed.writer
        self._checkpoint = self._writer.checkpoint
        self._batch_clock = BatchClock(self._checkpoint.store, clock) if graph.operators else None
        self._max_attempts = max_attempts
        """At a batch whose runner is lost; 1 for who begins anew in another way."""
        self._retention = Retention(self._checkpoint, settings.retain_batches)
        self._listen = fan_out((log_lines.log_batch, *settings.listeners))
        self._batch_id = 0
        """Of the next batch."""
        self._first_batch_id: int | None = None
        """Of those that this driver planned itself."""
        self._predecessor: Predecessor | None = None
        """What decided the batch before it."""
        self._operators = OperatorsOfBatches()
        """Those of the graph with state."""
        self._state: Mapping[str, StateList] = {}
        """What operators remember of the batch before: as its marker says, never as an attempt had it."""
        self._fires_until_ms: int | None = None
        """No batch is planned for timers that are due later; None means no limit."""
        self._last_batches = 0
        """So many may still be planned by which event time ends."""

    def run(self) -> None:
        """Recover, and run batches.

        An older driver may decide a batch while this one recovers, before it meets the claim; so may an operator at any time.
        Then this driver looks again where the stream stands, and goes on.

        Raises:
            Fenced: a newer writer exists.
            Retryable: batches are decided behind this driver's back again and again.
        """
        for left in reversed(range(MAX_RECOVERIES)):
            try:
                with self._fencing_first():
                    self._run_from(self._recover())
                    self._note_published()
                log_lines.log_stop(self._writer, self._batch_id, open_until_ms(self._graph, self._state))
                return
            except _Overtaken as error:
                if not left:
                    raise Retryable(
                        f"{error} This driver is the newest writer all the same: start it again."
                    ) from error
                _LOGGER.warning("%s This driver is the newest writer all the same, and recovers again.", error)

    @contextlib.contextmanager
    def _fencing_first(self) -> Iterator[None]:
        """Whatever went wrong, the store has the last word: what a newer writer did looks odd to an older one.

        Raises:
            Fenced: a newer writer exists.
            _Overtaken: none does, but a batch was decided behind this driver's back.
        """
        try:
            yield
        except Exception as error:
            self._writer.ensure_newest()
            if isinstance(error, Fenced):
                raise _Overtaken(str(error)) from error
            if isinstance(error, _Overtaken):
                raise
            log_lines.log_failure(self._writer, self._batch_id, error)
            raise

    # -- start -------------------------------------------------------------------------------------------------

    def _recover(self) -> Sequence[int]:
        """Publish the newest marker again; returns the batches that were planned above it."""
        for planner in self._planners.values():
            planner.hold(self._checkpoint.stream_id)
        recovery = self._writer.recover()
        carried = CarriedBatch(self._writer, self._known.operators, self._planners, self._clock)
        if recovery.newest is None and carried.decide(self._settings.continue_from, recovery.replays):
            recovery = self._writer.recover()
        log_lines.log_recovery(self._writer, recovery)
        self._known.check_sinks(recovery.next_batch_id)
        live = self._known.operators.live(state_lists(recovery.newest), now_ms(self._clock))
        self._operators = self._graph.operators_of_batches(live)
        self._state = self._operators.state_in(recovery.newest)
        self._batch_id = recovery.next_batch_id
        if recovery.newest is not None:
            self._predecessor = recovery.newest.as_predecessor
            self._run_graph(recovery.newest.batch_id, None)
            self._sweep(recovery.newest.batch_id)
        self._take_positions(recovery.newest)
        return recovery.replays

    def _note_published(self) -> None:
        """Say that nothing is left to be published, for a stream that goes on from here elsewhere."""
        if self._batch_id:
            self._checkpoint.create_published(self._batch_id - 1)

    def _take_positions(self, newest: Marker | None) -> None:
        """Stand where this checkpoint says; while it has no batch, where the one says that the stream goes on from."""
        place = self._settings.continue_from
        elsewhere = None if newest is not None or place is None else marker_at(*place)
        if (
            elsewhere is not None
            and place is not None
            and self._known.operators.known_as(elsewhere.state, place[1].uri)
        ):
            raise _Overtaken("the stream to go on from has state now, and had none.")
        for name, planner in self._planners.items():
            stood = None if elsewhere is None or place is None else stood_at(elsewhere, name, place[0].location)
            planner.take_position(self._checkpoint, newest, stood)
            if planner.times is not None and planner.times.have_ended:
                log_lines.log_ended_time(self._writer, self._batch_id, name)

    def _replayed(self, batch_id: int) -> Plan:
        plan = self._checkpoint.read_plan(batch_id)
        if plan is None:
            raise CheckpointHole(f"offsets of batch {batch_id} vanished from {self._checkpoint.store.uri}.")
        return plan

    def _sweep(self, published_batch_id: int) -> None:
        """Remove what losing attempts left and what no start needs any more.

        In this order: once a marker is gone, a worker that was forgotten long ago could create it again, and only finds
        itself too late by its output, which must be gone before.
        """
        for sink in self._graph.sinks.values():
            sink.publisher.sweep(published_batch_id)
        if self._known.operators.have_state:
            oldest_retained = published_batch_id - self._settings.retain_batches + 1
            sweep_state(self._writer, oldest_retained=oldest_retained, newest=self._state)
        self._retention.sweep_all(published_batch_id)
        for planner in self._planners.values():
            planner.let_go(self._checkpoint)

    # -- batches -----------------------------------------------------------------------------------------------

    def _run_from(self, replays: Sequence[int]) -> None:
        """Replay what is planned, then run batches until the trigger ends."""
        for batch_id in replays:
            self._run_planned(self._replayed(batch_id), plan_s=0.0)
        trigger = self._settings.trigger
        if isinstance(trigger, AvailableNow):
            self._fires_until_ms = self._now_ms()
            self._last_batches = LAST_BATCHES if trigger.drain else 0
            for planner in self._planners.values():
                planner.take_target()
        for _ in self._beats(trigger):
            planned = self._plan_next()
            if planned is None:
                if isinstance(trigger, AvailableNow):
                    return
                if isinstance(trigger, ProcessingTime) and not trigger.interval_s:
                    self._clock.wait(self._stop, IDLE_POLL_S)
                continue
            plan, plan_s = planned
            self._run_planned(plan, plan_s)

    def _beats(self, trigger: Trigger) -> Iterator[None]:
        """One beat a batch, until the trigger ends or somebody asks to stop."""
        began_s, beats = self._clock.monotonic_s(), 0
        if self._first_batch_id is None:
            self._first_batch_id = self._batch_id
        while not self._stop.is_set():
            max_batches = self._settings.max_batches
            if max_batches is not None and self._batch_id - self._first_batch_id >= max_batches:
                return
            yield
            if isinstance(trigger, ProcessingTime) and trigger.interval_s:
                elapsed_s = self._clock.monotonic_s() - began_s
                beats = max(beats + 1, int(elapsed_s / trigger.interval_s))
                self._clock.wait(self._stop, max(0.0, began_s + beats * trigger.interval_s - self._clock.monotonic_s()))

    def _plan_next(self) -> tuple[Plan, float] | None:
        """Decide the next batch's input; None while no source has anything to read, and no timer calls."""
        began_s, at_ms = self._clock.monotonic_s(), self._now_ms()
        sources: dict[str, SourcePlan] = {}
        for name, planner in self._planners.items():
            planner.refresh()
            sources[name] = planner.plan(at_ms)
        is_empty = not any(source.ranges or source.lost or source.replaced for source in sources.values())
        if is_empty and not self._is_due(sources, at_ms):
            if not self._last_batches:
                return None
            sources = at_the_end(sources, self._graph)
            if not self._is_due(sources, at_ms):
                return None
            self._last_batches -= 1
        plan = self._writer.plan(
            Plan(
                self._batch_id,
                self._writer.writer_epoch,
                at_ms,
                sources,
                {"sinks": {name: sink.definition for name, sink in self._graph.sinks.items()}},
            )
        )
        if plan.carries is not None:
            raise _Overtaken(f"batch {plan.batch_id} is planned to carry the state of another stream along.")
        return plan, self._clock.monotonic_s() - began_s

    def _now_ms(self) -> int:
        """The time of a batch: of an operator, what a wrong one fires and forgets cannot be taken back."""
        return now_ms(self._clock) if self._batch_clock is None else self._batch_clock.now_ms()

    def _is_due(self, sources: Mapping[str, SourcePlan], at_ms: int) -> bool:
        return self._operators.ask_for_batch(sources, self._state, at_ms, self._fires_until_ms)

    def _run_planned(self, plan: Plan, plan_s: float) -> None:
        """Run a planned batch to its publish, and stand behind it."""
        began_s = self._clock.monotonic_s()
        ended = self._run_graph(plan.batch_id, plan)
        counts, decided = self._decided(ended)
        run_s = self._clock.monotonic_s() - began_s
        for name, planner in self._planners.items():
            if name in plan.sources:
                planner.advance(plan.sources[name] if decided is None else decided.sources[name])
                offsets = sum(one.size for one in plan.sources[name].ranges)
                planner.measured(counts.records_read.get(name, 0), counts.bytes_read.get(name, 0), offsets)
        self._batch_id = plan.batch_id + 1
        self._predecessor = self._following(ended.task) if decided is None else decided.as_predecessor
        self._state = self._operators.state_in(decided)
        self._report(plan, counts, decided, plan_s, run_s, ended.attempts_lost)
        self._refuse_other_operators(plan.batch_id)
        if self._retention.is_due(plan.batch_id):
            self._sweep(plan.batch_id)

    def _refuse_other_operators(self, batch_id: int) -> None:
        """
        Raises:
            _Overtaken: somebody else has decided the batch, with state of other operators than this graph, or of others of
                their names.
        """
        if not self._operators.are_those_of(self._state):
            raise _Overtaken(f"batch {batch_id} was decided by a pipeline with other operators.")

    def _task(self, batch_id: int, plan: Plan | None) -> BatchTask:
        attempt = Attempt(self._writer.writer_epoch, batch_id, new_token())
        times = {name: planner.times for name, planner in self._planners.items() if planner.times is not None}
        operators = {} if plan is None else self._operators.tasks(plan, self._state, times)
        return BatchTask(self._checkpoint.stream_id, attempt, plan, self._predecessor, operators, times)

    def _following(self, task: BatchTask) -> Predecessor:
        """What follows a batch that ``task`` decided itself, as its marker says."""
        shards = {name: sink.publisher.shards for name, sink in self._graph.sinks.items()}
        plan_digest = "" if task.plan is None else task.plan.digest
        return Predecessor.behind(task.predecessor, task.attempt, plan_digest, shards)

    def _decided(self, ended: _Ended) -> tuple[CommitCounts, Marker | None]:
        """What the commit of a batch counted, and the marker unless it is known that the run itself committed.

        The marker is read where somebody else decided the batch (an operator passed it while this driver ran, or a
        replaced writer's create came late), on runners without counters, and where it says more that the next batch stands on.
        """
        counts, batch_id = ended.counts, ended.task.attempt.batch_id
        has_times = any(planner.times is not None for planner in self._planners.values())
        if counts.committed and not self._graph.operators and not has_times:
            return counts, None
        marker = self._checkpoint.read_marker(batch_id)
        if marker is None:
            raise CheckpointHole(
                f"the runner says that batch {batch_id} succeeded, but its marker is not in "
                f"{self._checkpoint.store.uri}. The runner lost a part of the graph; nothing was committed."
            )
        return counts if counts != CommitCounts() else CommitCounts.of(marker, commit_us=0, committed=False), marker

    def _run_graph(self, batch_id: int, plan: Plan | None) -> _Ended:
        """Run the graph, and where its runner is lost begin with the batch anew, as the next start would: claim, look whether
        the batch was decided, and publish or replay it.

        Raises:
            Fenced: a newer writer exists.
            BeamExactlyOnceError: whatever a runner made of it, or of an exception of the user's code.
        """
        lost = LostRunner(self._clock, self._stop, self._max_attempts)
        while True:
            task = self._task(batch_id, plan)
            try:
                return _Ended(task, self._run_task(task), lost.attempts)
            except Exception as error:
                failure = batch_failure(error, task, self._checkpoint.store.uri, self._checkpoint.read_marker)
                if not isinstance(failure, RunnerUnavailable):
                    raise failure  # noqa: B904 (it has its cause)
            lost.wait_for_next(batch_id, failure)
            self._writer = self._writer.claim_again(owner=this_process(), claimed_at_ms=now_ms(self._clock))
            if plan is not None and self._checkpoint.read_marker(batch_id) is not None:
                plan = None  # it was decided before its runner was lost, so it must not be run again
            log_lines.log_lost(self._writer, batch_id, lost.attempts, failure, is_decided=plan is None)

    def _report(
        self,
        plan: Plan,
        counts: CommitCounts,
        decided: Marker | None,
        plan_s: float,
        run_s: float,
        attempts_lost: int = 0,
    ) -> None:
        self._listen(
            progress_of(
                plan,
                counts,
                decided,
                self._graph,
                stream_id=self._checkpoint.stream_id,
                writer_epoch=self._writer.writer_epoch,
                lag={name: planner.lag for name, planner in self._planners.items()},
                plan_s=plan_s,
                run_s=run_s,
                attempts_lost=attempts_lost,
                finished_at_ms=now_ms(self._clock),
            )
        )
