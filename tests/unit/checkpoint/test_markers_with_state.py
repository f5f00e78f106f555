"""Markers with state: passed on by an operator, spilled, and refused by older versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from beam_exactly_once.checkpoint import Marker, Plan, envelope, layout, location
from beam_exactly_once.checkpoint.records import CarriedState, Outcome
from beam_exactly_once.checkpoint.resolution import propose, resolve
from beam_exactly_once.checkpoint.retention import Retention
from beam_exactly_once.errors import ConfigurationError, NewerFormat
from support.hand_made_stream import HandMadeStream

STATE = {"counts": {"generation": 1, "fired_ms": 17, "keys": 3, "objects": [], "slices": [["0", None, []]]}}


@pytest.fixture
def stream(tmp_path: Path) -> HandMadeStream:
    return HandMadeStream(tmp_path)


def committed(stream: HandMadeStream, batch_id: int) -> Marker:
    marker = replace(stream.marker(stream.plan(batch_id)), state=STATE)
    stream.publish(stream.writer.commit(marker))
    return marker


def passed(stream: HandMadeStream, batch_id: int, outcome: Outcome) -> None:
    resolve(propose(stream.checkpoint.store, batch_id, outcome), owner="ann", clock=stream.clock)


def reader_version(stream: HandMadeStream, key: str) -> int:
    stored: dict[str, Any] = orjson.loads(stream.path(key).read_bytes())
    return int(stored["min_reader_version"])


@pytest.mark.parametrize(("outcome", "is_readable"), [("skipped", True), ("abandoned", True), ("abandoned", False)])
def test_a_batch_that_is_passed_leaves_lists_and_bounds_as_they_were(
    stream: HandMadeStream, outcome: Outcome, is_readable: bool
) -> None:
    committed(stream, 0)
    stream.plan(1)
    if not is_readable:
        stream.corrupt_plan(1)
    passed(stream, 1, outcome)
    newest = stream.checkpoint.newest_marker()
    assert newest is not None
    assert (newest.batch_id, newest.outcome, newest.state) == (1, outcome, STATE)


def test_a_spilled_list_is_written_anew_by_who_repeats_it(
    stream: HandMadeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the sweep of the batch that had it first does not take it away."""
    monkeypatch.setattr(location, "MAX_MARKER_BYTES", 10)
    committed(stream, 0)
    for batch_id, outcome in ((1, "skipped"), (2, "abandoned")):
        stream.plan(batch_id)
        passed(stream, batch_id, outcome)  # type: ignore[arg-type] # both are outcomes
        stream.claim()
    Retention(stream.checkpoint, 1).sweep_all(2)
    (left,) = stream.checkpoint.store.list(layout.SPILLED)
    assert left.key.startswith(f"{layout.SPILLED}{2:020d}-")
    newest = stream.checkpoint.newest_marker()
    assert newest is not None
    assert newest.state == STATE


def test_versions_that_do_not_carry_state_on_refuse_a_location_with_state(
    stream: HandMadeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would decide the next batch without it. Once all operators are dropped, they may go on."""
    committed(stream, 0)
    stream.publish(stream.commit(stream.plan(1)))
    versions = [reader_version(stream, layout.commits_key(batch_id)) for batch_id in (0, 1)]
    assert versions == [envelope.STATE_READER_VERSION, envelope.MIN_READER_VERSION]
    monkeypatch.setattr(envelope, "FORMAT_VERSION", envelope.STATE_READER_VERSION - 1)
    with pytest.raises(NewerFormat, match=f"{layout.commits_key(0)} needs a reader of format version 3"):
        stream.checkpoint.read_marker(0)
    assert stream.checkpoint.read_marker(1) is not None


CARRIES = CarriedState("s3://old", "0" * 16, 7, "d" * 32, ("counts",))


def test_such_versions_refuse_a_batch_that_carries_state_along(stream: HandMadeStream) -> None:
    """To them it would be a batch with nothing to read."""
    plan = stream.checkpoint.create_plan(Plan(0, 1, 0, {}, carries=CARRIES)).record
    assert stream.checkpoint.read_plan(0) == plan
    assert reader_version(stream, layout.offsets_key(0)) == envelope.STATE_READER_VERSION


@pytest.mark.parametrize("is_readable", [True, False], ids=["readable", "unreadable"])
def test_a_batch_that_carries_state_along_is_not_passed(stream: HandMadeStream, is_readable: bool) -> None:
    """The stream would go on without. Its sinks are recorded only behind that batch."""
    stream.checkpoint.store.delete([layout.definition_key(layout.SINKS, "files")])
    stream.checkpoint.create_plan(Plan(0, 1, 0, {}, carries=CARRIES))
    if not is_readable:
        stream.corrupt_plan(0)
    with pytest.raises(
        ConfigurationError, match=r"batch 0 of .* cannot be passed: it carries the state of another stream"
    ):
        passed(stream, 0, "abandoned")
    assert stream.checkpoint.newest_marker() is None
