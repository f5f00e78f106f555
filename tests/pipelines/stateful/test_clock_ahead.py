"""A machine whose clock is far ahead of the store's plans nothing by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest

from beam_exactly_once import GroupState, JsonState, MapGroupsWithState
from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.object_store.local import LocalStore
from support.timers.timed_stream import NEW_YEAR_MS, TimedStream

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


def test_a_stream_that_goes_by_no_clock_asks_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "written_at_ms", lambda _, key: pytest.fail(f"asked for {key}"))
    stream = TimedStream(tmp_path)
    stream.produce(1)
    stream.run_at(0, "Same" >> beam.Map(lambda pair: pair))
    assert stream.written() == [(1, 1)]
