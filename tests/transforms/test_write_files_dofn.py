"""Files are staged, published and swept: the DoFns and the publisher driven by hand, over real stores."""

from __future__ import annotations

import io
import pickle
import random
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that

from beam_exactly_once import RECORD_SCHEMA, Record, WriteToFiles, read_batches
from beam_exactly_once.errors import (
    ConfigurationError,
    SinkAhead,
    StagedOutputMissing,
    UnsupportedPipeline,
)
from beam_exactly_once.object_store import StagedObject
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.files.encoding import FileEncoding
from beam_exactly_once.sinks.files.layout import FileLayout
from beam_exactly_once.sinks.files.manifest import batch_id_of_part
from beam_exactly_once.sinks.files.publisher import FilesPublisher
from beam_exactly_once.transforms.encode_rows import ToBlocks
from beam_exactly_once.transforms.stream_graph import StreamGraph
from support.file_sinks import (
    SCHEMA,
    STREAM,
    Sink,
    attempt_of,
    keys,
    part,
    publish_batch,
    read_json,
    read_parquet,
    records,
    stage_bundle,
    staged_names,
    store_of,
    visible_files,
)


class TestBundles:
    def test_an_empty_bundle_stages_nothing(self, output: str) -> None:
        assert stage_bundle(output, []) == []
        assert stage_bundle(output, [pa.RecordBatch.from_pylist([], SCHEMA)]) == []
        assert staged_names(output) == []

    def test_staged_files_are_invisible_and_named_by_batch(self, output: str) -> None:
        (first,) = stage_bundle(output, records(3), batch_id=7)
        (second,) = stage_bundle(output, records(3), batch_id=7)
        assert keys(output) == []
        assert staged_names(output) == sorted([first["final_key"], second["final_key"]])
        assert first["final_key"] != second["final_key"]
        assert first["final_key"].startswith(f"part-{7:020d}-00aa11bb22cc33dd-")
        assert first["final_key"].endswith("-00000.parquet")
        assert batch_id_of_part(first["final_key"]) == 7
        assert first["rows"] == 3
        assert first["staged"]["final_key"] == first["final_key"]

    @pytest.mark.parametrize("layout", [{}, {"format": "json"}, {"format": "json", "compression": "gzip"}])
    @pytest.mark.parametrize("arrow", [False, True])
    def test_a_full_file_gives_way_to_a_new_one(self, output: str, layout: dict[str, Any], arrow: bool) -> None:
        chooser = random.Random(7)
        rows = [record._replace(value=chooser.randbytes(100)) for record in records(2000)]
        given: list[Any] = list(rows)
        if arrow:
            columns = list(zip(*rows, strict=True))
            arrays = [pa.array(column, field.type) for column, field in zip(columns, RECORD_SCHEMA, strict=True)]
            whole = pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)
            given = [whole.slice(start, 100) for start in range(0, 2000, 100)]
        committables = stage_bundle(output, given, max_file_bytes=30_000, **layout)
        names = [committable["final_key"] for committable in committables]
        assert len(names) >= 3
        assert names == sorted(names)
        assert [int(name.partition(".")[0][-5:]) for name in names] == list(range(len(names)))
        assert all(committable["size_bytes"] < 300_000 for committable in committables)
        publish_batch(output, committables)
        read = read_json(output) if layout else read_parquet(output)
        assert [row["offset"] for row in read] == list(range(2000))
        assert sum(committable["rows"] for committable in committables) == 2000

    def test_row_groups_gather_many_batches(self, output: str) -> None:
        batches = [pa.RecordBatch.from_pylist([{"id": 100 * n + i} for i in range(100)]) for n in range(25)]
        publish_batch(output, stage_bundle(output, batches, max_row_group_rows=1000))
        (body,) = visible_files(output, ".parquet")
        metadata = pq.ParquetFile(io.BytesIO(body)).metadata
        assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [1000, 1000, 500]
        assert [row["id"] for row in read_parquet(output)] == list(range(2500))

    def test_an_arrow_batch_above_the_row_group_is_cut(self, output: str) -> None:
        batch = pa.RecordBatch.from_pylist([{"id": n} for n in range(2500)])
        publish_batch(output, stage_bundle(output, [batch], max_row_group_rows=1000))
        (body,) = visible_files(output, ".parquet")
        metadata = pq.ParquetFile(io.BytesIO(body)).metadata
        assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [1000, 1000, 500]

    @pytest.mark.parametrize("layout", [{"max_row_group_rows": 100}, {}, {"format": "json"}])
    def test_a_failed_bundle_leaves_nothing_to_the_next(self, output: str, layout: dict[str, Any]) -> None:
        sink = Sink(output, schema=SCHEMA, **layout)
        sink.start_bundle(attempt_of(0))
        for number in range(500):
            sink.process({"id": number})
        # The bundle fails elsewhere: its rows must not show up in the next one, which is of another attempt.
        later = attempt_of(0, nonce="ffff")
        (committable,) = sink.bundle([{"id": 1000}], later)
        sink.stage.teardown()
        assert committable["rows"] == 1
        assert staged_names(output) == [committable["final_key"]]
        FilesPublisher("orders", StoreLocation(output, None)).publish(part(later, committable))
        assert (read_json if layout.get("format") else read_parquet)(output) == [{"id": 1000, "name": None}]

    def test_a_wrong_row_leaves_nothing_behind(self, output: str) -> None:
        with pytest.raises(ConfigurationError):
            stage_bundle(output, [*({"id": number} for number in range(5000)), {"id": "x"}], schema=SCHEMA)
        assert staged_names(output) == []

    def test_one_instance_serves_many_bundles_and_survives_pickling(self, output: str) -> None:
        sink = Sink(output)
        committables = sink.bundle(records(5), attempt_of(0)) + sink.bundle([], attempt_of(0))
        sink = pickle.loads(pickle.dumps(sink))
        sink.stage.setup()
        committables += sink.bundle(records(5, first=5), attempt_of(0))
        sink.stage.teardown()
        publish_batch(output, committables)
        assert sorted(row["offset"] for row in read_parquet(output)) == list(range(10))

    def test_a_bundle_is_of_one_attempt(self, output: str) -> None:
        sink = Sink(output)
        sink.start_bundle(attempt_of(0))
        block = pa.RecordBatch.from_pylist([{"id": 1}])
        sink.stage.process(("", block), sink.attempt)
        with pytest.raises(AssertionError, match="two attempts in one bundle"):
            sink.stage.process(("", block), attempt_of(1))
        sink.stage.teardown()

    def test_large_rows_wait_in_small_numbers(self) -> None:
        blocks = ToBlocks(FileEncoding(FileLayout()), "orders")
        blocks.start_bundle()
        sizes = []
        for number in range(200):
            sizes += [block.num_rows for _, block in blocks.process(Record("t", 0, number, value=bytes(1 << 20))) or ()]
        assert sizes[0] <= 64
        assert max(sizes[1:]) <= 4


