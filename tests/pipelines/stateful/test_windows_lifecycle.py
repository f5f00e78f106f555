"""Windows of event time through kills, replays, passed batches, another lateness and another stream: each closes once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once import CheckpointAt
from beam_exactly_once.checkpoint.resolution import propose, resolve
from beam_exactly_once.clock import SYSTEM_CLOCK
from beam_exactly_once.errors import PipelineChanged
from beam_exactly_once.state.upkeep.looking import StateView
from support.timers.event_stream import seconds_of
from support.timers.windowed_stream import WindowedStream

pytestmark = pytest.mark.runs_on("DirectRunner")


@pytest.fixture
def stream(tmp_path: Path) -> WindowedStream:
    return WindowedStream(tmp_path)


@pytest.mark.parametrize("prefix", ["offsets/", "state/", "commits/"])
@pytest.mark.parametrize("occurrence", [1, 2])
def test_killed_while_windows_close(stream: WindowedStream, prefix: str, occurrence: int) -> None:
    """The first batch of the second life closes nothing yet; the next one reads nothing, and closes two minutes."""
    stream.both(1, 30, 61)
    stream.run(100)
    stream.both(62, 131)
    stream.killed(200, prefix, occurrence)
    stream.run(300)
    assert sorted(stream.counts()) == [(0, 4), (60, 4)]
    assert stream.late() == []


@pytest.mark.parametrize("outcome", ["skipped", "abandoned"])
def test_a_batch_that_is_passed_closes_no_window(stream: WindowedStream, outcome: Any) -> None:
    stream.both(1, 71)
    stream.killed(100, "offsets/", 2)  # the batch that would close the first minute reads nothing
    resolve(propose(stream.store(), 1, outcome), owner="a test", clock=SYSTEM_CLOCK)
    assert stream.counts() == []
    stream.both(2)
    stream.run(200)
    assert stream.counts() == [(0, 4)]
    assert stream.late() == []


def test_other_lateness_at_each_start_neither_loses_a_window_nor_gives_it_again(stream: WindowedStream) -> None:
    """Seen elsewhere: a window that was given comes again, with what came since."""
    stream.both(1, 71)
    stream.run(100, allowed_lateness_s=0)
    assert stream.counts() == [(0, 2)]
    stream.both(2)
    stream.run(200, allowed_lateness_s=600)
    assert stream.late() == [2, 2]
    stream.both(300)
    stream.run(300, allowed_lateness_s=600)
    assert stream.counts() == [(0, 2)]
    stream.run(400, allowed_lateness_s=30)
    assert stream.counts() == [(0, 2), (60, 2)]


def test_who_goes_on_elsewhere_takes_open_windows_along(stream: WindowedStream) -> None:
    stream.both(1, 71)
    stream.run(100)
    old, stream.location = stream.location, f"{stream.location}-new"
    stream.folder /= "new"
    stream.arguments = {"continue_from": CheckpointAt(old)}
    stream.both(2, 72, 131)
    stream.run(200)
    assert stream.counts() == [(60, 4)]
    assert stream.late() == [2, 2]


def test_windows_of_another_size_are_refused(stream: WindowedStream) -> None:
    stream.both(1)
    stream.run(100)
    with pytest.raises(PipelineChanged, match=r"operator 'minutes' had window=.*60000.*30000"):
        stream.run(200, size_s=30)


def test_an_idle_stream_plans_nothing(stream: WindowedStream) -> None:
    """Open windows cost no batch, until the watermark comes to one."""
    stream.both(1, 20)
    for at_s in (100, 101, 102):
        stream.run(at_s)
    assert len(stream.planned()) == 1


def test_a_partition_that_went_idle_closes_windows_without_records(stream: WindowedStream) -> None:
    stream.happen(0, 1, 200)
    stream.happen(1, 1)
    stream.run(100)
    assert stream.counts() == []
    stream.run(161)  # nothing came for a minute
    assert stream.counts() == [(0, 2)]


def test_open_windows_are_shown(stream: WindowedStream) -> None:
    stream.both(1, 61, 62, 125)
    stream.run(100)
    shown = StateView(stream.store()).of_key("minutes", "all")
    assert [(seconds_of(one.at_ms), one.key, one.value) for one in shown] == [(120, "all", 4), (180, "all", 2)]
    assert list(StateView(stream.store()).all_keys("minutes")) == shown
