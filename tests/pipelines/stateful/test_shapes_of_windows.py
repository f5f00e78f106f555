"""Windows that share slides, sessions, and windows that stay, in a stream in memory."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.transforms.combiners import CountCombineFn
from apache_beam.transforms.window import FixedWindows, Sessions, SlidingWindows

from beam_exactly_once import (
    AggregateByWindow,
    EventTime,
    ExactlyOnceStream,
    ReadFromKafka,
    Record,
    ReduceByKeyAndWindow,
    StatefulCombinePerKey,
    WriteToFiles,
)
from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline
from beam_exactly_once.testing import run_in_memory


def click(page: str, at_s: float) -> Record:
    return Record(value=page.encode(), timestamp_ms=int(1000 * at_s))


def clicks(stream: Any) -> Any:
    read = ReadFromKafka("broker:9092", ["clicks"], event_time=EventTime(out_of_order_s=0))
    return stream | read | beam.Map(lambda record: (record.value.decode(), (record.timestamp_ms, 1)))


def time_of(value: tuple[int, int]) -> int:
    return value[0]


def write(rows: Any, late: Any) -> None:
    rows | WriteToFiles("out", format="json")
    (
        late
        | beam.MapTuple(lambda page, value: {"page": page, "at_s": value[0] // 1000})
        | WriteToFiles("late", format="json", name="late")
    )


def more(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return 0, one[1] + other[1]


def fewer(total: tuple[int, int], one: tuple[int, int]) -> tuple[int, int]:
    return 0, total[1] - one[1]


def spans(batches: Sequence[Sequence[dict[str, Any]]]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (row["key"], row["window_start_ms"] // 1000, row["window_end_ms"] // 1000, row["value"])
        for batch in batches
        for row in batch
    )


@pytest.mark.parametrize("inverse_fn", [fewer, None])
def test_each_slide_gives_every_key_that_its_window_has(inverse_fn: Any) -> None:
    """Also where a batch passes several slides, and where nothing of a key has changed; a key without values is not given."""

    def build(stream: Any) -> None:
        reduced = ReduceByKeyAndWindow(more, inverse_fn, window=SlidingWindows(60, 20), event_time_by=time_of)
        rows, late = clicks(stream) | reduced
        write(rows | beam.Map(lambda row: row._replace(value=row.value[1])), late)

    run = run_in_memory(
        build,
        {
            "clicks": [
                [click("a", 1), click("b", 19), click("a", 5)],
                [click("a", 65)],
                [click("c", 10), click("c", 30), click("a", 130)],
            ]
        },
    )
    assert spans(run.published["files"]) == Counter(
        [
            *(("a", -40, 20, 2), ("b", -40, 20, 1)),
            *(("a", -20, 40, 2), ("b", -20, 40, 1)),
            *(("a", 0, 60, 2), ("b", 0, 60, 1)),
            *(("a", 20, 80, 1), ("c", 20, 80, 1)),
            *(("a", 40, 100, 1), ("a", 60, 120, 1)),
        ]
    )
    assert [row for batch in run.published["late"] for row in batch] == [{"page": "c", "at_s": 10}]
    assert sum(batch.rows_late["reduce_by_key_and_window"] for batch in run.progress) == 1


def test_sessions_end_a_gap_behind_their_last_row() -> None:
    def build(stream: Any) -> None:
        write(*(clicks(stream) | AggregateByWindow(CountCombineFn(), Sessions(30), event_time_by=time_of)))

    run = run_in_memory(
        build,
        {
            "clicks": [
                [click("a", 1), click("b", 40), click("a", 50)],
                [click("a", 35), click("b", 69)],
                [click("a", 2), click("b", 65), click("b", 200)],
                [click("c", 5)],
            ]
        },
    )
    assert spans(run.published["files"]) == Counter([("a", 1, 31, 1), ("a", 35, 80, 2), ("b", 40, 99, 3)])
    late = [row for batch in run.published["late"] for row in batch]
    assert sorted((row["page"], row["at_s"]) for row in late) == [("a", 2), ("c", 5)]
    assert sum(batch.rows_late["aggregate_by_window"] for batch in run.progress) == 2


def test_all_windows_are_given_in_each_batch() -> None:
    def build(stream: Any, emit: Any = "all") -> None:
        aggregate = AggregateByWindow(CountCombineFn(), FixedWindows(60), event_time_by=time_of, emit=emit)
        write(*(clicks(stream) | aggregate))

    run = run_in_memory(build, {"clicks": [[click("a", 1)], [click("a", 500)], [click("a", 2), click("b", 3)]]})
    assert [spans([batch]) for batch in run.published["files"] if batch] == [
        Counter([("a", 0, 60, 1)]),
        Counter([("a", 0, 60, 1), ("a", 480, 540, 1)]),
        Counter([("a", 0, 60, 2), ("a", 480, 540, 1), ("b", 0, 60, 1)]),
    ]


# -- what cannot be --------------------------------------------------------------------------------------------------


WINDOWED = (
    AggregateByWindow(sum, FixedWindows(60), event_time_by=time_of),
    AggregateByWindow(sum, Sessions(60), event_time_by=time_of),
    ReduceByKeyAndWindow(operator.add, window=SlidingWindows(60, 20), event_time_by=time_of),
)


@pytest.mark.parametrize("windowed", WINDOWED, ids=["fixed", "sessions", "slides"])
def test_windows_of_totals_that_are_given_again_are_refused(windowed: Any, tmp_path: Any) -> None:
    def build() -> None:
        with ExactlyOnceStream(str(tmp_path / "checkpoint")) as stream:
            clicks(stream) | StatefulCombinePerKey(max) | windowed

    with pytest.raises(UnsupportedPipeline, match="counted again"):
        build()


@pytest.mark.parametrize(
    ("arguments", "how", "said"),
    [
        ((5,), {}, "fn=5"),
        ((operator.add, 5), {}, "inverse_fn=5"),
        ((operator.add,), {"window": FixedWindows(60)}, "SlidingWindows"),
        ((operator.add,), {"window": SlidingWindows(60, 25)}, "multiple of its period"),
        ((operator.add,), {"window": SlidingWindows(60, 0.0005)}, "whole milliseconds"),
        ((operator.add,), {"event_time_by": None}, "event_time_by"),
        ((operator.add,), {"on_late": "fail"}, "on_late"),
        ((operator.add,), {"allowed_lateness_s": -1}, "allowed_lateness_s"),
    ],
)
def test_arguments_that_are_not_possible(arguments: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        ReduceByKeyAndWindow(*arguments, **{"window": SlidingWindows(60, 20), "event_time_by": "at_ms", **how})
