"""Streams whose keys have timeouts: by value, through restarts, kills, replays and passed batches; no test waits for a clock."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apache_beam as beam
import orjson
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from beam_exactly_once import (
    DeduplicateByKey,
    GroupState,
    JsonState,
    MapGroupsWithState,
    ProcessingTime,
    ReadFromKafka,
    StatefulCombinePerKey,
    WriteToFiles,
)
from beam_exactly_once.checkpoint import layout
from beam_exactly_once.checkpoint.envelope import Envelope, seal
from beam_exactly_once.checkpoint.resolution import propose, resolve
from beam_exactly_once.clock import SYSTEM_CLOCK
from beam_exactly_once.errors import BeamExactlyOnceError, ConfigurationError, UnsupportedPipeline
from beam_exactly_once.testing import run_in_memory
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.checkpoints import overwrite
from support.command_line import run
from support.ending import ends_with, kill
from support.keyed_stream import keyed, row_of
from support.timers.timed_stream import NEW_YEAR_MS, TimedStream

pytestmark = pytest.mark.runs_on("DirectRunner")

GAP_MS = 10_000


def session(key: int, values: list[int], state: GroupState[list[int]]) -> Iterator[tuple[int, Any]]:
    """The numbers of a key up to a gap of ten seconds."""
    if state.timed_out:
        yield key, state.value
        state.remove()
    else:
        state.update(sorted([*(state.value or []), *values]))
        state.set_timeout(state.now_ms + GAP_MS)


SESSIONS = "Sessions" >> MapGroupsWithState(session, state=JsonState())


@pytest.fixture
def stream(tmp_path: Path) -> TimedStream:
    return TimedStream(tmp_path)


def test_a_timeout_fires_in_a_batch_that_reads_nothing(stream: TimedStream) -> None:
    stream.produce(1, 2, 11)
    stream.run_at(0, SESSIONS)
    stream.produce(21)
    stream.run_at(9, SESSIONS)
    stream.run_at(11, SESSIONS)
    assert stream.written() == [(2, [2])]
    stream.run_at(18.9, SESSIONS)
    stream.run_at(19, SESSIONS)
    assert stream.written() == [(2, [2]), (1, [1, 11, 21])]
    assert [one.records_read for one in stream.progress] == [2, 1, 1, 0, 0]
    assert run("verify", stream.location).exit_code == 0


def test_a_clock_that_ran_ahead_is_named_and_nothing_is_lost(
    stream: TimedStream, caplog: pytest.LogCaptureFixture
) -> None:
    stream.produce(1)
    stream.run_at(86_400, SESSIONS)
    stream.produce(2)
    stream.run_at(60, SESSIONS)
    assert "the time of operator 'map_groups_with_state' is 86340 s ahead of this machine's clock" in caplog.text
    assert stream.written() == []
    caplog.clear()
    stream.run_at(86_399, SESSIONS)
    stream.run_at(86_411, SESSIONS)
    assert sorted(stream.written()) == [(1, [1]), (2, [2])]
    assert "ahead of" not in caplog.text


def test_a_test_sets_the_time_of_each_batch() -> None:
    def build(stream: Any) -> None:
        numbers = stream | ReadFromKafka("memory:9092", ["orders"]) | beam.Map(keyed)
        _ = numbers | SESSIONS | "Row" >> beam.MapTuple(row_of) | WriteToFiles("s3://lake/sessions", format="json")

    start = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    times = [start + timedelta(seconds=second) for second in (0, 5, 16)]
    published = run_in_memory(build, {"orders": [[b"1"], [b"11"]]}, times=times).published["files"]
    assert published == [[], [], [{"key": 1, "value": [1, 11]}]]
    with pytest.raises(ConfigurationError, match="has 1 times for 2 batches"):
        run_in_memory(build, {"orders": [[b"1"], [b"11"]]}, times=times[:1])
    with pytest.raises(ConfigurationError, match="with a time zone"):
        run_in_memory(build, {"orders": []}, times=[datetime(2026, 1, 1)])


# -- triggers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval_s", [0, 3])
def test_an_idle_stream_plans_a_batch_when_a_timeout_is_due(stream: TimedStream, interval_s: float) -> None:
    stream.produce(1)
    stream.arguments = {"trigger": ProcessingTime(interval_s), "max_batches": 2}
    stream.clock.stops_at_s = 60
    stream.run_at(0.5, SESSIONS)
    assert stream.written() == [(1, [1])]
    first_s, second_s = stream.planned_s()
    assert first_s + 10 <= second_s <= first_s + 10 + max(interval_s, 1)


def again(key: int, values: list[int], state: GroupState[int]) -> Iterator[tuple[int, Any]]:
    state.set_timeout(0)
    yield key, state.now_ms - NEW_YEAR_MS


def test_timeouts_that_are_always_set_again_make_a_batch_a_second(stream: TimedStream) -> None:
    stream.produce(1)
    stream.arguments = {"trigger": ProcessingTime(0)}
    stream.clock.stops_at_s = 5.05
    stream.run_at(0, "Again" >> MapGroupsWithState(again, state=JsonState()))
    seconds = [int(value / 1000) for _, value in stream.written()]
    assert seconds == [0, 1, 2, 3, 4, 5]


def test_such_a_stream_ends_with_what_was_due_at_its_start(stream: TimedStream) -> None:
    stream.produce(1)
    for at_s in (0, 7):
        stream.run_at(at_s, "Again" >> MapGroupsWithState(again, state=JsonState()))
    assert stream.written() == [(1, 0), (1, 7000)]


def test_a_time_to_live_plans_no_batch(stream: TimedStream) -> None:
    stream.produce(1)
    stream.arguments = {"trigger": ProcessingTime(0)}
    stream.clock.stops_at_s = 5
    stream.run_at(0, "Once" >> DeduplicateByKey(ttl_s=1))
    assert len(stream.progress) == 1


def test_a_source_that_waits_for_more_waits_on_while_timeouts_fire(stream: TimedStream) -> None:
    fires = "Again" >> MapGroupsWithState(again, state=JsonState())
    stream.produce(1)
    stream.run_at(0, fires)
    stream.produce(1)
    stream.arguments = {"trigger": ProcessingTime(0)}
    stream.clock.stops_at_s = 15
    stream.run_at(10, fires, min_batch_offsets=2, max_batch_delay_s=2.5)
    read_at_s = [at_s for at_s, one in zip(stream.planned_s(), stream.progress, strict=True) if one.records_read]
    assert read_at_s == [0, pytest.approx(12.5, abs=0.2)]


# -- killed, replayed, passed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["offsets/", "state/", "commits/"])
def test_a_replay_fires_the_very_same_timeouts(stream: TimedStream, prefix: str) -> None:
    """Though it runs much later, when others are due, too."""
    stream.produce(1)
    stream.run_at(0, SESSIONS)
    stream.produce(2)
    stream.run_at(5, SESSIONS)
    with watching(StoreCalls(KillPoint("put_if_absent", prefix, 1), kill)), ends_with("killed here"):
        stream.run_at(12, SESSIONS)
    stream.run_at(100, SESSIONS)
    assert stream.written() == [(1, [1]), (2, [2])]
    assert stream.planned_s() == [0, 5, 12, 100]
    assert [one.rows_written["files"] for one in stream.progress][-1] == 1


@pytest.mark.parametrize("outcome", ["skipped", "abandoned"])
def test_a_passed_batch_swallows_no_timeout(stream: TimedStream, outcome: Any) -> None:
    stream.produce(1, 2)
    stream.run_at(0, SESSIONS)
    with watching(StoreCalls(KillPoint("put_if_absent", "offsets/", 1), kill)), ends_with("killed here"):
        stream.run_at(12, SESSIONS)
    resolve(propose(stream.store(), 1, outcome), owner="ann", clock=SYSTEM_CLOCK)
    stream.run_at(11, SESSIONS)  # by a clock that is behind
    assert sorted(stream.written()) == [(1, [1]), (2, [2])]


ROUND = st.tuples(
    st.lists(st.integers(0, 29), max_size=4),
    st.integers(0, 14),  # seconds since the round before
    st.tuples(st.sampled_from(["nothing/", "offsets/", "state/", "commits/"]), st.integers(1, 2)),  # killed after
)


def kill_and_note(killed: list[str]) -> None:
    killed.append("killed")
    kill()


@given(st.lists(ROUND, min_size=2, max_size=3), st.integers(1, 4))
@settings(deadline=None, max_examples=6, phases=[Phase.generate])
def test_sessions_are_those_of_plain_python(rounds: list[Any], max_batch_offsets: int) -> None:
    with TemporaryDirectory() as folder:
        stream = TimedStream(Path(folder))
        at_s = 0
        for numbers, elapsed_s, kill_point in [*rounds, ([], 30, ("nothing/", 1))]:
            at_s += elapsed_s
            stream.produce(*numbers)
            killed: list[str] = []
            at = KillPoint("put_if_absent", *kill_point)
            with watching(StoreCalls(at, partial(kill_and_note, killed))):
                try:
                    stream.run_at(at_s, SESSIONS, max_batch_offsets=max_batch_offsets)
                except (BeamExactlyOnceError, RuntimeError):
                    if not killed:
                        raise
        numbers = [number for of_round, _, _ in rounds for number in of_round]
        assert sorted(stream.written()) == sorted(sessions_of(stream, numbers))


def sessions_of(stream: TimedStream, numbers: list[int]) -> Iterator[tuple[int, list[int]]]:
    """Of batches as they were planned."""
    checkpoint = stream.checkpoint()
    open_: dict[int, tuple[list[int], float]] = {}
    for batch_id, at_s in enumerate(stream.planned_s()):
        plan = checkpoint.read_plan(batch_id)
        assert plan is not None
        rows: dict[int, list[int]] = defaultdict(list)
        for one in plan.sources["kafka"].ranges:
            for number in numbers[one.start : one.stop]:
                rows[number % 10].append(number)
        for key, (values, due_s) in list(open_.items()):
            if due_s <= at_s and key not in rows:
                yield key, values
                del open_[key]
        for key, values in rows.items():
            open_[key] = sorted([*open_.get(key, ([], 0))[0], *values]), at_s + GAP_MS / 1000


def test_verify_finds_a_timer_that_would_be_late(stream: TimedStream) -> None:
    stream.produce(1)
    stream.run_at(0, SESSIONS)

    def later(data: bytes) -> bytes:
        marker = orjson.loads(data)
        for one in marker["body"]["state"]["map_groups_with_state"]["slices"]:
            one[1] = None if one[1] is None else one[1] + 1
        return seal(Envelope("commit", marker["stream_id"], marker["nonce"], marker["body"]))

    overwrite(stream.store(), layout.commits_key(0), later)
    verified = run("verify", stream.location)
    assert (verified.exit_code, "before the time that is said to be the next: 1." in verified.stdout) == (5, True)


# -- rejected --------------------------------------------------------------------------------------------------------


def fragile(key: int, values: list[int], state: GroupState[int]) -> Iterator[tuple[int, Any]]:
    yield key, len(values)
    if 13 in values or state.timed_out:
        raise ValueError("unlucky")
    state.update(len(values))
    state.set_timeout(state.now_ms + (1_000 if key == 4 else 500_000))


def test_what_fails_is_rejected_whole_and_counted(stream: TimedStream, tmp_path: Path) -> None:
    """In the batch of its rows; nothing that its call gave is written; the stream goes on."""

    def build(records: Any) -> None:
        calls = MapGroupsWithState(fragile, state=JsonState(), name="calls", on_error="reject")
        rows, rejected = records | beam.Map(keyed) | calls
        _ = rows | beam.MapTuple(row_of) | WriteToFiles(str(stream.output), format="json")
        _ = rejected | WriteToFiles(str(tmp_path / "rejected"), format="json", name="rejected")

    stream.produce(3, 4, 13, 23, 5)
    stream.run_with(build, max_batch_offsets=5)
    stream.clock.seconds = 2
    stream.run_with(build)
    assert sorted(stream.written()) == [(4, 1), (5, 1)]
    assert [dict(one.records_rejected) for one in stream.progress] == [{"calls": 3}, {"calls": 1}]
    lines = [json.loads(line) for file in (tmp_path / "rejected").glob("*.json") for line in file.open()]
    assert {(one["step"], one["error"], one["reason"]) for one in lines} == {("calls", "ValueError", "unlucky")}
    assert sorted(one["row"] for one in lines) == ["(3, 13)", "(3, 23)", "(3, 3)", "{'key': 4, 'state': 1}"]


NO_KEYS: dict[int, Any] = {1: float("nan"), 2: [2], 3: object(), 4: (4, 1.5)}


def test_a_pair_whose_key_is_none_is_rejected_and_the_others_go_on(stream: TimedStream, tmp_path: Path) -> None:
    def count(key: int, values: list[int], state: GroupState[int]) -> Iterator[tuple[int, int]]:
        state.update((state.value or 0) + len(values))
        yield key, state.value

    def build(records: Any) -> None:
        calls = MapGroupsWithState(count, state=JsonState(), name="calls", on_error="reject")
        pairs = records | beam.Map(keyed) | beam.MapTuple(lambda key, value: (NO_KEYS.get(key, key), value))
        rows, rejected = pairs | calls
        _ = rows | beam.MapTuple(row_of) | WriteToFiles(str(stream.output), format="json")
        _ = rejected | WriteToFiles(str(tmp_path / "rejected"), format="json", name="rejected")

    stream.produce(1, 2, 5, 3, 4, 6, 15)
    stream.run_with(build, max_batch_offsets=10)
    assert sorted(stream.written()) == [(5, 2), (6, 1)]
    assert [dict(one.records_rejected) for one in stream.progress] == [{"calls": 4}]
    lines = [json.loads(line) for file in (tmp_path / "rejected").glob("*.json") for line in file.open()]
    assert {(one["step"], one["error"]) for one in lines} == {("calls", "beam_exactly_once.errors.UnfitRow")}
    said = " ".join(one["reason"] for one in lines)
    assert all(f"operator 'calls': a key has a value of type {kind};" in said for kind in ("float", "list", "object"))
    assert all(way_out in said for way_out in ("str(key)", "Use a tuple", "Use what tells it"))


def test_rejected_rows_must_go_somewhere(stream: TimedStream) -> None:
    def build(records: Any, take: Any) -> None:
        calls = MapGroupsWithState(fragile, state=JsonState(), on_error="reject")
        _ = take(records | beam.Map(keyed) | calls)

    with pytest.raises(ConfigurationError, match="step 'map_groups_with_state' rejects records, and nothing"):
        stream.run_with(lambda records: build(records, lambda both: both.rows))
    with pytest.raises(ConfigurationError, match="gives two collections"):
        stream.run_with(lambda records: build(records, lambda both: both | beam.Values()))


def test_an_exception_fails_the_batch_and_nothing_is_lost(stream: TimedStream) -> None:
    fails = "Fails" >> MapGroupsWithState(fragile, state=JsonState())
    stream.produce(3, 13)
    with ends_with("unlucky"):
        stream.run_at(0, fails)
    assert stream.written() == []
    stream.run_at(5, "Mended" >> MapGroupsWithState(session, state=JsonState()))
    stream.run_at(15, "Mended" >> MapGroupsWithState(session, state=JsonState()))
    assert stream.written() == [(3, [3, 13])]


# -- graphs ----------------------------------------------------------------------------------------------------------


def test_what_it_emits_may_be_added_up(stream: TimedStream) -> None:
    lengths = "Length" >> beam.MapTuple(lambda key, numbers: (key, len(numbers)))
    stream.produce(1, 11, 2)
    total = SESSIONS | lengths | "Total" >> StatefulCombinePerKey(sum)
    for at_s in (0, 10, 11):
        stream.run_at(at_s, total)
    stream.produce(1)
    stream.run_at(12, total)
    stream.run_at(22, total)
    assert stream.newest() == {1: 3, 2: 1}


@pytest.mark.parametrize("is_behind_a_step", [False, True])
def test_rows_that_are_the_same_in_each_batch_are_refused(stream: TimedStream, is_behind_a_step: bool) -> None:
    """They would be added in each batch. A key that was there stays known, so they may be deduplicated."""

    def build(records: Any, operator: Any) -> None:
        constant = records.pipeline | "Constant" >> beam.Create([(1, 1)])
        rows = (records | beam.Map(keyed), constant) | beam.Flatten() if is_behind_a_step else constant
        _ = rows | operator | beam.MapTuple(row_of) | WriteToFiles(str(stream.output), format="json")

    for operator in (SESSIONS, "Sum" >> StatefulCombinePerKey(sum)):
        with pytest.raises(UnsupportedPipeline, match="rows of step 'Constant' do not come from Kafka"):
            stream.run_with(partial(build, operator=operator))
    stream.produce(2)
    stream.run_with(partial(build, operator=DeduplicateByKey(ttl_s=None)))
    assert (1, 1) in stream.written()


def test_people_see_a_key_that_has_a_timeout_alone(stream: TimedStream) -> None:
    stream.produce(1, 2)
    stream.run_at(0, "Again" >> MapGroupsWithState(again, state=JsonState()))
    shown = json.loads(run("state", "show", stream.location, "map_groups_with_state", "--key", "1", "--json").stdout)
    assert (shown["key"], shown["value"], shown["expires_at_ms"]) == (1, None, NEW_YEAR_MS + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fn": 3}, "fn=3 of MapGroupsWithState must be a function"),
        ({"state": JsonState}, "must say how states are stored: state=JsonState"),
        ({"on_error": "drop"}, "on_error"),
        ({"shards": 0}, "shards"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MapGroupsWithState(**{"fn": session, "state": JsonState(), **arguments})