class TestPublishing:
    def test_publishing_again_and_late_does_no_harm(self, output: str) -> None:
        committables = stage_bundle(output, records(5))
        publisher = publish_batch(output, committables)
        before = {key: store_of(output).get(key) for key in keys(output)}
        publish_batch(output, committables)
        pickle.loads(pickle.dumps(publisher)).publish(part(attempt_of(0), committables[0]))
        publisher.finish(STREAM, attempt_of(0), tuple(reversed(committables)))
        assert {key: store_of(output).get(key) for key in keys(output)} == before
        assert staged_names(output) == []

    def test_a_file_that_is_gone_is_an_error_until_its_batch_was_finished(self, output: str) -> None:
        (committable,) = stage_bundle(output, records(5))
        publisher = FilesPublisher("orders", StoreLocation(output, None))
        store_of(output).discard(StagedObject.from_json(committable["staged"]))
        with pytest.raises(StagedOutputMissing):
            publisher.publish(part(attempt_of(0), committable))
        publisher.finish(STREAM, attempt_of(0), (committable,))
        publisher.publish(part(attempt_of(0), committable))  # published once, and compacted away by the user
        with pytest.raises(StagedOutputMissing):
            publisher.publish(part(attempt_of(0, nonce="0ther"), committable))

    def test_the_manifest_names_all_files_of_the_batch(self, output: str) -> None:
        committables = stage_bundle(output, records(2)) + stage_bundle(output, records(3, first=2))
        publish_batch(output, committables)
        (batch,) = read_batches(output)
        assert (batch.batch_id, batch.stream_id, batch.attempt, batch.rows_written) == (0, STREAM, attempt_of(0), 5)
        assert [file.name for file in batch.files] == sorted(c["final_key"] for c in committables)
        assert {(file.name, file.rows, file.size_bytes) for file in batch.files} == {
            (c["final_key"], c["rows"], c["size_bytes"]) for c in committables
        }
        assert [file.uri for file in batch.files] == [f"{store_of(output).uri}/{file.name}" for file in batch.files]
        for file in batch.files:
            assert store_of(output).size_bytes(file.name) == file.size_bytes

    def test_a_batch_decided_otherwise_is_refused(self, output: str) -> None:
        publisher = publish_batch(output, [])
        with pytest.raises(SinkAhead, match="already has batch 0, of attempt 00aa11bb22cc33dd of stream 5eed"):
            publisher.finish(STREAM, attempt_of(0, nonce="0ther"), ())
        with pytest.raises(SinkAhead, match=r"this is attempt .* of stream 0ther"):
            publisher.finish("0ther", attempt_of(0), ())

    def test_sweep_takes_published_batches_only_and_leaves_strangers(self, output: str) -> None:
        losing = stage_bundle(output, records(1), batch_id=3) + stage_bundle(output, records(1), batch_id=4)
        kept = stage_bundle(output, records(1), batch_id=5)
        for name in ("part-1.parquet", f"sub/{losing[0]['final_key']}", f"part-{1:020d}-x-y-0.parquet"):
            with store_of(output).stage(name) as writer:
                writer.write(b"someone else's")
            kept.append({"final_key": name})
        publisher = FilesPublisher("orders", StoreLocation(output, None))
        publisher.sweep(4)
        assert staged_names(output) == sorted(committable["final_key"] for committable in kept)
        publisher.sweep(4)


