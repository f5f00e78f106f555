"""What a graph does batch by batch that may be meant for the whole stream is said once, when the stream starts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import (
    ExactlyOnceStream,
    ForEachBatch,
    ReadFromKafka,
    StatefulCombinePerKey,
    UpdateStateByKey,
    WriteToFiles,
    WriteToSql,
)
from beam_exactly_once.errors import UnsupportedPipeline

ROWS = pa.schema([("n", pa.int64())])


def warnings_of(
    build: Callable[[ExactlyOnceStream, Any], Any], folder: Path, caplog: pytest.LogCaptureFixture, **options: Any
) -> list[str]:
    stream = ExactlyOnceStream(f"{folder}/checkpoint", **options)
    build(stream, stream | ReadFromKafka("memory:9092", ["orders"]) | beam.Map(lambda record: {"n": record.offset}))
    stream._finish_graph()
    return [one.getMessage() for one in caplog.records if one.name.endswith("graph_warnings")]


def files(name: str = "files") -> WriteToFiles:
    return WriteToFiles(f"/lake/{name}", format="json", name=name)


def upsert(mode: str = "upsert") -> WriteToSql:
    keys = ["n"] if mode == "upsert" else []
    return WriteToSql("sqlite:////lake/totals.db", "totals", mode=mode, key_columns=keys)  # type: ignore[arg-type]


def text_flattened(stream: Any, rows: Any) -> None:
    more = stream | beam.io.ReadFromText("/etc/hostname") | beam.Map(lambda line: {"n": len(line)})
    _ = (rows, more) | beam.Flatten() | beam.Filter(bool) | beam.Reshuffle() | files()


def constants_alone(stream: Any, rows: Any) -> None:
    _ = rows | files()
    _ = stream | beam.Create([{"n": 1}]) | beam.GroupBy("n") | beam.Map(dict) | files("constants")


def constants_as_side_input(stream: Any, rows: Any) -> None:
    known = stream | beam.Create([1, 2])
    _ = rows | beam.Map(lambda row, known: {**row, "known": row["n"] in known}, beam.pvalue.AsList(known)) | files()


def a_row_of_each_batch(stream: Any, rows: Any) -> None:
    once = stream | "Once" >> beam.Create([None])
    _ = once | beam.Map(lambda _, rows: {"n": len(rows)}, beam.pvalue.AsList(rows)) | files()


def joined_with_constants(stream: Any, rows: Any) -> None:
    names = stream | beam.Create([(1, "one")])
    joined = {"rows": rows | beam.Map(lambda row: (row["n"], row)), "names": names} | beam.CoGroupByKey()
    _ = joined | beam.FlatMap(lambda one: one[1]["rows"]) | files()


def totals_replaced(stream: Any, rows: Any) -> None:
    counts = rows | beam.Map(lambda row: (row["n"], 1)) | "Count" >> beam.CombinePerKey(sum)
    _ = counts | beam.MapTuple(lambda n, count: {"n": n}) | beam.Reshuffle() | upsert()


def totals_appended(stream: Any, rows: Any) -> None:
    counts = rows | beam.Map(lambda row: (row["n"], 1)) | "Count" >> beam.CombinePerKey(sum)
    _ = counts | beam.MapTuple(lambda n, count: {"n": n}) | upsert("append")


def groups_replaced(stream: Any, rows: Any) -> None:
    groups = rows | beam.Map(lambda row: (row["n"], 1)) | "Count" >> beam.GroupByKey()
    _ = groups | beam.MapTuple(lambda n, ones: {"n": sum(ones)}) | upsert()


def all_replaced(stream: Any, rows: Any) -> None:
    _ = rows | "Count" >> beam.combiners.Count.Globally() | beam.Map(lambda n: {"n": n}) | upsert()


def state_upserted(stream: Any, rows: Any) -> None:
    totals = rows | beam.Map(lambda row: (row["n"], 1)) | StatefulCombinePerKey(sum)
    _ = totals | beam.Reshuffle() | beam.MapTuple(lambda n, total: {"n": n}) | upsert()


def newest_upserted(stream: Any, rows: Any) -> None:
    _ = rows | upsert()
    _ = rows | beam.Map(lambda row: (row["n"], 1)) | beam.combiners.Count.PerKey() | ForEachBatch(print, schema=ROWS)


def totals_joined(stream: Any, rows: Any) -> None:
    pairs = rows | beam.Map(lambda row: (row["n"], 1))
    clicks = pairs | "Clicks" >> StatefulCombinePerKey(sum, name="clicks") | beam.Map(lambda pair: pair)
    orders = pairs | "Orders" >> UpdateStateByKey(lambda values, state: len(values), name="orders")
    joined = {"clicks": clicks, "orders": orders} | "Join" >> beam.CoGroupByKey()
    _ = joined | beam.MapTuple(lambda n, found: {"n": n}) | files()


def totals_joined_with_rows(stream: Any, rows: Any) -> None:
    pairs = rows | beam.Map(lambda row: (row["n"], 1))
    clicks = pairs | "Clicks" >> StatefulCombinePerKey(sum)
    _ = {"clicks": clicks, "rows": pairs} | beam.CoGroupByKey() | beam.MapTuple(lambda n, found: {"n": n}) | files()


REPEATED = (
    "rows of step '{}' do not come from Kafka: they are the same in each batch, and each batch writes them again to "
    "'WriteToFiles({})'. "
)
REPLACED = (
    "step 'Count' combines the rows of one batch, and 'WriteToSql' has mode=\"upsert\": what a later batch has for a key "
    "replaces the result of an earlier one, and is not added to it. For totals over all batches use StatefulCombinePerKey, "
)


JOINED = "step 'Join' joins what 'Clicks' and 'Orders' give, and each gives the keys that a batch changes, not all "


@pytest.mark.parametrize(
    ("build", "begins"),
    [
        (text_flattened, [REPEATED.format("ReadFromText", "files")]),
        (constants_alone, [REPEATED.format("Create", "constants")]),
        (totals_replaced, [REPLACED]),
        (groups_replaced, [REPLACED]),
        (all_replaced, [REPLACED.replace("'Count'", "'Count/CombineGlobally(CountCombineFn)'")]),
        (totals_joined, [JOINED]),
        (totals_joined_with_rows, []),
        (state_upserted, []),
        (constants_as_side_input, []),
        (a_row_of_each_batch, []),
        (joined_with_constants, []),
        (totals_appended, []),
        (newest_upserted, []),
    ],
)
def test_it_is_said_of_the_step_and_the_sink(
    build: Callable[[Any, Any], None], begins: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = warnings_of(build, tmp_path, caplog)
    assert [line[: len(begin)] for line, begin in zip(said, begins, strict=True)] == begins


def test_who_allows_it_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert warnings_of(totals_replaced, tmp_path, caplog, allow_per_batch=True) == []


def test_windows_are_refused_in_one_round_with_the_step_that_makes_them(tmp_path: Path) -> None:
    def build(stream: Any, rows: Any) -> None:
        windowed = rows | "Minutes" >> beam.WindowInto(beam.window.FixedWindows(60))
        _ = windowed | beam.Map(dict) | beam.Filter(bool) | files()

    stream = ExactlyOnceStream(f"{tmp_path}/checkpoint")
    rows = stream | ReadFromKafka("memory:9092", ["orders"])
    with pytest.raises(
        UnsupportedPipeline, match=r"step 'Minutes' puts elements into FixedWindows.*allow_per_batch=True"
    ):
        build(stream, rows)
