"""Windows of event time in a stream in memory."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.transforms.combiners import CountCombineFn
from apache_beam.transforms.window import FixedWindows, Sessions, SlidingWindows

from beam_exactly_once import (
    AggregateByWindow,
    EventTime,
    ExactlyOnceStream,
    JsonState,
    MapGroupsWithState,
    ReadFromKafka,
    Record,
    StatefulCombinePerKey,
    WriteToFiles,
)
from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline
from beam_exactly_once.testing import run_in_memory

MINUTE_MS = 60_000


def click(page: str, at_s: float, partition: int = 0) -> Record:
    return Record(value=page.encode(), timestamp_ms=int(1000 * at_s), partition=partition)


def clicks(stream: Any, **event_time: Any) -> Any:
    read = ReadFromKafka("broker:9092", ["clicks"], event_time=EventTime(**{"out_of_order_s": 0, **event_time}))
    return stream | read | beam.Map(lambda record: (record.value.decode(), record.timestamp_ms))


def itself(at_ms: int) -> int:
    return at_ms


def per_minute(stream: Any, window: Any = None, **how: Any) -> None:
    counts, late = clicks(stream) | AggregateByWindow(
        CountCombineFn(), window or FixedWindows(60), event_time_by=itself, **how
    )
    counts | WriteToFiles("out", format="json")
    (
        late
        | beam.MapTuple(lambda page, at_ms: {"page": page, "at_ms": at_ms})
        | WriteToFiles("late", format="json", name="late")
    )


def found(rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((row["key"], row["window_start_ms"] // MINUTE_MS, row["value"]) for row in rows)


def all_of(batches: Sequence[Sequence[Any]]) -> list[Any]:
    return [row for batch in batches for row in batch]


def test_a_window_is_given_once_when_the_watermark_has_come_to_its_end() -> None:
    run = run_in_memory(
        per_minute,
        {
            "clicks": [
                [click("a", 1), click("b", 59), click("a", 30)],
                [click("a", 61), click("b", 10), click("a", 125)],
                [click("b", 20), click("b", 119), click("a", 130)],
            ]
        },
    )
    assert [found(batch) for batch in run.published["files"]] == [[], [], [("a", 0, 2), ("a", 1, 1), ("b", 0, 2)], []]
    assert [batch.records_read for batch in run.progress] == [3, 3, 0, 3]
    assert [dict(batch.rows_late) for batch in run.progress] == [{"aggregate_by_window": late} for late in (0, 0, 0, 2)]
    assert run.published["late"][3] == [{"page": "b", "at_ms": 20_000}, {"page": "b", "at_ms": 119_000}]


def test_lateness_that_is_allowed_keeps_windows_open() -> None:
    run = run_in_memory(
        lambda stream: per_minute(stream, allowed_lateness_s=60),
        {"clicks": [[click("a", 1), click("a", 119)], [click("a", 2), click("a", 121)], [click("a", 3)]]},
    )
    assert found(all_of(run.published["files"])) == [("a", 0, 2)]
    assert all_of(run.published["late"]) == [{"page": "a", "at_ms": 3_000}]


def test_updates_give_a_window_in_each_batch_that_changes_it() -> None:
    run = run_in_memory(
        lambda stream: per_minute(stream, emit="updates"),
        {"clicks": [[click("a", 1), click("b", 2)], [click("a", 30)], [click("a", 61)], [click("a", 59)]]},
    )
    given = [found(batch) for batch in run.published["files"] if batch]
    assert given == [[("a", 0, 1), ("b", 0, 1)], [("a", 0, 2)], [("a", 1, 1)]]
    assert all_of(run.published["late"]) == [{"page": "a", "at_ms": 59_000}]


@pytest.mark.parametrize("seed", [7])
def test_windows_do_not_depend_on_where_batches_are_cut(seed: int) -> None:
    """Also for all records in one batch, and for one a batch; each partition is out of order by less than it may be."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    records = []
    for number in range(40):
        partition = chance.randrange(2)
        records.append(click(chance.choice("abc"), 10 * number - chance.randrange(30) + 100, partition))
    records += [click("end", 10_000, 0), click("end", 10_000, 1)]
    expected: dict[tuple[str, int], int] = defaultdict(int)
    for record in records[:-2]:
        for back in range(3):
            start_ms = record.timestamp_ms // 20_000 * 20_000 - 20_000 * back
            expected[record.value.decode(), start_ms] += 1

    def build(stream: Any) -> None:
        sliding = AggregateByWindow(CountCombineFn(), SlidingWindows(60, 20), event_time_by=itself, on_late="drop")
        clicks(stream, out_of_order_s=60) | sliding | WriteToFiles("out", format="json")

    for cuts in ([], sorted(chance.sample(range(42), 6)), range(0, 42, 5)):
        edges = [0, *cuts, 42]
        batches = [records[start:stop] for start, stop in pairwise(edges)]
        run = run_in_memory(build, {"clicks": [batch for batch in batches if batch]})
        rows = all_of(run.published["files"])
        assert len(rows) == len(expected)
        assert {(row["key"], row["window_start_ms"]): row["value"] for row in rows} == expected
        assert sum(sum(batch.rows_late.values()) for batch in run.progress) == 0


