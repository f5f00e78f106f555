"""A machine whose clock is far ahead of the store's plans nothing by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once import GroupState, JsonState, MapGroupsWithState
from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.clock import now_ms
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.object_store.local import LocalStore
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.pipelines.clock_check import BatchClock
from support.timers.timed_stream import NEW_YEAR_MS, RunningClock, TimedStream

pytestmark = pytest.mark.runs_on("DirectRunner")


def remembered(key: int, values: list[int], state: GroupState[int]) -> Iterator[tuple[int, int]]:
    state.update(len(values))
    yield key, len(values)


REMEMBERED = "Remember" >> MapGroupsWithState(remembered, state=JsonState())


def test_a_clock_far_ahead_of_the_stores_is_refused_before_a_driver_that_works_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStore, "written_at_ms", lambda _, key: NEW_YEAR_MS)
    stream = TimedStream(tmp_path)
    stream.produce(1)
    with pytest.raises(
        ConfigurationError, match=r"the clock of this machine is 86400 s ahead of that of .*/checkpoint"
    ):
        stream.run_at(86_400, REMEMBERED)
    assert stream.planned_s() == []
    assert Checkpoint.open(open_object_store(str(tmp_path / "checkpoint"))).newest_writer_epoch() == 0
    stream.run_at(300, REMEMBERED)
    assert (stream.planned_s(), stream.written()) == ([300.0], [(1, 1)])
    assert not list((tmp_path / "checkpoint").glob(".verify/*"))


class SetClock(RunningClock):
    """Is set forward behind the first batch."""

    def __init__(self, is_set: Callable[[], Any]) -> None:
        super().__init__()
        self._is_set = is_set

    def utc_now(self) -> datetime:
        return super().utc_now() + timedelta(hours=2 if self._is_set() else 0)


def test_a_clock_that_is_set_far_ahead_between_two_batches_plans_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStore, "written_at_ms", lambda _, key: NEW_YEAR_MS)
    stream = TimedStream(tmp_path)
    stream.clock = SetClock(lambda: stream.progress)
    stream.produce(1)
    with pytest.raises(ConfigurationError, match="the clock of this machine is 7200 s ahead"):
        stream.run_at(0, REMEMBERED)
    assert (stream.planned_s(), stream.written()) == ([0.0], [(1, 1)])


def test_only_a_clock_that_moves_otherwise_than_time_passes_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept for two hours: its clock and that of the store went on, its steady one did not."""
    asked: list[str] = []
    slept: list[bool] = []
    clock = SetClock(lambda: slept)
    monkeypatch.setattr(MemoryStore, "written_at_ms", lambda _, key: asked.append(key) or now_ms(clock))
    batches = BatchClock(MemoryStore("clocks"), clock)
    clock.seconds = 90_000
    assert (batches.now_ms(), asked) == (NEW_YEAR_MS + 90_000_000, [])
    slept.append(True)
    for _ in range(2):
        assert batches.now_ms() == NEW_YEAR_MS + 97_200_000
    assert len(asked) == 2


def test_a_stream_that_goes_by_no_clock_asks_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "written_at_ms", lambda _, key: pytest.fail(f"asked for {key}"))
    stream = TimedStream(tmp_path)
    stream.produce(1)
    stream.run_at(0, "Same" >> beam.Map(lambda pair: pair))
    assert stream.written() == [(1, 1)]
