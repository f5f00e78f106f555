"""Crashes, freezes and lost answers at every single call of a driver's life: alone, and with others going on from there.

A life here is start, recovery, some batches, sweeps and end. Checked by value, as in the random simulation.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from beam_exactly_once.checkpoint import Marker, StreamWriter
from beam_exactly_once.errors import Fenced
from support.simulation.driver import Driver
from support.simulation.script import Stage, calls_of
from support.simulation.world import Actor, Fate


def whole_life(stage: Stage) -> Actor:
    driver = stage.driver()
    stage.run(driver)
    return driver


LIFE = calls_of(whole_life)
RECOVERY = 24
"""Calls of a second life that the pairs below enumerate: claim, recovery, publishing again, replay, and a batch more."""


def finish(stage: Stage) -> list[str]:
    """A last driver goes to the end; what is not as promised then?"""
    last = stage.driver()
    stage.run(last)
    return stage.faults(last)


def check(stage: Stage, what: str) -> None:
    """``what`` was done; all must be well in the end."""
    faults = finish(stage)
    assert faults == [], f"{what}: {faults}\n{stage.world.story()}"


def test_a_life_has_more_than_one_batch_and_sweeps() -> None:
    stage = Stage()
    whole_life(stage)
    kinds = [call.kind for _, _, call in stage.world.trace if call is not None]
    assert kinds.count(("create", "commits")) >= 3
    assert kinds.count(("delete", "commits")) >= 2
    assert finish(stage) == []


def test_crashed_before_any_call() -> None:
    for call in range(1, LIFE + 1):
        stage = Stage()
        first = stage.driver()
        stage.run(first, stop_before=call)
        stage.crash(first)
        check(stage, f"crashed before call {call}")


def test_crashed_before_any_call_and_again_in_the_next_life() -> None:
    for call in range(1, LIFE + 1):
        for next_call in range(1, RECOVERY + 1):
            stage = Stage()
            for stop_before in (call, next_call):
                driver = stage.driver()
                stage.run(driver, stop_before=stop_before)
                stage.crash(driver)
            check(stage, f"crashed before call {call}, then before call {next_call}")


def test_frozen_before_any_call_while_another_goes_to_the_end() -> None:
    for call in range(1, LIFE + 1):
        stage = Stage()
        frozen = stage.driver()
        stage.run(frozen, stop_before=call)
        whole_life(stage)
        stage.run(frozen)
        check(stage, f"frozen before call {call}")


def test_frozen_before_any_call_while_another_crashes_before_any_call() -> None:
    for call in range(1, LIFE + 1):
        for other_call in range(1, RECOVERY + 1):
            stage = Stage()
            frozen, other = stage.driver(), stage.driver()
            stage.run(frozen, stop_before=call)
            stage.run(other, stop_before=other_call)
            stage.crash(other)
            stage.run(frozen)
            check(stage, f"frozen before call {call}, the other crashed before call {other_call}")


def test_two_drivers_change_places_at_any_two_calls() -> None:
    for call in range(1, LIFE + 1):
        for other_call in range(1, RECOVERY + 1):
            stage = Stage()
            first, second = stage.driver(), stage.driver()
            stage.run(first, stop_before=call)
            stage.run(second, stop_before=other_call)
            stage.run(first)
            stage.run(second)
            check(stage, f"first up to call {call}, second up to call {other_call}, first, second")


@pytest.mark.parametrize("fate", [Fate.REQUEST_LOST, Fate.ANSWER_LOST, Fate.DELAYED])
def test_no_answer_to_any_call(fate: Fate) -> None:
    """Alone: the driver asks again until it knows. What is delayed is carried out at the end."""
    for call in range(1, LIFE + 1):
        stage = Stage()
        stage.script.fates["driver 1", call] = fate
        whole_life(stage)
        land(stage)
        check(stage, f"{fate.value}: call {call}")


@pytest.mark.parametrize("fate", [Fate.ANSWER_LOST, Fate.DELAYED])
def test_no_answer_to_any_call_and_a_crash(fate: Fate) -> None:
    """The driver dies without knowing. What is delayed is carried out before, or after, another driver's whole life."""
    for late in (False, True):
        for call in range(1, LIFE + 1):
            stage = Stage()
            stage.script.fates["driver 1", call] = fate
            first = stage.driver()
            stage.run(first, stop_before=call + 1)
            stage.crash(first)
            if late:
                whole_life(stage)
            land(stage)
            check(stage, f"{fate.value}: call {call}, then a crash; carried out {'late' if late else 'at once'}")