def test_windows_of_windows() -> None:
    """What one gives as it closes is not late for the next: SPARK-40925."""

    def build(stream: Any) -> None:
        minutes = clicks(stream) | AggregateByWindow(
            CountCombineFn(), FixedWindows(60), event_time_by=itself, on_late="drop", name="minutes"
        )
        hours, late = (
            minutes
            | beam.Map(lambda minute: ("all", minute))
            | beam.MapTuple(lambda key, minute: (key, (minute.window_end_ms - 1, minute.value)))
            | AggregateByWindow(Largest(), FixedWindows(3600), event_time_by=lambda one: one[0], name="hours")
        )
        hours | WriteToFiles("out", format="json")
        late | WriteToFiles("late", format="json", name="late")

    run = run_in_memory(
        build,
        {"clicks": [[click("a", 3590), click("a", 3599), click("a", 100)], [click("b", 3605)], [click("c", 7300)]]},
    )
    rows = all_of(run.published["files"])
    assert [(row["window_start_ms"], row["value"]) for row in rows] == [(0, 2), (3_600_000, 1)]
    assert all_of(run.published["late"]) == []


class Largest(beam.CombineFn):
    """The largest count of a minute."""

    def create_accumulator(self) -> int:
        return 0

    def add_input(self, accumulator: int, one: tuple[int, int]) -> int:
        return max(accumulator, one[1])

    def merge_accumulators(self, accumulators: Any) -> int:
        return max(accumulators)

    def extract_output(self, accumulator: int) -> int:
        return accumulator


def test_a_slow_partition_holds_windows_open() -> None:
    run = run_in_memory(
        per_minute,
        {"clicks": [[click("a", 1, 0), click("a", 1, 1)], [click("a", 500, 0)], [click("a", 2, 1), click("b", 61, 1)]]},
    )
    assert found(all_of(run.published["files"])) == [("a", 0, 3)]
    assert all_of(run.published["late"]) == []


# -- what cannot be --------------------------------------------------------------------------------------------------


def refused(build: Callable[[Any], Any], tmp_path: Any) -> None:
    with ExactlyOnceStream(str(tmp_path / "checkpoint")) as stream:
        build(stream)


def test_a_source_without_event_time_is_refused(tmp_path: Any) -> None:
    def build(stream: Any) -> Any:
        rows = stream | ReadFromKafka("broker:9092", ["clicks"]) | beam.WithKeys(lambda record: record.key)
        return rows | AggregateByWindow(sum, FixedWindows(60), event_time_by="at_ms")

    with pytest.raises(UnsupportedPipeline, match=r"source 'kafka'.*EventTime"):
        refused(build, tmp_path)


def test_windows_behind_a_function_that_may_give_any_time_are_refused(tmp_path: Any) -> None:
    def build(stream: Any) -> Any:
        groups = MapGroupsWithState(lambda key, values, state: [(key, 1)], state=JsonState())
        return clicks(stream) | groups | AggregateByWindow(sum, FixedWindows(60), event_time_by=itself)

    with pytest.raises(UnsupportedPipeline, match=r"map_groups_with_state.*any time"):
        refused(build, tmp_path)


def test_sums_of_windows_that_are_given_again_are_refused(tmp_path: Any) -> None:
    def build(stream: Any) -> Any:
        updates = AggregateByWindow(sum, FixedWindows(60), event_time_by=itself, emit="updates", on_late="drop")
        rows = clicks(stream) | updates | beam.Map(lambda one: (one.key, one.value))
        return rows | StatefulCombinePerKey(sum)

    with pytest.raises(UnsupportedPipeline, match="counted again"):
        refused(build, tmp_path)