class StreamLike(beam.Pipeline):  # type: ignore[misc]
    """As much of a stream as a sink needs."""

    def __init__(self) -> None:
        super().__init__(FnApiRunner())
        attempts = self | "Attempts" >> beam.Create([attempt_of(4)])
        self.stream_graph = StreamGraph(attempts, attempts, attempts, StoreLocation("memory://checkpoint", None))


class TestTransform:
    def test_rows_become_committables_of_the_registered_sink(self, output: str) -> None:
        with StreamLike() as pipeline:
            done = (
                pipeline
                | beam.Create(range(100))
                | beam.Map(lambda number: {"id": number})
                | WriteToFiles(output, schema=SCHEMA)
            )
            assert isinstance(done, beam.pvalue.PDone)
            sink = pipeline.stream_graph.sinks["files"]
            assert sink.definition == {"kind": "files", "location": store_of(output).uri}
            assert_that(sink.committables | beam.Map(lambda gathered: gathered[1].staged["rows"]), _sums_to(100))
        assert keys(output) == []
        assert {batch_id_of_part(name) for name in staged_names(output)} == {4}

    def test_a_name_and_an_output_of_its_own(self, output: str) -> None:
        pipeline = StreamLike()
        rows = pipeline | beam.Create([{"id": 1}])
        _ = rows | "A" >> WriteToFiles(output, schema=SCHEMA, name="a")
        with pytest.raises(ConfigurationError, match="sinks 'a' and 'b' both write files to"):
            _ = rows | "B" >> WriteToFiles(output + "/", schema=SCHEMA, name="b")
        with pytest.raises(ConfigurationError, match="two sinks are named 'a'"):
            _ = rows | "C" >> WriteToFiles(output + "2", schema=SCHEMA, name="a")
        _ = rows | "D" >> WriteToFiles(output + "2", schema=SCHEMA, name="b")
        assert sorted(pipeline.stream_graph.sinks) == ["a", "b"]

    def test_an_ordinary_pipeline_is_refused(self, output: str) -> None:
        with pytest.raises(UnsupportedPipeline, match="WriteToFiles works only in an ExactlyOnceStream"):
            _ = beam.Pipeline() | beam.Create([1]) | WriteToFiles(output, schema=SCHEMA)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"location": ""}, "location=''"),
            ({"location": None}, "location=None"),
            ({"format": "orc"}, "format='orc'"),
            ({"compression": "zip"}, "compression='zip' is not known for parquet"),
            ({"format": "json", "compression": "snappy"}, "'snappy' is not known for json"),
            ({"max_file_bytes": 0}, "max_file_bytes=0"),
            ({"max_row_group_rows": 1.5}, "max_row_group_rows=1.5"),
            ({"schema": {"id": "int"}}, r"schema= must be a pyarrow\.Schema, not a dict"),
            ({"schema": pa.schema([])}, "at least one column"),
            ({"schema": pa.schema([("a", pa.int8()), ("a", pa.int8())])}, "no two of one name"),
        ],
    )
    def test_arguments_are_checked_at_once(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            WriteToFiles(**{"location": "/tmp/x", **arguments})


def _sums_to(total: int) -> Any:
    def check(rows: list[int]) -> None:
        assert sum(rows) == total

    return check