def land(stage: Stage) -> None:
    """Carry out what is under way."""
    while stage.world.in_flight:
        stage.world.deliver(0)


# -- late workers ----------------------------------------------------------------------------------------------------


class ForgetsOneWorker(Driver):
    """Its runner takes the first worker of this name for dead, and repeats the work."""

    forgotten_work = ""

    def maybe_forget(self, what: str, work: Callable[[], None]) -> None:
        if self.name != "driver 2" or what != self.forgotten_work:
            return
        type(self).forgotten_work = ""
        self.scene.weather.worker_forgotten = 1.0
        try:
            super().maybe_forget(what, work)
        finally:
            self.scene.weather.worker_forgotten = 0.0


class BelievesAnyWinner(StreamWriter):
    def ensure_original(self, batch_id: int) -> None:
        pass


class BelievesItsOwnCreate(StreamWriter):
    def commit(self, marker: Marker) -> Marker:
        decided = self.create_marker(marker)
        self.ensure_newest()
        if not decided.mine:
            self.ensure_original(marker.batch_id)
        return decided.record


def late_worker(
    work: str,
    writer_class: type[StreamWriter],
    call: int,
    worker_call: int,
    driver_class: type[ForgetsOneWorker] = ForgetsOneWorker,
) -> Stage:
    """Driver 1 freezes; driver 2 loses a worker, goes to the end and sweeps; driver 1 wakes, and then the worker."""
    mutant = type("Mutant", (driver_class,), {"forgotten_work": work, "writer_class": writer_class})
    stage = Stage(mutant)
    first, second = stage.driver(), stage.driver()
    stage.run(first, stop_before=call)
    stage.run(second, stop_at_spawn=True)
    workers = [actor for actor in stage.world.actors if actor not in (first, second)]
    for worker in workers:
        stage.run(worker, stop_before=worker_call)
    for actor in (second, first, *workers):
        stage.run(actor)
    return stage


WORKER_CALLS = 8
LATE_WORKS = ["batch 0", "publishing batch 0 again"]


@pytest.mark.parametrize("work", LATE_WORKS)
def test_a_worker_that_wakes_when_its_own_driver_is_far_ahead(work: str) -> None:
    late = 0
    for call in range(1, LIFE + 1):
        for worker_call in range(1, WORKER_CALLS + 1):
            stage = late_worker(work, StreamWriter, call, worker_call)
            late += any(isinstance(actor.error, Fenced) for actor in stage.world.actors if "forgotten" in actor.name)
            check(stage, f"driver 1 frozen before call {call}, the worker before its call {worker_call}")
    assert late > 0, "no worker was late"


@pytest.mark.parametrize("left_out", [BelievesAnyWinner, BelievesItsOwnCreate])
def test_such_a_worker_must_not_believe_every_winner(left_out: type[StreamWriter]) -> None:
    """The rule left out: it publishes what a replaced driver's late create put where the marker was swept, or what it put
    there itself, after it staged its rows again."""
    faults = [fault for call in range(1, LIFE + 1) for fault in finish(late_worker("batch 0", left_out, call, 1))]
    assert any("is doubled" in fault for fault in faults)


class LeavesStagedOutput(ForgetsOneWorker):
    def sweep(self, published_batch_id: int) -> None:
        self.retention.sweep_all(published_batch_id)


def test_that_a_sink_sweeps_what_is_staged_is_not_what_saves_us() -> None:
    for call in range(1, LIFE + 1):
        for worker_call in range(1, WORKER_CALLS + 1):
            stage = late_worker("batch 0", StreamWriter, call, worker_call, LeavesStagedOutput)
            check(stage, f"driver 1 frozen before call {call}, the worker before its call {worker_call}")