def test_late_rows_that_nobody_takes_are_refused(tmp_path: Any) -> None:
    def build(stream: Any) -> None:
        counts, _ = clicks(stream) | AggregateByWindow(sum, FixedWindows(60), event_time_by=itself)
        counts | WriteToFiles(str(tmp_path / "out"), format="json")

    with pytest.raises(ConfigurationError, match=r'too late.*on_late="drop"'):
        refused(build, tmp_path)


def test_two_collections_are_not_piped_on_as_one(tmp_path: Any) -> None:
    def build(stream: Any) -> Any:
        return clicks(stream) | AggregateByWindow(sum, FixedWindows(60), event_time_by=itself) | beam.Map(print)

    with pytest.raises(ConfigurationError, match="rows, late"):
        refused(build, tmp_path)


@pytest.mark.parametrize(
    ("window", "how", "said"),
    [
        (Sessions(60), {"emit": "updates"}, "merges"),
        (Sessions(60), {"emit": "all"}, "merges"),
        (Sessions(0.0005), {}, "whole milliseconds"),
        (60, {}, "FixedWindows"),
        (FixedWindows(0.0005), {}, "whole milliseconds"),
        (SlidingWindows(60, 90), {}, "in none"),
        (FixedWindows(60), {"emit": "append"}, "emit"),
        (FixedWindows(60), {"emit": "all", "allowed_lateness_s": 1}, "for ever"),
        (FixedWindows(60), {"on_late": "fail"}, "on_late"),
        (FixedWindows(60), {"allowed_lateness_s": -1}, "allowed_lateness_s"),
        (FixedWindows(60), {"event_time_by": None}, "event_time_by"),
    ],
)
def test_arguments_that_are_not_possible(window: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        AggregateByWindow(sum, window, **{"event_time_by": "at_ms", **how})


# -- batches of Arrow ------------------------------------------------------------------------------------------------


def columns_of(records: pa.RecordBatch) -> pa.RecordBatch:
    pages = records.column("value").cast(pa.string()).dictionary_encode()
    ones = pa.array([1] * records.num_rows, pa.int32())
    return pa.record_batch(
        {"page": pages, "ones": ones, "at": records.column("timestamp_ms"), "no": records.column("offset")}
    )


@pytest.mark.parametrize("window", [FixedWindows(60), SlidingWindows(60, 20)], ids=["fixed", "sliding"])
def test_windows_of_batches_of_arrow_are_those_of_pairs(window: Any) -> None:
    chance = random.Random(7)
    batches = [
        [click(chance.choice("abc"), 20 * number + chance.randrange(150)) for _ in range(15)] for number in range(6)
    ]

    def by_columns(stream: Any) -> None:
        read = ReadFromKafka("broker:9092", ["clicks"], as_arrow=True, event_time=EventTime(out_of_order_s=0))
        counts, late = (
            stream
            | read
            | beam.Map(columns_of).with_output_types(pa.RecordBatch)
            | AggregateByWindow({"ones": sum, "no": max}, window, event_time_by="at", key_columns=["page"])
        )
        counts | WriteToFiles("out", format="json")
        late | WriteToFiles("late", format="json", name="late")

    def by_pairs(stream: Any) -> None:
        counts, late = clicks(stream) | AggregateByWindow(CountCombineFn(), window, event_time_by=itself)
        counts | WriteToFiles("out", format="json")
        (
            late
            | beam.MapTuple(lambda page, at_ms: {"page": page, "at": at_ms})
            | WriteToFiles("late", format="json", name="late")
        )

    columns, pairs = (run_in_memory(build, {"clicks": batches}) for build in (by_columns, by_pairs))
    for of_columns, of_pairs in zip(columns.published["files"], pairs.published["files"], strict=True):
        assert sorted(
            (row["page"], row["window_start_ms"], row["window_end_ms"], row["ones"]) for row in of_columns
        ) == sorted((row["key"], row["window_start_ms"], row["window_end_ms"], row["value"]) for row in of_pairs)
    late = [sorted((row["page"], row["at"]) for row in all_of(run.published["late"])) for run in (columns, pairs)]
    assert late[0] == late[1] != []
    assert all({"page", "ones", "at", "no"} == row.keys() for row in all_of(columns.published["late"]))


def test_sessions_of_batches_of_arrow_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="Sessions"):
        AggregateByWindow({"ones": sum}, Sessions(60), event_time_by="at", key_columns=["page"])
