"""Each window closes once and with all of its rows, and no row is late that is not, in the random histories of the protocol.

SIMULATION_SEEDS=100000 pytest tests/simulation/test_window_histories.py     # more histories
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

import pytest

from beam_exactly_once.checkpoint import Attempt, Marker, Plan, SourcePlan, resolution
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.checkpoint.source_times import SourceTimes, has_ended
from beam_exactly_once.state.state_list import Slice, SliceChange
from support.simulation.caught import assert_caught
from support.simulation.driver import SOURCE
from support.simulation.histories import LATE_WORKER_WITH_STATE, OPERATORS, Focus
from support.simulation.stateful_driver import OPERATOR, Task
from support.simulation.stateful_histories import StatefulSimulation
from support.simulation.tables import Pack, Table
from support.simulation.windowed_driver import WindowedDriver, window_faults

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "100"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))


class WindowedSimulation(StatefulSimulation):
    def faults(self) -> list[str]:
        return super().faults() + window_faults(self.scene, self.ledger.markers)


def test_each_window_closes_once_with_all_of_its_rows() -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        WindowedSimulation(seed, WindowedDriver).assert_sound()


@pytest.mark.parametrize("focus", [OPERATORS, LATE_WORKER_WITH_STATE], ids=["passed batches", "late workers"])
def test_so_it_is_where_the_rare_mutants_fail(focus: Focus) -> None:
    for seed in range(60):
        WindowedSimulation(seed, WindowedDriver, focus=focus).assert_sound()


class Draining(WindowedDriver):
    drained = 0.2


@pytest.mark.parametrize("focus", [None, OPERATORS], ids=["anything", "passed batches"])
def test_so_it_is_where_the_stream_is_drained_now_and_then(focus: Focus | None) -> None:
    """What comes behind the end of time is late, and handed on; nothing else is."""
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS // 4):
        WindowedSimulation(seed, Draining, focus=focus).assert_sound()


# -- each rule left out ----------------------------------------------------------------------------------------------


class Unchecked(WindowedDriver):
    """The commit would find some of these; it is not to stand in for the rule."""

    def changes_of(self, one: Slice, tables: list[Table], delta: Table, pack: Pack) -> Iterable[SliceChange]:
        for change in super().changes_of(one, tables, delta, pack):
            yield replace(change, next_due_ms=None)

    def run_batches(self) -> None:
        while (planned := self.ranges()) is not None:
            planned = replace(planned, watermark_ms=self.watermark_ms())
            self.run_planned(self.decide_plan(self.batch_id, planned))


class TheFastestPartition(WindowedDriver):
    """Its time is taken for that of all: SPARK's spark#15702."""

    def watermark_ms(self) -> int | None:
        times = [one.max_ms for one in self.times.partitions.values() if one.max_ms is not None]
        return max(times) - 24 if times else None


class InOrder(WindowedDriver):
    """Records that are out of order are taken for late."""

    def watermark_ms(self) -> int | None:
        watermark_ms = super().watermark_ms()
        return None if watermark_ms is None else watermark_ms + 24


class TimeOfThePlanBefore(Unchecked):
    """Though that batch was abandoned, and its records come again."""

    def task_of(self, plan: Plan) -> Task:
        before = self.checkpoint.read_plan(plan.batch_id - 1) if plan.batch_id else None
        lower_ms = 0 if before is None else self.bound_ms(before.sources[SOURCE])
        task = super().task_of(plan)
        self.lower_ms = max(task.base.fired_ms or 0, lower_ms)
        return task

    def due(self, task: Task, known: Table, delta: Table) -> list[str]:
        return [key for key in super().due(task, known, delta) if (known[key].due_ms or 0) > self.lower_ms]


class OnlyWhatWasThere(Unchecked):
    """A row that comes with the batch that closes its window is stored, and nothing more."""

    def due(self, task: Task, known: Table, delta: Table) -> list[str]:
        return [key for key in super().due(task, known, delta) if key not in delta]


class MayFall(WindowedDriver):
    """More lateness is allowed, and the bound goes back."""

    def bound_ms(self, planned: SourcePlan) -> int:
        return 0 if planned.watermark_ms is None else max(0, planned.watermark_ms - self.lateness_ms)


class ExpiresWithLateness(Unchecked):
    """The time of a window that is stored has the lateness of that day in it."""

    def due_of(self, row: list[int], task: Task) -> int:
        return self.end_ms(row) + self.lateness_ms

    def bound_ms(self, planned: SourcePlan) -> int:
        return max(planned.watermark_ms or 0, self.base().fired_ms or 0)

    def is_late(self, row: list[int], task: Task) -> bool:
        return self.due_of(row, task) <= (task.base.fired_ms or 0)


class ClosingProposal(resolution.Proposal):
    """Takes the windows of the batch that it passes for closed."""

    def marker(self, attempt: Attempt, committed_at_ms: int) -> Marker:
        marker = super().marker(attempt, committed_at_ms)
        watermark_ms = None if self.plan is None else self.plan.sources[SOURCE].watermark_ms
        if watermark_ms is None or OPERATOR not in marker.state:
            return marker
        fired_ms = max(watermark_ms, marker.state[OPERATOR]["fired_ms"] or 0)
        state: Json = {**marker.state[OPERATOR], "fired_ms": fired_ms}
        return replace(marker, state={OPERATOR: state})


class GoesOnBehindTheEnd(Draining):
    """Time begins anew at the next start, and windows that were given are given again."""

    def times_in(self, marker: Marker) -> SourceTimes:
        found = super().times_in(marker)
        return replace(found, watermark_ms=None) if found.have_ended else found

    def bound_ms(self, planned: SourcePlan) -> int:
        bound_ms = super().bound_ms(planned)
        ends = has_ended(planned.watermark_ms)
        return bound_ms if ends else max(0, (planned.watermark_ms or 0) - self.lateness_ms)


MUTANTS: dict[type[WindowedDriver], Focus | None] = {
    TheFastestPartition: None,
    InOrder: None,
    TimeOfThePlanBefore: OPERATORS,
    OnlyWhatWasThere: None,
    MayFall: None,
    ExpiresWithLateness: None,
    GoesOnBehindTheEnd: None,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_rule_left_out_is_caught(mutant: type[WindowedDriver]) -> None:
    caught(mutant, MUTANTS[mutant])


def test_an_operator_that_closes_what_it_passes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "Proposal", ClosingProposal)
    caught(Unchecked, OPERATORS)


def caught(driver_class: type[WindowedDriver], focus: Focus | None) -> None:
    assert_caught(driver_class, lambda seed: WindowedSimulation(seed, driver_class, focus=focus).faults())
