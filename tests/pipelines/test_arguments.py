"""Every wrong argument of streams, sources and sinks is one error on the line that gives it: argument, value, way out."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import (
    CheckpointAt,
    DecodeRecords,
    ExactlyOnceStream,
    ForEachBatch,
    ProcessingTime,
    ReadFromKafka,
    WriteToDelta,
    WriteToFiles,
    WriteToKafka,
    WriteToSql,
)
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store import ObjectStore, open_object_store, override_stores
from beam_exactly_once.testing import run_in_memory

ROWS = pa.schema([("id", pa.int64())])


def stream(**arguments: Any) -> ExactlyOnceStream:
    return ExactlyOnceStream(**{"checkpoint_location": "memory://arguments/checkpoint", **arguments})


def read(**arguments: Any) -> ReadFromKafka:
    return ReadFromKafka(**{"bootstrap_servers": "broker:9092", "topics": ["orders"], **arguments})


def files(**arguments: Any) -> WriteToFiles:
    return WriteToFiles(**{"location": "/lake/orders", "schema": ROWS, **arguments})


def delta(**arguments: Any) -> WriteToDelta:
    return WriteToDelta(**{"location": "/lake/orders", "schema": ROWS, **arguments})


WRONG: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (stream, {"checkpoint_location": ""}, "checkpoint_location='' must be the URI of this stream's checkpoint"),
    (stream, {"trigger": "now"}, "trigger='now' is not known; use AvailableNow(), ProcessingTime(10) or Continuous(1)"),
    (stream, {"max_batches": 0}, "max_batches=0 must be a whole number of at least 1, or None for no limit"),
    (stream, {"continue_from": "s3://old"}, "continue_from='s3://old' must be a CheckpointAt"),
    (stream, {"continue_from": CheckpointAt("memory://arguments/checkpoint")}, "this stream's own checkpoint_location"),
    (stream, {"storage_options": "region"}, "storage_options=str must be a mapping of options"),
    (stream, {"listeners": 5}, "must be a function of a BatchProgress, or a list of such"),
    (stream, {"listeners": ["stdout"]}, "must be a function of a BatchProgress, or a list of such"),
    (stream, {"retain_batches": 1}, "retain_batches=1 must be a whole number of at least 2"),
    (stream, {"batch_timeout_s": 0}, "batch_timeout_s=0 must be a number of seconds above 0, or None for no limit"),
    (stream, {"allow_per_batch": 1}, "allow_per_batch=1 must be True or False"),
    (ProcessingTime, {"interval_s": -1}, "interval_s=-1 must be a number of seconds of at least 0"),
    (read, {"topics": "orders"}, "topics='orders' must be a list of topics: topics=['orders']"),
    (read, {"topics": ()}, "topics=(), topic_pattern=None: give exactly one of them"),
    (read, {"topic_pattern": "orders"}, "topics=['orders'], topic_pattern='orders': give exactly one of them"),
    (read, {"topics": (), "topic_pattern": "("}, "topic_pattern='(' is not a regular expression"),
    (read, {"start": "oldest"}, "start='oldest' is not known; use 'earliest', 'latest'"),
    (read, {"stop": "earliest"}, "stop='earliest' is not known; use 'latest'"),
    (read, {"decoder": "json"}, "decoder='json' must be a function of a record"),
    (read, {"as_arrow": "yes"}, "as_arrow='yes' must be True or False"),
    (read, {"on_error": "reject"}, "on_error='reject' of ReadFromKafka needs a decoder="),
    (read, {"on_error": "ignore"}, "on_error='ignore' is not known; use 'fail' or 'reject'"),
    (read, {"on_data_loss": True}, "on_data_loss=True is not known; use 'fail' or 'skip'"),
    (read, {"max_batch_offsets": 0}, "max_batch_offsets=0 must be a whole number"),
    (read, {"min_batch_offsets": 5}, "min_batch_offsets=5 and max_batch_delay_s=None need each other"),
    (read, {"name": "orders/eu"}, "name='orders/eu' cannot name a source, sink or step"),
    (read, {"name": 7}, "name=7 cannot name a source, sink or step"),
    (
        read,
        {"isolation_level": "committed"},
        "isolation_level='committed' is not known; use 'read_committed' or 'read_uncommitted'",
    ),
    (read, {"client_config": {"group.id": 1, "enable.auto.commit": True}}, "enable.auto.commit cannot be set"),
    (read, {"client_config": {"sasl.password": "plain"}}, "sasl.password must not be plain text"),
    (read, {"client_config": ["acks"]}, "client_config=list must be a mapping of options"),
    (read, {"timeout_s": 0}, "timeout_s=0 must be a number of seconds above 0"),
    (files, {"location": 7}, "location=7 must be the URI of a folder"),
    (files, {"format": "orc"}, "format='orc' is not known; use 'parquet', 'csv', 'json' or 'text'"),
    (files, {"compression": None}, "compression=None is not known for parquet; use 'auto', 'zstd'"),
    (files, {"partition_by": "id"}, "partition_by='id' must be a list of columns: partition_by=['id']"),
    (files, {"max_file_bytes": 0}, "max_file_bytes=0 must be a whole number of at least 1"),
    (files, {"max_row_group_rows": "many"}, "max_row_group_rows='many' must be a whole number"),
    (files, {"max_open_files": True}, "max_open_files=True must be a whole number"),
    (files, {"csv_delimiter": ";;"}, "csv_delimiter=';;' must be one ASCII sign"),
    (files, {"storage_options": [1]}, "storage_options=list must be a mapping"),
    (files, {"on_error": "skip"}, "on_error='skip' is not known; use 'fail' or 'reject'"),
    (files, {"name": "a b"}, "name='a b' cannot name"),
    (delta, {"location": ""}, "location='' must be the URI of a table"),
    (delta, {"partition_by": "id"}, "partition_by='id' must be a list of columns"),
    (delta, {"add_columns": 1}, "add_columns=1 must be True or False"),
    (DecodeRecords, {"decoder": None}, "decoder=None must be a function of a record"),
    (ForEachBatch, {"fn": 7}, "fn=7 of ForEachBatch must be a function of the rows of a batch"),
    (WriteToKafka, {"bootstrap_servers": "b:1", "topic": "a b"}, "topic='a b' cannot name a Kafka topic"),
    (WriteToKafka, {"bootstrap_servers": "b:1", "topic": "a", "direct": "x"}, "direct='x' must be True or False"),
    (
        WriteToSql,
        {"url": "sqlite:////t.db", "table": "a.b.c"},
        "table='a.b.c' of WriteToSql must be the name of a table",
    ),
    (WriteToSql, {"url": "sqlite:////t.db", "table": "a", "columns": "id"}, "columns='id' must be a list of columns"),
]


@pytest.mark.parametrize(
    ("make", "arguments", "message"), WRONG, ids=[message.partition(" ")[0] for *_, message in WRONG]
)
def test_a_wrong_argument_is_refused_where_it_is_given(
    make: Callable[..., Any], arguments: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make(**arguments)
    assert message in str(refused.value)
    assert any(frame.filename == __file__ for frame in traceback.extract_tb(refused.tb)[:3])


@pytest.mark.runs_on("DirectRunner")
def test_a_pair_that_is_piped_on_says_to_unpack_it() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        pair = stream | read(decoder=lambda record: {"id": int(record.value)}, on_error="reject")
        with pytest.raises(
            ConfigurationError, match=r"two collections, and .*WriteToFiles.* Unpack them: rows, rejected = …"
        ):
            _ = pair | WriteToFiles("/lake/orders")
        rows, rejected = pair
        _ = (rows, rejected) | beam.Flatten() | WriteToFiles("/lake/all", format="json")

    assert len(run_in_memory(build, {"orders": [[b"1"]]}).rows("files")) == 1


@pytest.mark.runs_on("DirectRunner")
def test_names_are_labels() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        records = stream | read(name="orders")
        _ = records | WriteToFiles("/lake/a", name="first")
        _ = records | WriteToFiles("/lake/b", name="second")
        _ = records | WriteToFiles("/lake/c")
        labels.update(label for label in stream.applied_labels if "/" not in label)

    labels: set[str] = set()
    run_in_memory(build, {"orders": [[b"1"]]})
    assert labels >= {"ReadFromKafka(orders)", "WriteToFiles(first)", "WriteToFiles(second)", "WriteToFiles"}


def test_two_of_a_class_are_asked_for_names_not_for_labels() -> None:
    with stream() as pipeline:
        records = pipeline | read()
        _ = records | files()
        with pytest.raises(ConfigurationError, match=r"has a WriteToFiles already. Give each its own name="):
            _ = records | files(location="/lake/more")
        with pytest.raises(ConfigurationError, match=r"has a ReadFromKafka already. Give each its own name="):
            _ = pipeline | read(topics=["payments"])
        pipeline._ran = True  # nothing to run


OF_THE_STREAM = {"endpoint_url": "http://localhost:9000"}
LOCATIONS: list[tuple[str, dict[str, str] | None, dict[str, str] | None]] = [
    ("s3://lake/orders", None, OF_THE_STREAM),
    ("s3a://lake/orders", None, OF_THE_STREAM),
    ("s3://lake/orders", {"region_name": "eu"}, {"region_name": "eu"}),
    ("s3://lake/orders", {}, {}),
    ("gs://lake/orders", None, None),
    ("/lake/orders", None, None),
]


@pytest.mark.parametrize(("location", "given", "used"), LOCATIONS)
@pytest.mark.parametrize("sink", [WriteToFiles, WriteToDelta])
def test_options_of_the_stream_hold_for_locations_on_the_same_kind_of_store(
    sink: Any, location: str, given: dict[str, str] | None, used: dict[str, str] | None
) -> None:
    opened: dict[str, Any] = {}

    def open_store(uri: str, options: Mapping[str, Any] | None) -> ObjectStore:
        opened.setdefault(uri, options)
        return renamed(uri)

    with override_stores(open_store):
        pipeline = ExactlyOnceStream("s3://checkpoints/orders", storage_options=OF_THE_STREAM)
        _ = pipeline | read() | sink(location, schema=ROWS, storage_options=given)
    assert opened["s3://checkpoints/orders"] == OF_THE_STREAM
    assert opened[location] == used


def renamed(uri: str) -> ObjectStore:
    """A store in memory that says it is elsewhere."""
    store = open_object_store(f"memory://{uri.partition('://')[2] or uri.strip('/')}")
    store.uri = uri
    return store


@pytest.mark.parametrize(
    ("checkpoint", "output"),
    [
        ("/tmp/apart/a", "/tmp/apart/a"),
        ("/tmp/apart/a", "file:///tmp/apart/a/output"),
        ("/tmp/apart/a/_checkpoint", "/tmp/apart/a/"),
        ("/tmp/apart/a/../a", "/tmp/apart/a/output"),
    ],
)
@pytest.mark.parametrize("sink", [WriteToFiles, WriteToDelta])
def test_an_output_and_the_checkpoint_are_apart(checkpoint: str, output: str, sink: Any) -> None:
    rows = stream(checkpoint_location=checkpoint) | read() | beam.Map(dict)
    with pytest.raises(ConfigurationError, match="Give each a folder of its own, side by side"):
        _ = rows | sink(output, schema=ROWS)


@pytest.mark.parametrize(
    ("checkpoint", "output"),
    [
        ("real/a", "link/a"),
        ("real/a", "link/a/output"),
        ("link/a/_checkpoint", "real/a"),
        ("real", "to_a/output"),
        ("real/a", "file:///link/a/output"),
    ],
)
@pytest.mark.parametrize("sink", [WriteToFiles, WriteToDelta])
def test_an_output_and_the_checkpoint_are_apart_where_links_lead(
    tmp_path: Path, checkpoint: str, output: str, sink: Any
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "to_a").symlink_to(tmp_path / "link" / "a")  # which is not there yet
    rows = stream(checkpoint_location=str(tmp_path / checkpoint)) | read() | beam.Map(dict)
    scheme, separator, path = output.rpartition(":///")
    with pytest.raises(ConfigurationError, match=r"\(links lead to .* side by side"):
        _ = rows | sink(f"{scheme}{'://' if separator else ''}{tmp_path / path}", schema=ROWS)


def test_links_that_lead_apart_or_nowhere_are_fine(tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    (tmp_path / "out").symlink_to("apart")
    (tmp_path / "loop").symlink_to("loop")
    for output in ("out", "loop"):
        _ = stream(checkpoint_location=str(tmp_path / "a")) | read() | WriteToFiles(str(tmp_path / output))


def test_an_output_may_begin_as_the_checkpoint_does() -> None:
    _ = stream(checkpoint_location="memory://apart/a") | read() | WriteToFiles("memory://apart/a-output")


@pytest.mark.parametrize("runner", ["NoSuchRunner", "no.such.Runner", "apache_beam.NoSuchRunner"])
def test_a_runner_that_is_not_known(runner: str) -> None:
    with pytest.raises(ConfigurationError, match=f"runner {runner} is not known"):
        stream(runner=runner)
