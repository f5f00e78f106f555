"""No timer is lost, none is left behind, and no stream runs on for ever, in the random histories of the protocol.

SIMULATION_SEEDS=100000 pytest tests/simulation/test_timer_histories.py     # more histories
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

import pytest

from beam_exactly_once.checkpoint import Attempt, Marker, Plan, resolution
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.state.state_list import Slice, SliceChange, StateChange, StateList
from beam_exactly_once.state.timers import is_batch_due
from support.simulation.caught import assert_caught
from support.simulation.histories import LATE_WORKER_WITH_STATE, OPERATORS, Focus
from support.simulation.stateful_driver import OPERATOR, Task
from support.simulation.stateful_histories import StatefulSimulation
from support.simulation.tables import Entry, Pack, Table
from support.simulation.timed_driver import TimedDriver

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "120"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))
PARTS = min(2, SEEDS)


@pytest.mark.parametrize("part", range(PARTS))
def test_no_timer_is_lost(part: int) -> None:
    for seed in range(FIRST_SEED + part, FIRST_SEED + SEEDS, PARTS):
        StatefulSimulation(seed, TimedDriver).assert_sound()


@pytest.mark.parametrize("focus", [OPERATORS, LATE_WORKER_WITH_STATE], ids=["passed batches", "late workers"])
def test_none_is_lost_where_the_rare_mutants_fail(focus: Focus) -> None:
    for seed in range(60):
        StatefulSimulation(seed, TimedDriver, focus=focus).assert_sound()


class SetAgainForEver(TimedDriver):
    """An operator whose timers are always set again, in the past."""

    def left_at_timeout(self, task: Task, entry: Entry) -> Entry:
        return Entry(entry.offsets, self.not_before(0, task))


def test_a_stream_ends_whose_timers_are_always_set_again() -> None:
    for seed in range(20):
        StatefulSimulation(seed, SetAgainForEver).assert_sound()


# -- each rule left out ----------------------------------------------------------------------------------------------


class Unchecked(TimedDriver):
    """The commit would find most of these; it is not to stand in for the rule."""

    def changes_of(self, one: Slice, tables: list[Table], delta: Table, pack: Pack) -> Iterable[SliceChange]:
        for change in super().changes_of(one, tables, delta, pack):
            yield replace(change, next_due_ms=None)

    def is_batch_due(self) -> bool:
        return False

    def assert_nothing_is_due(self) -> None:
        pass


class StoredAsAsked(Unchecked):
    """Also where the batch has fired up to that time."""

    def not_before(self, due_ms: int, task: Task) -> int:
        return due_ms


class FiredByThePlanBefore(Unchecked):
    """Though the batch was passed."""

    def task_of(self, plan: Plan) -> Task:
        before = self.checkpoint.read_plan(plan.batch_id - 1) if plan.batch_id else None
        self.before_ms = 0 if before is None else before.planned_at_ms
        return super().task_of(plan)

    def lower_ms(self, task: Task) -> int:
        return max(super().lower_ms(task), self.before_ms)


class TimeOfThePlanAlone(Unchecked):
    """Clocks differ, and a batch may be planned earlier than the one before it."""

    def task_of(self, plan: Plan) -> Task:
        return Task(self.base(), plan.planned_at_ms)

    def commit_state(self, task: Task, changes: list[StateChange], attempt: Attempt, rows: int) -> StateList:
        state = super().commit_state(task, changes, attempt, rows)
        return replace(state, fired_ms=max(state.fired_ms or 0, task.base.fired_ms or 0))


class NeverAlone(TimedDriver):
    """Timers wait for rows."""

    def is_batch_due(self) -> bool:
        return False


class TheLastOfASlice(TimedDriver):
    """Says when the last timer of a slice is due, not the first."""

    def changes_of(self, one: Slice, tables: list[Table], delta: Table, pack: Pack) -> Iterable[SliceChange]:
        for change in super().changes_of(one, tables, delta, pack):
            due_ms = change.next_due_ms
            yield replace(change, next_due_ms=None if due_ms is None else due_ms + 150)


class AnotherBound(SetAgainForEver):
    """Asks for a batch by another bound than that up to which it fires."""

    def is_batch_due(self) -> bool:
        return is_batch_due(map(StateList.from_json, self.state.values()), self.asked_ms + 100, self.asked_ms + 100)


class FiringProposal(resolution.Proposal):
    """Takes the timers of the batch that it passes for fired."""

    def marker(self, attempt: Attempt, committed_at_ms: int) -> Marker:
        marker = super().marker(attempt, committed_at_ms)
        if self.plan is None or OPERATOR not in marker.state:
            return marker
        state: Json = {**marker.state[OPERATOR], "fired_ms": self.plan.planned_at_ms}
        return replace(marker, state={OPERATOR: state})


MUTANTS: dict[type[TimedDriver], Focus | None] = {
    StoredAsAsked: None,
    FiredByThePlanBefore: OPERATORS,
    TimeOfThePlanAlone: None,
    NeverAlone: None,
    TheLastOfASlice: None,
    AnotherBound: None,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_rule_left_out_is_caught(mutant: type[TimedDriver]) -> None:
    caught(mutant, MUTANTS[mutant])


def test_an_operator_that_fires_what_it_passes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "Proposal", FiringProposal)
    caught(Unchecked, OPERATORS)


def caught(driver_class: type[TimedDriver], focus: Focus | None) -> None:
    assert_caught(driver_class, lambda seed: StatefulSimulation(seed, driver_class, focus=focus).faults())
