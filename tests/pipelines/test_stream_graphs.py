"""Graphs of all shapes in a stream: each gives the right result or a clear refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows, GlobalWindows, SlidingWindows

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles
from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline
from beam_exactly_once.testing import MemoryKafka, run_in_memory
from support.ending import ends_with

pytestmark = pytest.mark.runs_on("DirectRunner", storage="memory")

TWO_BATCHES = {"orders": [[b"1", b"2"], [b"3"]]}


def numbers(stream: beam.Pipeline) -> beam.PCollection[dict[str, int]]:
    return stream | ReadFromKafka("localhost:9092", ["orders"]) | beam.Map(lambda record: {"n": int(record.value)})


def json_files(name: str | None = None) -> WriteToFiles:
    return WriteToFiles(f"/lake/{name or 'orders'}", format="json", name=name)


def in_order(batches: list[list[dict[str, Any]]]) -> list[list[Any]]:
    return [sorted(row["n"] for row in batch) for batch in batches]


def test_each_batch_is_published_once() -> None:
    run = run_in_memory(lambda stream: numbers(stream) | json_files(), TWO_BATCHES)
    assert in_order(run.published["files"]) == [[1, 2], [3]]
    assert [batch.records_read for batch in run.progress] == [2, 1]
    assert [batch.rows_written for batch in run.progress] == [{"files": 2}, {"files": 1}]


@pytest.mark.parametrize("format", ["parquet", "csv", "json", "text"])
def test_every_format_in_folders(format: str) -> None:
    schema = pa.schema([("n", pa.string()), ("odd", pa.bool_())])

    def build(stream: ExactlyOnceStream) -> None:
        _ = (
            numbers(stream)
            | beam.Map(lambda row: {"n": str(row["n"]), "odd": bool(row["n"] % 2)})
            | beam.Reshuffle()
            | WriteToFiles("/lake/orders", format=format, schema=schema, partition_by=["odd"])  # type: ignore[arg-type]
        )

    line = "line" if format == "text" else "n"
    first, second = run_in_memory(build, TWO_BATCHES).published["files"]
    assert sorted((str(row[line], "ascii") if format == "text" else row[line], row["odd"]) for row in first) == [
        ("1", "true"),
        ("2", "false"),
    ]
    assert len(second) == 1


def test_two_sinks_of_one_class_each_get_their_own_rows() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        rows = numbers(stream)
        rows | "Odd" >> beam.Filter(lambda row: row["n"] % 2) | "WriteOdd" >> json_files("odd")
        rows | "Even" >> beam.Filter(lambda row: row["n"] % 2 == 0) | "WriteEven" >> json_files("even")

    run = run_in_memory(build, TWO_BATCHES)
    assert in_order(run.published["odd"]) == [[1], [3]]
    assert in_order(run.published["even"]) == [[2], []]


def test_two_sinks_without_names_are_refused() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        rows = numbers(stream)
        rows | "WriteOne" >> WriteToFiles("/lake/one", format="json")
        rows | "WriteTwo" >> WriteToFiles("/lake/two", format="json")

    with pytest.raises(ConfigurationError, match="name="):
        run_in_memory(build, TWO_BATCHES)


def test_two_sources_are_planned_and_committed_together() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        orders = stream | "ReadOrders" >> ReadFromKafka("localhost:9092", ["orders"], name="orders")
        refunds = stream | "ReadRefunds" >> ReadFromKafka("localhost:9092", ["refunds"], name="refunds")
        _ = (orders, refunds) | beam.Flatten() | beam.Map(lambda record: {"n": int(record.value)}) | json_files()

    run = run_in_memory(build, {"orders": [[b"1"], [b"2"]], "refunds": [[b"10"], []]})
    assert in_order(run.published["files"]) == [[1, 10], [2]]


def test_a_shuffle_groups_within_a_batch() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        _ = (
            numbers(stream)
            | beam.Map(lambda row: ("sum", row["n"]))
            | beam.CombinePerKey(sum)
            | beam.Map(lambda total: {"n": total[1]})
            | json_files()
        )

    assert in_order(run_in_memory(build, TWO_BATCHES).published["files"]) == [[3], [3]]


def test_a_batch_that_a_filter_empties_is_committed_with_no_files() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        _ = numbers(stream) | beam.Filter(lambda row: row["n"] == 3) | json_files()

    assert in_order(run_in_memory(build, TWO_BATCHES).published["files"]) == [[], [3]]


class Failing(beam.DoFn):
    def process(self, element: Any) -> Iterator[Any]:
        raise RuntimeError("the side branch failed")


@pytest.mark.parametrize("behind_a_shuffle", [False, True])
def test_a_failing_side_branch_prevents_the_commit(behind_a_shuffle: bool, tmp_path: Path) -> None:
    cluster = MemoryKafka({"orders": 1})
    cluster.append([Record("orders", value=b"1")])

    def run(*, fail: bool) -> None:
        with ExactlyOnceStream(str(tmp_path / "checkpoint")) as stream:
            rows = numbers(stream)
            _ = rows | WriteToFiles(str(tmp_path / "output"), format="json")
            if fail:
                side = rows | beam.Reshuffle() if behind_a_shuffle else rows
                _ = side | beam.ParDo(Failing())

    with cluster.serving():
        with ends_with("the side branch failed"):
            run(fail=True)
        assert not list((tmp_path / "checkpoint" / "commits").glob("*"))
        assert not list((tmp_path / "output").glob("*.json"))
        run(fail=False)
    assert [file.read_text() for file in (tmp_path / "output").glob("*.json")] == ['{"n":1}\n']


def test_a_beam_sink_beside_ours_is_waited_for() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        rows = numbers(stream)
        rows | beam.ParDo(_Remember())
        rows | json_files()

    _Remember.seen.clear()
    run = run_in_memory(build, TWO_BATCHES)
    assert sorted(_Remember.seen) == [1, 2, 3]
    assert in_order(run.published["files"]) == [[1, 2], [3]]


class _Remember(beam.DoFn):
    seen: list[int] = []  # noqa: RUF012 (shared by every copy on purpose)

    def process(self, row: dict[str, int]) -> None:
        _Remember.seen.append(row["n"])


def test_beams_own_file_writer_is_refused_since_batches_would_overwrite_each_other() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        _ = numbers(stream) | beam.Map(str) | beam.io.WriteToText("/tmp/never-written")

    with pytest.raises(UnsupportedPipeline, match="overwrite"):
        run_in_memory(build, TWO_BATCHES)


@pytest.mark.parametrize("window", [FixedWindows(60), SlidingWindows(60, 20)])
def test_user_windows_are_refused(window: Any) -> None:
    def build(stream: ExactlyOnceStream) -> None:
        _ = numbers(stream) | beam.WindowInto(window) | "Global" >> beam.WindowInto(GlobalWindows()) | json_files()

    with pytest.raises(UnsupportedPipeline, match="allow_per_batch"):
        run_in_memory(build, TWO_BATCHES)


def test_user_windows_within_one_batch_on_request() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        _ = (
            numbers(stream)
            | beam.Map(lambda row: beam.window.TimestampedValue(("k", row["n"]), row["n"] * 60))
            | beam.WindowInto(FixedWindows(60))
            | beam.CombinePerKey(sum)
            | beam.Map(lambda total: {"n": total[1]})
            | "Global" >> beam.WindowInto(GlobalWindows())
            | json_files()
        )

    run = run_in_memory(build, {"orders": [[b"1", b"1", b"2"], [b"2"]]}, allow_per_batch=True)
    assert in_order(run.published["files"]) == [[2, 2], [2]]


def test_records_have_the_start_of_1970_as_timestamp_so_that_no_event_time_behind_it_is_late() -> None:
    def timestamps(row: dict[str, int], timestamp: Any = beam.DoFn.TimestampParam) -> dict[str, int]:
        return {"n": timestamp.micros}

    def build(stream: ExactlyOnceStream) -> None:
        _ = numbers(stream) | beam.Map(timestamps) | json_files()

    run = run_in_memory(build, TWO_BATCHES)

    assert in_order(run.published["files"]) == [[0, 0], [0]]


def test_a_sink_refuses_windowed_rows_even_when_windows_are_allowed() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        _ = numbers(stream) | beam.WindowInto(SlidingWindows(60, 20)) | json_files()

    with pytest.raises(UnsupportedPipeline, match="GlobalWindows"):
        run_in_memory(build, TWO_BATCHES, allow_per_batch=True)


def test_a_windowed_leaf_is_waited_for() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        rows = numbers(stream)
        _ = rows | beam.WindowInto(FixedWindows(60)) | beam.ParDo(_Remember())
        _ = rows | json_files()

    _Remember.seen.clear()
    run = run_in_memory(build, TWO_BATCHES, allow_per_batch=True)
    assert sorted(_Remember.seen) == [1, 2, 3]
    assert in_order(run.published["files"]) == [[1, 2], [3]]


class Counting(beam.DoFn):
    COUNT = ReadModifyWriteStateSpec("count", beam.coders.VarIntCoder())

    def process(self, keyed: tuple[str, int], count: Any = beam.DoFn.StateParam(COUNT)) -> Iterator[dict[str, int]]:  # noqa: B008
        count.write((count.read() or 0) + 1)
        yield {"n": count.read()}


def counted(stream: ExactlyOnceStream) -> None:
    _ = numbers(stream) | beam.Map(lambda row: ("k", row["n"])) | beam.ParDo(Counting()) | json_files()


def test_a_stateful_dofn_is_refused() -> None:
    with pytest.raises(UnsupportedPipeline, match="start from nothing in each batch"):
        run_in_memory(counted, TWO_BATCHES)


def test_a_stateful_dofn_within_one_batch_on_request() -> None:
    run = run_in_memory(counted, TWO_BATCHES, allow_per_batch=True)
    assert in_order(run.published["files"]) == [[1, 2], [1]]


def test_group_into_batches_needs_no_request() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        _ = (
            numbers(stream)
            | beam.Map(lambda row: ("k", row["n"]))
            | beam.GroupIntoBatches(10)
            | beam.Map(lambda batch: {"n": sum(batch[1])})
            | json_files()
        )

    assert in_order(run_in_memory(build, TWO_BATCHES).published["files"]) == [[3], [3]]


def test_a_sink_outside_a_stream_says_what_to_use() -> None:
    with pytest.raises(UnsupportedPipeline, match="ExactlyOnceStream"):
        _ = beam.Pipeline() | beam.Create([{"n": 1}]) | json_files()


def test_a_stream_without_a_source_is_refused(tmp_path: Path) -> None:
    stream = ExactlyOnceStream(str(tmp_path / "checkpoint"))
    with pytest.raises(ConfigurationError, match="no source"):
        stream.run()


def test_a_stream_runs_once() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        numbers(stream) | json_files()
        stream.run()
        with pytest.raises(ConfigurationError, match="ran already"):
            stream.run()

    assert in_order(run_in_memory(build, TWO_BATCHES).published["files"]) == [[1, 2], [3]]


def test_nulls_headers_and_bytes_that_are_no_text_arrive_as_they_are() -> None:
    odd = [
        Record("orders", 0, key=None, value=None),
        Record("orders", 0, key=b"\xff\xfe", value=b"", headers=(("h", None), ("h", b"\x00"))),
        Record("orders", 3, key=b"k", value=b"v", timestamp_ms=5),
    ]

    def build(stream: ExactlyOnceStream) -> None:
        _ = stream | ReadFromKafka("localhost:9092", ["orders"]) | WriteToFiles("/lake/orders")

    (batch,) = run_in_memory(build, {"orders": [odd]}).published["files"]
    found = sorted(
        (
            row["partition"],
            row["offset"],
            row["key"],
            row["value"],
            [(h["key"], h["value"]) for h in row["headers"] or []],
        )
        for row in batch
    )
    assert found == [
        (0, 0, None, None, []),
        (0, 1, b"\xff\xfe", b"", [("h", None), ("h", b"\x00")]),
        (3, 0, b"k", b"v", []),
    ]


def test_records_and_arrow_batches_give_the_same_files() -> None:
    def build(as_arrow: bool) -> Any:
        def apply(stream: ExactlyOnceStream) -> None:
            _ = stream | ReadFromKafka("localhost:9092", ["orders"], as_arrow=as_arrow) | WriteToFiles("/lake/orders")

        return apply

    as_records = run_in_memory(build(False), TWO_BATCHES).published["files"]
    as_arrow = run_in_memory(build(True), TWO_BATCHES).published["files"]
    assert as_records == as_arrow
    assert [row["value"] for row in as_arrow[0]] == [b"1", b"2"]
