"""``ReadFromWal``: all that is true of a stream from Kafka is true of one from a write-ahead log."""

from __future__ import annotations

import datetime
import sqlite3
from operator import itemgetter
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
import pytest
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows

from beam_exactly_once import (
    AggregateByWindow,
    BatchProgress,
    EventTime,
    ExactlyOnceStream,
    ProcessingTime,
    ReadFromKafka,
    ReadFromWal,
    Record,
    WriteToFiles,
    read_batches,
)
from beam_exactly_once.errors import ConfigurationError, DataLoss, PipelineChanged, UnknownTopic
from beam_exactly_once.pipelines import wal_to_delta, wal_to_files, wal_to_kafka, wal_to_sql
from beam_exactly_once.pipelines.ready_made import Given
from beam_exactly_once.testing import run_in_memory
from support.command_line import run
from support.lives import values_in
from support.wal.streams import append, numbers, run_to_files, to_files


def test_each_start_reads_what_came_since(tmp_path: Path) -> None:
    for first in range(0, 30, 10):
        append(tmp_path, numbers(range(first, first + 10)))
        run_to_files(tmp_path, max_batch_offsets=6)
        assert values_in(tmp_path / "output") == sorted(numbers(range(first + 10)))


def test_micro_batches_read_what_comes_meanwhile_also_in_new_partitions(tmp_path: Path) -> None:
    """After each batch another writer appends; the second one to a partition that was not there when the stream began."""
    append(tmp_path, numbers(range(5)))
    seen: list[BatchProgress] = []

    def write_more(progress: BatchProgress) -> None:
        seen.append(progress)
        append(tmp_path, numbers(range(5 * len(seen), 5 * len(seen) + 5)), partition=len(seen) // 2)

    with ExactlyOnceStream(
        f"{tmp_path}/checkpoint", trigger=ProcessingTime(0), max_batches=4, listeners=write_more
    ) as stream:
        to_files(stream, tmp_path)
    assert values_in(tmp_path / "output") == sorted(numbers(range(20)))
    assert [one.records_read for one in seen] == [5, 5, 5, 5]


def test_records_are_those_of_the_log_and_a_decoder_sees_them(tmp_path: Path) -> None:
    append(tmp_path, [b"a", b"b"])

    def decode(record: Record) -> dict[str, Any]:
        return {
            "at": record.offset,
            "of": record.topic,
            "by": record.timestamp_type,
            "said": (record.value or b"").decode(),
        }

    with ExactlyOnceStream(f"{tmp_path}/checkpoint") as stream:
        rows = stream | ReadFromWal(f"{tmp_path}/hooks", decoder=decode)
        _ = rows | WriteToFiles(f"{tmp_path}/output", format="json")
    (file,) = (tmp_path / "output").glob("*.json")
    found = sorted(map(orjson.loads, file.read_bytes().splitlines()), key=itemgetter("at"))
    assert found == [
        {"at": 1, "of": "hooks", "by": 2, "said": "a"},
        {"at": 2, "of": "hooks", "by": 2, "said": "b"},
    ], "the claim has offset 0"


def test_an_ordinary_pipeline_reads_up_to_its_stop(tmp_path: Path) -> None:
    append(tmp_path, numbers(range(10)))
    with beam.Pipeline() as pipeline:
        records = pipeline | ReadFromWal(f"{tmp_path}/hooks", start={"hooks": {0: 3}}, stop={"hooks": {0: 6}})
        assert_that(records | beam.Map(lambda record: record.value), equal_to(numbers(range(2, 5))))
    with pytest.raises(ConfigurationError, match=r"stop=None of ReadFromWal is an unbounded read, which .*Runner"):
        _ = beam.Pipeline() | ReadFromWal(f"{tmp_path}/hooks")


def test_in_memory_a_log_is_the_topic_of_its_name() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        lengths = stream | ReadFromWal("s3://logs/hooks") | beam.Map(lambda record: {"length": len(record.value)})
        _ = lengths | WriteToFiles("s3://lake/hooks", format="json")

    published = run_in_memory(build, {"hooks": [[b"a"], [b"bb", b"ccc"]]}).published["files"]
    assert [sorted(row["length"] for row in batch) for batch in published] == [[1], [2, 3]]


def test_windows_close_by_the_time_of_arrival() -> None:
    minute_ms = 60_000

    def build(stream: ExactlyOnceStream) -> None:
        records = stream | ReadFromWal("s3://logs/hooks", event_time=EventTime(out_of_order_s=0))
        pairs = records | beam.Map(lambda record: ("all", record.timestamp_ms))
        counts = pairs | AggregateByWindow(
            beam.combiners.CountCombineFn(), FixedWindows(60), event_time_by=lambda at_ms: at_ms, on_late="drop"
        )
        _ = (
            counts
            | beam.Map(lambda one: {"at": one.window_start_ms, "n": one.value})
            | WriteToFiles("out", format="json")
        )

    def at(*minutes: float) -> list[Record]:
        return [Record(timestamp_ms=int(one * minute_ms), timestamp_type=2) for one in minutes]

    run = run_in_memory(build, {"hooks": [at(0.1, 0.2), at(0.5, 1.5), at(3)]})
    assert sorted((row["at"], row["n"]) for row in run.rows("files")) == [(0, 3), (minute_ms, 1)]


def test_two_sources_of_a_stream_read_one_log_each_by_itself(tmp_path: Path) -> None:
    append(tmp_path, numbers(range(10)))
    with ExactlyOnceStream(f"{tmp_path}/checkpoint") as stream:
        for name, limit in (("fast", None), ("slow", 4)):
            records = stream | ReadFromWal(f"{tmp_path}/hooks", name=name, as_arrow=True, max_batch_offsets=limit)
            _ = records | WriteToFiles(f"{tmp_path}/{name}", name=name)
    assert values_in(tmp_path / "fast") == values_in(tmp_path / "slow") == sorted(numbers(range(10)))


def test_a_start_by_time_begins_with_what_arrived_then(tmp_path: Path) -> None:
    append(tmp_path, numbers(range(4)))
    far = datetime.datetime(2100, 1, 1, tzinfo=datetime.timezone.utc)
    run_to_files(tmp_path, start=far)
    append(tmp_path, numbers(range(4, 6)))
    run_to_files(tmp_path, start=far)
    assert values_in(tmp_path / "output") == numbers(range(4, 6))


def test_a_location_without_a_log_is_an_error_before_anything_is_claimed(tmp_path: Path) -> None:
    with pytest.raises(UnknownTopic, match=r"hooks holds no write-ahead log\. Start what writes to it first"):
        run_to_files(tmp_path)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_log_that_was_wiped_and_made_anew_is_another_one(policy: str, tmp_path: Path) -> None:
    append(tmp_path, numbers(range(10)))
    run_to_files(tmp_path)
    (tmp_path / "hooks").rename(tmp_path / "wiped")
    append(tmp_path, numbers(range(10, 20)))
    if policy == "fail":
        with pytest.raises(DataLoss, match="topic hooks was deleted and recreated"):
            run_to_files(tmp_path)
    else:
        run_to_files(tmp_path, on_data_loss="skip")
        assert values_in(tmp_path / "output") == sorted(numbers(range(20)))


def test_a_source_that_is_another_one_now_is_refused(tmp_path: Path) -> None:
    append(tmp_path, numbers(range(10)))
    run_to_files(tmp_path)
    (tmp_path / "hooks").rename(tmp_path / "moved")
    with (
        pytest.raises(PipelineChanged, match=r"source 'wal' had location='.*/hooks', now '.*/moved'"),
        ExactlyOnceStream(f"{tmp_path}/checkpoint") as stream,
    ):
        _ = stream | ReadFromWal(f"{tmp_path}/moved", as_arrow=True) | WriteToFiles(f"{tmp_path}/output")


def test_arguments_are_checked_where_they_are_given() -> None:
    with pytest.raises(ConfigurationError, match="on_error='reject' of ReadFromWal needs a decoder="):
        ReadFromWal("hooks", on_error="reject")
    with pytest.raises(ConfigurationError, match="on_error='reject' of ReadFromKafka needs a decoder="):
        ReadFromKafka("kafka:9092", ["hooks"], on_error="reject")
    with pytest.raises(ConfigurationError, match="location"):
        ReadFromWal("")


def test_the_ready_made_pipeline_reads_it_to_files(tmp_path: Path) -> None:
    append(tmp_path, numbers(range(10)))
    flags = {"location": "hooks", "checkpoint-location": "checkpoint", "output-location": "output"}
    argv = [f"--{flag}={tmp_path}/{folder}" for flag, folder in flags.items()]
    assert wal_to_files.main([*argv, "--output-partition-by=topic,event_date"]) == 0
    assert values_in(tmp_path / "output") == sorted(numbers(range(10)))
    assert [one.name for one in (tmp_path / "output").glob("topic=*")] == ["topic=hooks"]


def test_a_ready_made_pipeline_reads_it_to_a_table(tmp_path: Path) -> None:
    append(tmp_path, [b'{"id": 1}', b'{"id": 2}', b"no object"])
    with sqlite3.connect(tmp_path / "hooks.db") as table:
        table.execute("CREATE TABLE hooks (id INTEGER)")
    flags = {"location": "hooks", "checkpoint-location": "checkpoint", "rejected-location": "rejected"}
    argv = [f"--{flag}={tmp_path}/{folder}" for flag, folder in flags.items()]
    assert wal_to_sql.main([*argv, f"--output-url=sqlite:///{tmp_path}/hooks.db", "--output-table=hooks"]) == 0
    assert table.execute("SELECT id FROM hooks ORDER BY id").fetchall() == [(1,), (2,)]
    assert [batch.rows_written for batch in read_batches(f"{tmp_path}/rejected")] == [1]


def test_ready_made_pipelines_write_it_to_where_those_of_topics_write(tmp_path: Path) -> None:
    places = {
        wal_to_delta: ["--output-location=lake"],
        wal_to_sql: ["--output-url=sqlite:///hooks.db", "--output-table=hooks"],
        wal_to_kafka: ["--output-bootstrap-servers=memory:9092", "--output-topic=copy"],
    }
    for module, place in places.items():
        values, _ = module.PIPELINE.parser().parse(
            [f"--location={tmp_path}/hooks", f"--checkpoint-location={tmp_path}", *place]
        )
        stream = ExactlyOnceStream(**values["stream"])
        module.PIPELINE.wire(stream, Given(**values, reader=module.PIPELINE.source))
        assert stream.stream_graph.sources["wal"].settings.definition["location"] == f"{tmp_path}/hooks"
        kinds = [sink.definition["kind"] for sink in stream.stream_graph.sinks.values()]
        assert kinds == [module.PIPELINE.name.removeprefix("wal-to-")]


def test_status_shows_the_lag_without_being_told_where_the_log_is(tmp_path: Path) -> None:
    append(tmp_path, numbers(range(10)))
    run_to_files(tmp_path, max_batch_offsets=4, stream_max_batches=1)
    found = orjson.loads(run("status", tmp_path / "checkpoint", "--json").stdout)
    assert found["lag_offsets"] == {"wal": {"hooks": {"0": 7}}}
