"""Output and state move together, in the random histories of the protocol; each rule of the state left out is caught.

SIMULATION_SEEDS=100000 pytest tests/simulation/test_state_histories.py     # more histories
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from beam_exactly_once.checkpoint import Attempt, Marker, Plan, StreamWriter, layout, location, resolution
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.state.state_list import Section, Slice, SliceChange, StateChange, StateList
from beam_exactly_once.state.upkeep import sweeping
from support.simulation import stateful_driver
from support.simulation.caught import assert_caught
from support.simulation.histories import LATE_WORKER_WITH_STATE, OPERATORS, Focus
from support.simulation.script import Script, Stage
from support.simulation.stateful_driver import StatefulDriver, Task
from support.simulation.stateful_histories import StatefulSimulation
from support.simulation.tables import Entry, Pack, Table, within
from support.simulation.world import Actor, Call, World

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "250"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))
PARTS = min(2, SEEDS)
FOCUSED_SEEDS = 60


@pytest.mark.parametrize("part", range(PARTS))
def test_output_and_state_move_together(part: int) -> None:
    for seed in range(FIRST_SEED + part, FIRST_SEED + SEEDS, PARTS):
        StatefulSimulation(seed).assert_sound()


def test_they_move_together_when_markers_keep_their_lists_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "MAX_MARKER_BYTES", 300)
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS // 8):
        StatefulSimulation(seed).assert_sound()


# -- names and caches ------------------------------------------------------------------------------------------------


class LooseList(StateList):
    """A list that believes what workers say."""

    ignored = ""

    def _faults(self, changes: Any) -> list[str]:
        return [fault for fault in super()._faults(changes) if self.ignored not in fault]


class WithoutTiling(LooseList):
    ignored = "changed by none"


class WithoutBase(LooseList):
    ignored = "stand on another list"


class LooseDriver(StatefulDriver):
    list_class: type[StateList] = LooseList

    def base(self) -> StateList:
        base = super().base()
        return self.list_class(base.generation, base.slices, base.fired_ms, base.keys)


class ShardsNotTiled(LooseDriver):
    list_class = WithoutTiling


class BaseNotCompared(LooseDriver):
    list_class = WithoutBase


class RowsNotCounted(StatefulDriver):
    """Believes that what came is all that was sent."""

    def commit_state(self, task: Task, changes: list[StateChange], attempt: Attempt, rows: int) -> StateList:
        return super().commit_state(task, changes, attempt, sum(change.rows_in for change in changes))


class NamedByTheBatchAlone(StatefulDriver):
    """Whoever comes later takes what is there for its own."""

    def token_of(self, attempt: Attempt) -> tuple[str, str]:
        return "0", "0" * 16

    def commit_state(self, task: Task, changes: list[StateChange], attempt: Attempt, rows: int) -> StateList:
        return super().commit_state(task, changes, Attempt(0, attempt.batch_id, "0"), rows)

    def write(self, pack: Pack) -> None:
        if pack.body:
            self.scene.checkpoint_store.put_if_absent(pack.key, pack.body)

    def read_section(self, section: Section, one: Slice, attempt: Attempt) -> Table:
        body = self.scene.checkpoint_store.get(section.object_key) or b"{}"
        return within(one, _table(body[section.offset : section.offset + section.size_bytes]))


class CachedByBatch(StatefulDriver):
    """Not by content: what a losing attempt left is found in its place."""

    def read_section(self, section: Section, one: Slice, attempt: Attempt) -> Table:
        name = f"{layout.state_batch_id(section.object_key)}-{section.offset}-{section.size_bytes}"
        if name not in self.scene.cache:
            super().read_section(section, one, attempt)
            self.scene.cache[name] = self.scene.cache[section.digest]
        return within(one, _table(self.scene.cache[name]))

    def write(self, pack: Pack) -> None:
        super().write(pack)
        batch_id = layout.state_batch_id(pack.key)
        self.scene.cache[f"{batch_id}-0-{len(pack.body)}"] = pack.body


def _table(content: bytes) -> Table:
    try:
        return {key: Entry(offsets, due_ms) for key, (offsets, due_ms) in orjson.loads(content).items()}
    except orjson.JSONDecodeError:
        return {}


class OwnListTaken(StatefulDriver):
    """Goes on from what its own attempt made, whoever won."""

    def commit_and_publish(self, writer: Any, marker: Marker) -> Marker:
        self.own = marker
        return super().commit_and_publish(writer, marker)

    def state_after(self, won: Marker) -> Mapping[str, Json]:
        return self.own.state


# -- sweeping --------------------------------------------------------------------------------------------------------


class NeverReplaced(StreamWriter):
    def ensure_newest(self) -> None:
        pass


class SweptByTheOldestAlone(StatefulDriver):
    """Takes the marker that it finds for the original. The successor check before the delete would stand in for it."""

    def sweep_state(self, oldest_retained: int) -> None:
        writer = NeverReplaced(self.checkpoint, self.writer.writer_epoch)
        sweeping.sweep_state(writer, oldest_retained=oldest_retained, newest={})


class SweptUpToTheNewest(StatefulDriver):
    """Does not think of the batches that are retained, to be looked at."""

    def sweep_state(self, oldest_retained: int) -> None:
        super().sweep_state(oldest_retained + self.scene.retain_batches - 1)


class SweptAboveTheNewest(StatefulDriver):
    """Whatever no list names: also what a running attempt has just written."""

    def sweep_state(self, oldest_retained: int) -> None:
        named = {key for one in self.state.values() for key in StateList.from_json(one).object_keys}
        store = self.checkpoint.store
        store.delete([entry.key for entry in store.list(layout.STATE) if entry.key not in named])


# -- timers ----------------------------------------------------------------------------------------------------------


class TimersFromThePlans(StatefulDriver):
    """Takes what the plan before was to fire for fired, though the batch was passed by an operator."""

    def task_of(self, plan: Plan) -> Task:
        before = self.checkpoint.read_plan(plan.batch_id - 1) if plan.batch_id else None
        self.before_ms = 0 if before is None else before.planned_at_ms
        return super().task_of(plan)

    def due(self, task: Task, known: Table, delta: Table) -> list[str]:
        lower = max(task.base.fired_ms or 0, self.before_ms)
        return super().due(Task(replace(task.base, fired_ms=lower), task.fires_to_ms), known, delta)

    def changes_of(self, one: Slice, tables: list[Table], delta: Table, pack: Pack) -> Iterable[SliceChange]:
        return _without_dues(super().changes_of(one, tables, delta, pack))


class OwnRowsNotDue(StatefulDriver):
    """Looks for timers in what the batch before left, alone."""

    def due(self, task: Task, known: Table, delta: Table) -> list[str]:
        return [key for key in super().due(task, known, delta) if key not in delta]

    def changes_of(self, one: Slice, tables: list[Table], delta: Table, pack: Pack) -> Iterable[SliceChange]:
        return _without_dues(super().changes_of(one, tables, delta, pack))


def _without_dues(changes: Iterable[SliceChange]) -> Iterable[SliceChange]:
    """The commit would find them."""
    return (replace(change, next_due_ms=None) for change in changes)


# -- an operator, tombstones -----------------------------------------------------------------------------------------


class ForgetfulProposal(resolution.Proposal):
    def marker(self, attempt: Attempt, committed_at_ms: int) -> Marker:
        return replace(super().marker(attempt, committed_at_ms), state={})


class TombstonesDropped(StatefulDriver):
    """When some sections are merged, and older ones stay."""

    def changes_of(self, one: Slice, tables: list[Table], delta: Table, pack: Pack) -> Iterable[SliceChange]:
        bare = Bare(pack.key, pack.body)
        yield from super().changes_of(one, tables, delta, bare)
        pack.body = bare.body


@dataclass
class Bare(Pack):
    """Only deltas keep their tombstones."""

    def add(self, table: Table) -> Section | None:
        return super().add({key: entry for key, entry in table.items() if entry.offsets} if self.body else table)


LOSERS = Focus((("create", "commits"), ("create", "state")))

MUTANTS: dict[type[StatefulDriver], Focus | None] = {
    ShardsNotTiled: None,
    BaseNotCompared: None,
    RowsNotCounted: None,
    NamedByTheBatchAlone: LOSERS,
    CachedByBatch: LOSERS,
    OwnListTaken: LOSERS,
    SweptUpToTheNewest: None,
    SweptAboveTheNewest: LATE_WORKER_WITH_STATE,
    TimersFromThePlans: OPERATORS,
    OwnRowsNotDue: None,
    TombstonesDropped: None,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_rule_left_out_is_caught(mutant: type[StatefulDriver]) -> None:
    caught(mutant, MUTANTS[mutant])


def test_an_operator_that_forgets_the_state_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "Proposal", ForgetfulProposal)
    caught(StatefulDriver, OPERATORS)


def caught(driver_class: type[StatefulDriver], focus: Focus | None) -> None:
    assert_caught(driver_class, lambda seed: StatefulSimulation(seed, driver_class, focus=focus).faults())


@pytest.mark.parametrize("focus", [LATE_WORKER_WITH_STATE, LOSERS, OPERATORS])
def test_the_state_holds_where_the_rare_mutants_fail(focus: Focus) -> None:
    for seed in range(FOCUSED_SEEDS):
        StatefulSimulation(seed, focus=focus).assert_sound()


class StopsAt(Script):
    """Whoever runs is stopped before the ``count``-th call of a kind."""

    def __init__(self) -> None:
        super().__init__()
        self.stop_at: tuple[str, str] | None = None
        self.count = 0

    def before(self, world: World, actor: Actor, call: Call) -> None:
        super().before(world, actor, call)
        if (call.method, call.key) == self.stop_at:
            self.count -= 1
            if not self.count:
                self.running, self.stop_at = None, None


@pytest.mark.parametrize(("driver_class", "is_right"), [(StatefulDriver, True), (SweptByTheOldestAlone, False)])
def test_a_frozen_sweeper_meets_a_marker_that_a_late_worker_created_again(
    driver_class: type[StatefulDriver], is_right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker lies below the newest, names what the late worker wrote, and nothing of what all later lists stand on."""
    monkeypatch.setattr(stateful_driver, "TOO_MANY_SECTIONS", 1000)
    script = StopsAt()
    stage = Stage(driver_class, script)
    first = stage.driver()
    stage.run(first, stop_before=1)
    stage.scene.weather.worker_forgotten = 1.0
    stage.run(first, stop_at_spawn=True)
    (late_worker,) = (actor for actor in stage.world.actors if actor is not first)
    stage.scene.weather.worker_forgotten = 0.0
    script.stop_at, script.count = ("get", layout.commits_key(0)), 2  # the second is the sweep's
    stage.run(first)
    second = stage.driver()
    stage.run(second)
    assert layout.commits_key(0) not in stage.scene.checkpoint_store.objects
    stage.run(late_worker)
    assert layout.commits_key(0) in stage.scene.checkpoint_store.objects
    stage.run(first)
    stage.scene.latest = {one: offset + 3 for one, offset in stage.scene.latest.items()}
    stage.scene.grows_to += 3
    stage.scene.cache.clear()
    third = stage.driver()
    stage.run(third)
    assert (stage.faults(second, third) == []) == is_right
