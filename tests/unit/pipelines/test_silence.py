"""A pipeline that publishes nothing is given up only while there is work, and only for time that its driver saw pass."""

from __future__ import annotations

from typing import Any, cast

import pytest

from beam_exactly_once.checkpoint import Checkpoint, Plan, SourcePlan
from beam_exactly_once.errors import RunnerUnavailable
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.pipelines.continuous.silence import NO_PLAN_S, Silence
from support.checkpoints import NOW, fresh_checkpoint
from support.hand_made_stream import HandClock


class Planner:
    """Has something to read, or not."""

    has_work = True

    def refresh(self) -> None: ...

    def plan(self, planned_at_ms: int) -> SourcePlan:
        return SourcePlan((OffsetRange("orders", 0, 0, 1),) if self.has_work else (), (), {})


class Watched:
    def __init__(self, batch_timeout_s: float | None = 100.0) -> None:
        self.clock, self.planner = HandClock(), Planner()
        self.checkpoint: Checkpoint = fresh_checkpoint()
        self.is_due = False
        self.silence = Silence(
            self.clock,
            self.checkpoint,
            cast(Any, {"kafka": self.planner}),
            lambda sources, at_ms: self.is_due and "kafka" in sources,
            batch_timeout_s,
        )

    def pass_by(self, seconds: float, *, step_s: float = 0.5) -> None:
        for _ in range(int(seconds / step_s)):
            self.clock.seconds += step_s
            if self.silence.is_checked_now():
                self.silence.check(0)


def test_work_without_a_plan() -> None:
    watched = Watched()
    watched.pass_by(NO_PLAN_S - 1)
    with pytest.raises(RunnerUnavailable, match="planned nothing in 60 s"):
        watched.pass_by(3)


def test_a_timer_that_is_due_is_work() -> None:
    watched = Watched()
    watched.planner.has_work, watched.is_due = False, True
    with pytest.raises(RunnerUnavailable, match="there was something to do"):
        watched.pass_by(NO_PLAN_S + 2)


def test_nothing_to_read_is_no_silence() -> None:
    watched = Watched()
    watched.planner.has_work = False
    watched.pass_by(10_000)


@pytest.mark.parametrize("batch_timeout_s", [100.0, None])
def test_a_planned_batch_has_its_own_time(batch_timeout_s: float | None) -> None:
    watched = Watched(batch_timeout_s)
    watched.checkpoint.create_plan(Plan(0, 1, NOW, {}))
    watched.pass_by(99)
    if batch_timeout_s is None:
        watched.pass_by(10_000)
        return
    with pytest.raises(RunnerUnavailable, match="did not publish batch 0 in batch_timeout_s=100 s"):
        watched.pass_by(3)


def test_a_publish_begins_anew() -> None:
    watched = Watched()
    for _ in range(10):
        watched.pass_by(NO_PLAN_S - 1)
        watched.silence.ends()


def test_a_driver_that_was_frozen_saw_no_time_pass() -> None:
    watched = Watched()
    watched.pass_by(30_000, step_s=1_000)
    watched.pass_by(20)
    with pytest.raises(RunnerUnavailable):
        watched.pass_by(20)


def test_nothing_to_do_is_no_silence_but_idleness() -> None:
    watched = Watched()
    watched.planner.has_work = False
    watched.pass_by(2 * NO_PLAN_S)
    assert watched.silence.is_idle
    watched.planner.has_work = True
    watched.pass_by(2)
    assert not watched.silence.is_idle
