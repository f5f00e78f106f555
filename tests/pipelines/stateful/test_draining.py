"""``AvailableNow(drain=True)``: all that is open closes when all is read, once, and what comes later is late and counted."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.combiners import CountCombineFn
from apache_beam.transforms.window import FixedWindows, Sessions, SlidingWindows

from beam_exactly_once import (
    AggregateByWindow,
    AvailableNow,
    EventTime,
    GroupState,
    JoinWithinInterval,
    JsonState,
    MapGroupsWithState,
    ReadFromKafka,
    Record,
    ReduceByKeyAndWindow,
    WriteToFiles,
)
from beam_exactly_once.checkpoint.resolution import propose, resolve
from beam_exactly_once.clock import SYSTEM_CLOCK
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.testing import run_in_memory
from support.timers.windowed_stream import WindowedStream

pytestmark = pytest.mark.runs_on("DirectRunner")

DRAIN = AvailableNow(drain=True)


@pytest.fixture
def stream(tmp_path: Path) -> WindowedStream:
    return WindowedStream(tmp_path)


def drained(stream: WindowedStream, at_s: float, **how: Any) -> None:
    stream.arguments = {"trigger": DRAIN}
    stream.run(at_s, **how)


def stops(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.getMessage().startswith("the stream stops")]


# -- windows ---------------------------------------------------------------------------------------------------------


def test_a_stream_says_what_it_leaves_open_and_closes_it_when_it_is_drained(
    stream: WindowedStream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stream.both(1, 61, 125)
    stream.run(200)
    assert stops(caplog) == [
        "the stream stops; its next batch is 2; operator 'minutes' is open, next until 2026-01-01 00:02:00 UTC"
    ]
    assert stream.counts() == [(0, 2)]
    drained(stream, 300)
    assert stream.counts() == [(0, 2), (60, 2), (120, 2)]
    assert stops(caplog)[1:] == ["the stream stops; its next batch is 3"]
    assert [one.records_read for one in stream.progress] == [6, 0, 0]


def test_what_is_drained_again_or_has_nothing_open_plans_nothing(stream: WindowedStream) -> None:
    drained(stream, 100)
    assert stream.planned() == []
    stream.both(1)
    drained(stream, 200)
    drained(stream, 300)
    stream.arguments = {}
    stream.run(400)
    assert len(stream.planned()) == 2
    assert stream.counts() == [(0, 2)]


def test_whatever_comes_behind_the_end_of_time_is_late_and_said_to_be(
    stream: WindowedStream, caplog: pytest.LogCaptureFixture
) -> None:
    """Never a second result of a window, and never a row that nobody counts."""
    stream.both(1)
    drained(stream, 100)
    assert "has ended: the stream was drained" not in caplog.text
    stream.both(2, 500)
    for trigger in (AvailableNow(), DRAIN):
        stream.arguments = {"trigger": trigger}
        stream.run(600)
    assert caplog.text.count("the time of source 'kafka' has ended: the stream was drained") == 2
    assert stream.counts() == [(0, 2)]
    assert sorted(stream.late()) == [2, 2, 500, 500]
    assert [dict(one.rows_late) for one in stream.progress] == [{"minutes": 0}, {"minutes": 0}, {"minutes": 4}]


@pytest.mark.parametrize(("prefix", "after"), [("offsets/", AvailableNow()), ("commits/", DRAIN)])
def test_killed_while_it_is_drained(stream: WindowedStream, prefix: str, after: Any) -> None:
    """What is planned is decided: the next start closes the same, whatever its trigger."""
    stream.both(1, 61)
    stream.run(100)
    stream.arguments = {"trigger": DRAIN}
    stream.killed(200, prefix, 1)
    stream.arguments = {"trigger": after}
    stream.run(300)
    assert sorted(stream.counts()) == [(0, 2), (60, 2)]
    assert stream.late() == []


def test_a_last_batch_that_is_passed_ends_nothing(stream: WindowedStream) -> None:
    stream.both(1)
    stream.run(100)
    stream.arguments = {"trigger": DRAIN}
    stream.killed(200, "offsets/", 1)
    resolve(propose(stream.store(), 1, "abandoned"), owner="a test", clock=SYSTEM_CLOCK)
    stream.arguments = {}
    stream.both(2, 61)
    stream.run(300)
    assert stream.counts() == []
    drained(stream, 400)
    assert stream.counts() == [(0, 4), (60, 2)]
    assert stream.late() == []


def test_a_stream_that_stops_before_all_is_read_is_not_drained(stream: WindowedStream) -> None:
    stream.both(1, 61)
    stream.read["max_batch_offsets"] = 2
    stream.arguments = {"trigger": DRAIN, "max_batches": 1}
    stream.run(100)
    assert stream.counts() == []
    drained(stream, 200)
    assert sorted(stream.counts()) == [(0, 2), (60, 2)]
    assert stream.late() == []


# -- all that can be open ------------------------------------------------------------------------------------------------


def sent(value: str, at_s: float) -> Record:
    return Record(value=value.encode(), timestamp_ms=int(1000 * at_s))


def read(stream: Any, name: str = "clicks") -> Any:
    source = ReadFromKafka("broker:9092", [name], event_time=EventTime(out_of_order_s=0), name=name)
    return (
        stream
        | source
        | f"Pairs of {name}" >> beam.Map(lambda record: (record.value.decode(), record.timestamp_ms // 1000))
    )


def at_ms(second: int) -> int:
    return 1000 * second


HALVES = {"clicks": [[sent("a", 1), sent("b", 50)], [sent("a", 61), sent("a", 130)]]}


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (
            AggregateByWindow(CountCombineFn(), FixedWindows(60), event_time_by=at_ms, on_late="drop"),
            [("a", 0, 1), ("a", 60, 1), ("a", 120, 1), ("b", 0, 1)],
        ),
        (
            AggregateByWindow(CountCombineFn(), Sessions(65), event_time_by=at_ms, on_late="drop"),
            [("a", 1, 2), ("a", 130, 1), ("b", 50, 1)],
        ),
        (
            ReduceByKeyAndWindow(
                lambda one, other: one + other,
                lambda whole, part: whole - part,
                window=SlidingWindows(120, 60),
                event_time_by=at_ms,
                on_late="drop",
            ),
            [("a", -60, 1), ("a", 0, 62), ("a", 60, 191), ("a", 120, 130), ("b", -60, 50), ("b", 0, 50)],
        ),
    ],
    ids=["windows", "sessions", "slides"],
)
def test_windows_of_every_shape_close(operator: Any, expected: list[Any]) -> None:
    run = run_in_memory(lambda stream: read(stream) | operator | WriteToFiles("out", format="json"), HALVES, drain=True)
    rows = [(row["key"], row["window_start_ms"] // 1000, row["value"]) for row in run.rows("files")]
    assert sorted(rows) == expected


def test_windows_of_windows_close_in_one_batch_however_far_ahead_they_end() -> None:
    """What a day gives happened at its end, which is in the future of all clocks: it is not late for the week."""

    def build(stream: Any) -> None:
        days = read(stream) | AggregateByWindow(
            CountCombineFn(), FixedWindows(86_400), event_time_by=at_ms, on_late="drop", name="days"
        )
        weeks, late = (
            days
            | beam.Map(lambda day: ("all", day))
            | AggregateByWindow(
                CountCombineFn(), FixedWindows(604_800), event_time_by=lambda day: day.window_end_ms - 1, name="weeks"
            )
        )
        weeks | WriteToFiles("out", format="json")
        late | beam.Map(str) | WriteToFiles("late", format="text", name="late")

    times = [datetime(1970, 1, 1, 0, minute, tzinfo=timezone.utc) for minute in (1, 3)]
    run = run_in_memory(build, HALVES, times=times, drain=True)
    assert [(row["key"], row["value"]) for row in run.rows("files")] == [("all", 2)]
    assert run.rows("late") == []


def test_rows_without_a_match_are_given_alone() -> None:
    def build(stream: Any) -> None:
        sides = read(stream, "shows"), read(stream, "clicks")
        rows = sides | JoinWithinInterval(after_s=60, how="full", event_time_by=at_ms, on_late="drop")
        rows | beam.MapTuple(lambda key, pair: {"key": key, "pair": pair}) | WriteToFiles("out", format="json")

    batches = {"shows": [[sent("a", 1)], [sent("b", 90)]], "clicks": [[sent("a", 30)], [sent("c", 80)]]}
    run = run_in_memory(build, batches, drain=True)
    assert sorted((row["key"], row["pair"]) for row in run.rows("files")) == [
        ("a", [1, 30]),
        ("b", [90, None]),
        ("c", [None, 80]),
    ]


def visits(key: str, seconds: list[int], state: GroupState[list[int]]) -> Iterator[dict[str, Any]]:
    known = [*(state.value or []), *seconds]
    if state.timed_out:
        yield {"key": key, "seconds": known}
        state.remove()
    else:
        state.update(known)
        state.set_timeout(1000 * max(known) + 60_000)


def test_timeouts_are_called_also_of_a_stream_that_is_drained_again() -> None:
    def build(stream: Any) -> None:
        groups = MapGroupsWithState(visits, state=JsonState(), event_time_by=at_ms)
        read(stream) | groups | WriteToFiles("out", format="json")

    run = run_in_memory(build, {"clicks": [[sent("a", 1), sent("b", 2)], [sent("a", 3)]]}, drain=True)
    assert sorted((row["key"], row["seconds"]) for row in run.rows("files")) == [("a", [1, 3]), ("b", [2])]


def test_a_function_behind_windows_is_called_at_the_timeouts_that_these_made_it_set() -> None:
    def build(stream: Any) -> None:
        groups = MapGroupsWithState(visits, state=JsonState(), event_time_by=at_ms)
        windows = AggregateByWindow(CountCombineFn(), FixedWindows(60), event_time_by=at_ms, on_late="drop")
        (
            read(stream)
            | windows
            | beam.Map(lambda one: (one.key, one.window_end_ms // 1000 - 1))
            | groups
            | WriteToFiles("out", format="json")
        )

    run = run_in_memory(build, HALVES, drain=True)
    assert sorted((row["key"], sorted(row["seconds"])) for row in run.rows("files")) == [
        ("a", [59, 119, 179]),
        ("b", [59]),
    ]


def test_a_function_that_never_lets_go_does_not_keep_a_stream_running() -> None:
    def again(key: str, seconds: list[int], state: GroupState[int]) -> Iterator[dict[str, Any]]:
        yield {"key": key, "timed_out": state.timed_out}
        state.set_timeout((state.watermark_ms or 0) + 1)

    def build(stream: Any) -> None:
        groups = MapGroupsWithState(again, state=JsonState(), event_time_by=at_ms)
        read(stream) | groups | WriteToFiles("out", format="json")

    run = run_in_memory(build, {"clicks": [[sent("a", 1)]]}, drain=True)
    assert [row["timed_out"] for row in run.rows("files")] == [False, True, True, True]


@pytest.mark.parametrize("seed", [11])
def test_what_a_drained_stream_gives_is_what_beam_gives_of_the_same_rows(seed: int) -> None:
    """Beam's own windows, over all rows in one bounded pipeline, are the oracle."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    rows = [(chance.choice("abc"), 10 * number - chance.randrange(200)) for number in range(60)]
    records = [sent(key, second) for key, second in rows]
    cut = chance.randrange(60)

    def build(stream: Any) -> None:
        source = ReadFromKafka("broker:9092", ["clicks"], event_time=EventTime(out_of_order_s=200))
        windows = AggregateByWindow(CountCombineFn(), FixedWindows(60), event_time_by=at_ms, on_late="drop")
        (
            stream
            | source
            | beam.Map(lambda record: (record.value.decode(), record.timestamp_ms // 1000))
            | windows
            | WriteToFiles("out", format="json")
        )

    run = run_in_memory(build, {"clicks": [records[:cut], records[cut:]]}, drain=True)
    given = [(row["key"], row["window_start_ms"] // 1000, row["value"]) for row in run.rows("files")]
    with beam.Pipeline() as bounded:
        counts = (
            bounded
            | beam.Create(rows)
            | beam.Map(lambda row: beam.window.TimestampedValue(row, row[1]))
            | beam.WindowInto(FixedWindows(60))
            | beam.CombinePerKey(CountCombineFn())
            | beam.Map(
                lambda one, window=beam.DoFn.WindowParam: (one[0], int(window.start.micros // 1_000_000), one[1])
            )
        )
        assert_that(counts, equal_to(given))


def test_drain_is_a_bool() -> None:
    with pytest.raises(ConfigurationError, match="drain='yes' must be True or False"):
        AvailableNow(drain="yes")  # type: ignore[arg-type]
