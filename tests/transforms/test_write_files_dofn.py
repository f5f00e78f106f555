"""Files are staged, published and swept: the DoFn and the publisher driven by hand, over real stores."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import gzip
import io
import pickle
import random
from collections.abc import Iterable
from typing import Any, NamedTuple

import apache_beam as beam
import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import GlobalWindow

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.errors import (
    CheckpointHole,
    ConfigurationError,
    CorruptObject,
    NewerFormat,
    SinkAhead,
    StagedOutputMissing,
    UnsupportedPipeline,
)
from beam_exactly_once.kafka import RECORD_SCHEMA, KafkaRecord
from beam_exactly_once.object_store import ObjectStore, StagedObject, open_object_store
from beam_exactly_once.transforms.file_formats import FileLayout
from beam_exactly_once.transforms.file_manifest import (
    batch_id_of_part,
    manifest_key,
    part_name,
    read_batches,
)
from beam_exactly_once.transforms.stream_graph import COMMITTABLE, StreamGraph
from beam_exactly_once.transforms.write_files import WriteToFiles, _FilesPublisher, _Output, _StageFiles, _ToBlocks

STREAM = "5eed"
SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])


class Order(NamedTuple):
    id: int
    name: str | None = None


@dataclasses.dataclass
class OrderData:
    id: int
    name: str | None = None


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return str(tmp_path / "lake" / "orders") if request.param == "local" else f"memory://{tmp_path.name}/orders"


def attempt_of(batch_id: int, nonce: str = "00aa11bb22cc33dd") -> Attempt:
    return Attempt(1, batch_id, nonce)


class Sink:
    """The two DoFns of a sink, fused as a runner does it."""

    def __init__(self, output: str, **layout: Any) -> None:
        self.blocks = _ToBlocks(FileLayout("orders", **layout))
        self.stage = _StageFiles(_Output(output, None), FileLayout("orders", **layout))
        self.stage.setup()

    def start_bundle(self, attempt: Attempt) -> None:
        self.attempt_json = orjson.dumps(attempt.to_json()).decode()
        self.blocks.start_bundle()
        self.stage.start_bundle()

    def process(self, row: Any) -> None:
        for block in self.blocks.process(row) or ():
            assert self.stage.process(block, self.attempt_json) is None

    def finish_bundle(self) -> list[dict[str, Any]]:
        for block in self.blocks.finish_bundle():
            self.stage.process(block.value, self.attempt_json)
        emitted = self.stage.finish_bundle()
        assert all(element.windows == (GlobalWindow(),) for element in emitted)
        gathered = [element.value for element in emitted]
        assert all((key, what, sink) == ("", COMMITTABLE, "orders") for key, (what, sink, _) in gathered)
        return [orjson.loads(committable) for _, (_, _, committable) in gathered]

    def bundle(self, rows: Iterable[Any], attempt: Attempt) -> list[dict[str, Any]]:
        self.start_bundle(attempt)
        for row in rows:
            self.process(row)
        return self.finish_bundle()


def stage_bundle(output: str, rows: Iterable[Any], batch_id: int = 0, **layout: Any) -> list[dict[str, Any]]:
    """One bundle through a sink; returns its committables."""
    sink = Sink(output, **layout)
    try:
        return sink.bundle(rows, attempt_of(batch_id))
    finally:
        sink.stage.teardown()


def publish_batch(
    output: str, committables: list[dict[str, Any]], batch_id: int = 0, stream_id: str = STREAM
) -> _FilesPublisher:
    publisher = _FilesPublisher("orders", _Output(output, None))
    for committable in committables:
        publisher.publish(attempt_of(batch_id), committable)
    publisher.finish(stream_id, attempt_of(batch_id), tuple(committables))
    return publisher


def store_of(output: str) -> ObjectStore:
    return open_object_store(output)


def keys(output: str) -> list[str]:
    return [entry.key for entry in store_of(output).list()]


def staged_names(output: str) -> list[str]:
    return sorted(staged.final_key for staged in store_of(output).list_staged())


def read_parquet(output: str) -> list[dict[str, Any]]:
    return [row for body in visible_files(output, ".parquet") for row in pq.read_table(io.BytesIO(body)).to_pylist()]


def read_json(output: str) -> list[dict[str, Any]]:
    bodies = visible_files(output, ".json") + list(map(gzip.decompress, visible_files(output, ".json.gz")))
    assert all(body.endswith(b"\n") for body in bodies)
    return [orjson.loads(line) for body in bodies for line in body.splitlines()]


def visible_files(output: str, suffix: str) -> list[bytes]:
    names = [key for key in keys(output) if key.startswith("part-") and key.endswith(suffix)]
    return [body for name in names if (body := store_of(output).get(name)) is not None]


def records(count: int, first: int = 0) -> list[KafkaRecord]:
    return [
        KafkaRecord("orders", 1, first + i, 1700000000000 + i, 1, b"k%d" % i, b"value %d" % (first + i))
        for i in range(count)
    ]


def kinds_of_rows() -> dict[str, list[Any]]:
    pairs = [(1, "one"), (2, None), (3, "trois é")]
    return {
        "dicts": [{"id": number, "name": name} for number, name in pairs],
        "tuples": [Order(number, name) for number, name in pairs],
        "dataclasses": [OrderData(number, name) for number, name in pairs],
        "beam rows": [beam.Row(id=number, name=name) for number, name in pairs],
        "arrow": [pa.RecordBatch.from_pylist([{"id": n, "name": name} for n, name in pairs], SCHEMA)],
        "all of them": [
            {"id": 1, "name": "one"},
            Order(2),
            pa.RecordBatch.from_pylist([{"id": 3, "name": "trois é"}], SCHEMA),
        ],
    }


EXPECTED = [{"id": 1, "name": "one"}, {"id": 2, "name": None}, {"id": 3, "name": "trois é"}]


class TestFormats:
    @pytest.mark.parametrize("compression", [None, "zstd", "snappy", "gzip", "lz4", "brotli", "none"])
    @pytest.mark.parametrize("kind", kinds_of_rows())
    def test_parquet_holds_rows_of_every_kind(self, tmp_path: Any, kind: str, compression: str | None) -> None:
        output = str(tmp_path / "out")
        committables = stage_bundle(output, kinds_of_rows()[kind], schema=SCHEMA, compression=compression)
        publish_batch(output, committables)
        assert read_parquet(output) == EXPECTED
        (body,) = visible_files(output, ".parquet")
        used = pq.ParquetFile(io.BytesIO(body)).metadata.row_group(0).column(0).compression
        assert used == {None: "ZSTD", "none": "UNCOMPRESSED"}.get(compression, str(compression).upper())

    @pytest.mark.parametrize("schema", [None, SCHEMA])
    @pytest.mark.parametrize("compression", [None, "gzip"])
    @pytest.mark.parametrize("kind", kinds_of_rows())
    def test_json_holds_rows_of_every_kind(
        self, output: str, kind: str, compression: str | None, schema: pa.Schema | None
    ) -> None:
        rows = kinds_of_rows()[kind]
        committables = stage_bundle(output, rows, file_format="json", compression=compression, schema=schema)
        publish_batch(output, committables)
        assert read_json(output) == EXPECTED

    def test_kafka_records_need_no_schema(self, output: str) -> None:
        strange = [
            KafkaRecord("orders", 2, 7, 0, 0, None, None, ()),
            KafkaRecord("other", 0, 9, -1, 2, b"", b"\xff\x00", (("trace", b"\xfe"), ("trace", None))),
        ]
        rows = [*records(1000), *strange]
        publish_batch(output, stage_bundle(output, rows))
        expected = pa.RecordBatch.from_pylist(
            [
                {**row._asdict(), "headers": [{"key": key, "value": value} for key, value in row.headers]}
                for row in rows
            ],
            RECORD_SCHEMA,
        )
        (body,) = visible_files(output, ".parquet")
        table = pq.read_table(io.BytesIO(body))
        assert table.schema.equals(RECORD_SCHEMA)
        assert table.to_pylist() == expected.to_pylist()

    def test_a_schema_picks_and_converts_fields_of_kafka_records(self, output: str) -> None:
        schema = pa.schema([("value", pa.string()), ("offset", pa.int32())])
        publish_batch(output, stage_bundle(output, records(2), schema=schema))
        assert read_parquet(output) == [{"value": "value 0", "offset": 0}, {"value": "value 1", "offset": 1}]

    def test_duckdb_reads_the_folder_and_never_a_staged_file(self, tmp_path: Any) -> None:
        output = str(tmp_path / "lake" / "orders")
        publish_batch(output, stage_bundle(output, records(10), batch_id=0), 0)
        publish_batch(output, stage_bundle(output, records(10, first=10), batch_id=1), 1)
        stage_bundle(output, records(10, first=20), batch_id=2)
        query = f"select \"offset\", topic, value from '{output}/**/*.parquet' order by 1"
        assert duckdb.sql(query).fetchall() == [(row.offset, row.topic, row.value) for row in records(20)]
        assert len(list((tmp_path / "lake" / "orders").rglob("*part-*"))) == 2

    def test_nested_and_temporal_columns(self, output: str) -> None:
        schema = pa.schema(
            [
                ("at", pa.timestamp("us", "UTC")),
                ("price", pa.decimal128(10, 2)),
                ("tags", pa.list_(pa.string())),
                ("place", pa.struct([("city", pa.string()), ("zip", pa.int32())])),
                ("counts", pa.map_(pa.string(), pa.int64())),
                ("kind", pa.dictionary(pa.int32(), pa.string())),
            ]
        )
        row = {
            "at": datetime.datetime(2024, 1, 2, 3, 4, 5, 6, datetime.timezone.utc),
            "price": decimal.Decimal("12.50"),
            "tags": ["a", None],
            "place": {"city": "Ulm", "zip": 89073},
            "counts": [("x", 1)],
            "kind": "new",
        }
        empty = dict.fromkeys(row)
        publish_batch(output, stage_bundle(output, [row, empty, {}], schema=schema))
        assert read_parquet(output) == [row, empty, empty]


class TestJsonValues:
    def test_bytes_are_text_or_base64(self, output: str) -> None:
        rows = [
            {"key": b"text", "other": 1},
            {"key": b"\xff\x00", "nested": {"deep": b"\xfe"}, "many": [b"ok", b"\xfd"]},
            {"key": None, "many": [b"ok"], "view": memoryview(b"seen")},
        ]
        publish_batch(output, stage_bundle(output, rows, file_format="json"))
        assert read_json(output) == [
            {"key": "text", "other": 1},
            {"key_base64": "/wA=", "nested": {"deep_base64": "/g=="}, "many_base64": ["b2s=", "/Q=="]},
            {"key": None, "many": ["ok"], "view": "seen"},
        ]

    def test_records_with_and_without_text(self, output: str) -> None:
        text = KafkaRecord("t", 0, 1, 5, 1, None, "é".encode(), (("h", b"1"), ("n", None)))
        binary = KafkaRecord("t", 0, 2, 5, 1, b"k", b"\xff", (("h", b"\xfe"),))
        publish_batch(output, stage_bundle(output, [text, binary], file_format="json"))
        first, second = read_json(output)
        assert first == {
            "topic": "t",
            "partition": 0,
            "offset": 1,
            "timestamp_ms": 5,
            "timestamp_type": 1,
            "key": None,
            "value": "é",
            "headers": [{"key": "h", "value": "1"}, {"key": "n", "value": None}],
        }
        assert second["value_base64"] == base64.b64encode(b"\xff").decode()
        assert "value" not in second
        assert second["headers"] == [{"key": "h", "value_base64": "/g=="}]

    def test_every_value_that_json_can_hold(self, output: str) -> None:
        row = {
            "date": datetime.date(2024, 1, 2),
            "price": decimal.Decimal("1.10"),
            "span": datetime.timedelta(seconds=1.5),
            "inner": Order(1, "x"),
            "set": {1},
            7: True,
        }
        publish_batch(output, stage_bundle(output, [row], file_format="json"))
        assert read_json(output) == [
            {
                "date": "2024-01-02",
                "price": "1.10",
                "span": 1.5,
                "inner": {"id": 1, "name": "x"},
                "set": [1],
                "7": True,
            }
        ]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"id": 2**70}, "'id' of type int"),
            ({"id": 1, "odd": object()}, "'odd' of type object"),
            ({"lone": "\ud800"}, "'lone' of type str"),
            ({"a": b"\xff", "a_base64": ""}, "_base64 added"),
            ("text", "row of type str"),
            (7, "row of type int"),
            ([1], "row of type list"),
        ],
    )
    def test_what_json_cannot_hold_is_refused(self, output: str, row: Any, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            stage_bundle(output, [row], file_format="json")
        assert keys(output) == []

    def test_the_same_rows_give_the_same_gzip_bytes(self, output: str) -> None:
        for batch_id in (0, 1):
            committables = stage_bundle(output, records(10), batch_id, file_format="json", compression="gzip")
            publish_batch(output, committables, batch_id)
        first, second = visible_files(output, ".json.gz")
        assert first == second


class TestWrongRows:
    @pytest.mark.parametrize(
        ("row", "messages"),
        [
            ({"id": "7"}, ["'orders'", "'id'", "int64", "str", "'7'"]),
            ({"id": 1.5}, ["'id'", "int64", "float", "fractions"]),
            ({"id": decimal.Decimal("1.5")}, ["'id'", "Decimal"]),
            ({"id": 2**63}, ["'id'", "int"]),
            ({"id": 1, "name": 5}, ["'name'", "string", "int"]),
            ({"id": 1, "name": b"\xff"}, ["'name'", "string", "bytes"]),
            ({"id": 1, "name": "\ud800"}, ["'name'", "string"]),
            (Order("x"), ["'id'", "Order"]),  # type: ignore[arg-type]
            ("text", ["str", "id, name"]),
            ((1, "x"), ["tuple", "id, name"]),
            (None, ["NoneType"]),
            (object(), ["object"]),
        ],
    )
    def test_a_row_that_does_not_fit_is_named(self, output: str, row: Any, messages: list[str]) -> None:
        rows = [{"id": number} for number in range(100)]
        with pytest.raises(ConfigurationError) as caught:
            stage_bundle(output, [*rows, row, *rows], schema=SCHEMA)
        for message in messages:
            assert message in str(caught.value)
        assert keys(output) == []

    def test_a_long_value_does_not_fill_the_message(self, output: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            stage_bundle(output, [{"id": "x" * 10_000}], schema=SCHEMA)
        assert len(str(caught.value)) < 600

    @pytest.mark.parametrize(
        ("arrow_type", "value"),
        [
            (pa.list_(pa.int32()), [1, 2.5]),
            (pa.struct([("n", pa.int64())]), {"n": 2.5}),
            (pa.map_(pa.string(), pa.int64()), {"n": 2.5}),
            (pa.list_(pa.struct([("n", pa.int64())])), [{"n": 2.5}, None]),
        ],
    )
    def test_fractions_are_refused_inside_too(self, output: str, arrow_type: pa.DataType, value: Any) -> None:
        with pytest.raises(ConfigurationError, match="fractions"):
            stage_bundle(output, [{"n": None}, {"n": value}], schema=pa.schema([("n", arrow_type)]))

    def test_whole_numbers_of_other_types_are_taken(self, output: str) -> None:
        publish_batch(output, stage_bundle(output, [{"id": 2.0}, {"id": decimal.Decimal(3)}], schema=SCHEMA))
        assert [row["id"] for row in read_parquet(output)] == [2, 3]

    def test_a_null_in_a_column_that_takes_none(self, output: str) -> None:
        schema = pa.schema([pa.field("id", pa.int64(), nullable=False)])
        with pytest.raises(ConfigurationError, match="no value in column 'id'"):
            stage_bundle(output, [{"id": 1}, {}], schema=schema)
        nulls = pa.RecordBatch.from_pylist([{"id": None}], SCHEMA)
        with pytest.raises(ConfigurationError, match="no value in column 'id'"):
            stage_bundle(output, [nulls], schema=schema)

    def test_records_that_are_no_records(self, output: str) -> None:
        with pytest.raises(ConfigurationError, match="'offset' is int64"):
            stage_bundle(output, [*records(3), KafkaRecord(offset=1.5)])  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="'value' is binary"):
            stage_bundle(output, [*records(3), KafkaRecord(value=1)])  # type: ignore[arg-type]

    @pytest.mark.parametrize("row", [{"id": 1}, Order(1), beam.Row(id=1)])
    def test_parquet_without_a_schema(self, output: str, row: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"schema=pyarrow\.schema"):
            stage_bundle(output, [row])

    def test_arrow_batches_that_differ(self, output: str) -> None:
        first = pa.RecordBatch.from_pylist([{"id": 1, "name": "x"}], SCHEMA)
        narrower = pa.RecordBatch.from_pylist([{"id": 2}])
        with pytest.raises(ConfigurationError, match="without exactly one column 'name'"):
            stage_bundle(output, [first, narrower])
        text = pa.RecordBatch.from_pylist([{"id": "x", "name": "x"}])
        with pytest.raises(ConfigurationError, match=r"'id' of an Arrow batch .* string and cannot become int64"):
            stage_bundle(output, [first, text])
        # Other order, a type that casts without loss, and a column too many: that fits.
        other = pa.RecordBatch.from_pylist([{"more": 1, "name": "y", "id": 2}])
        publish_batch(output, stage_bundle(output, [first, other.set_column(2, "id", pa.array([2], pa.int8()))]))
        assert read_parquet(output) == [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}]


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

    @pytest.mark.parametrize("layout", [{}, {"file_format": "json"}, {"file_format": "json", "compression": "gzip"}])
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
        committables = stage_bundle(output, given, file_bytes_max=30_000, **layout)
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
        publish_batch(output, stage_bundle(output, batches, row_group_rows=1000))
        (body,) = visible_files(output, ".parquet")
        metadata = pq.ParquetFile(io.BytesIO(body)).metadata
        assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [1000, 1000, 500]
        assert [row["id"] for row in read_parquet(output)] == list(range(2500))

    def test_an_arrow_batch_above_the_row_group_is_cut(self, output: str) -> None:
        batch = pa.RecordBatch.from_pylist([{"id": n} for n in range(2500)])
        publish_batch(output, stage_bundle(output, [batch], row_group_rows=1000))
        (body,) = visible_files(output, ".parquet")
        metadata = pq.ParquetFile(io.BytesIO(body)).metadata
        assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [1000, 1000, 500]

    @pytest.mark.parametrize("layout", [{"row_group_rows": 100}, {}, {"file_format": "json"}])
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
        _FilesPublisher("orders", _Output(output, None)).publish(later, committable)
        assert (read_json if layout.get("file_format") else read_parquet)(output) == [{"id": 1000, "name": None}]

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
        block = FileLayout("orders").block_of_rows(records(1))
        sink.stage.process(block, sink.attempt_json)
        with pytest.raises(AssertionError, match="two attempts in one bundle"):
            sink.stage.process(block, orjson.dumps(attempt_of(1).to_json()).decode())
        sink.stage.teardown()

    def test_large_rows_wait_in_small_numbers(self) -> None:
        blocks = _ToBlocks(FileLayout("orders"))
        blocks.start_bundle()
        sizes = []
        for number in range(200):
            sizes += [
                block.num_rows for block in blocks.process(KafkaRecord("t", 0, number, value=bytes(1 << 20))) or ()
            ]
        assert sizes[0] <= 64
        assert max(sizes[1:]) <= 4


class TestPublishing:
    def test_publishing_again_and_late_does_no_harm(self, output: str) -> None:
        committables = stage_bundle(output, records(5))
        publisher = publish_batch(output, committables)
        before = {key: store_of(output).get(key) for key in keys(output)}
        publish_batch(output, committables)
        pickle.loads(pickle.dumps(publisher)).publish(attempt_of(0), committables[0])
        publisher.finish(STREAM, attempt_of(0), tuple(reversed(committables)))
        assert {key: store_of(output).get(key) for key in keys(output)} == before
        assert staged_names(output) == []

    def test_a_file_that_is_gone_is_an_error_until_its_batch_was_finished(self, output: str) -> None:
        (committable,) = stage_bundle(output, records(5))
        publisher = _FilesPublisher("orders", _Output(output, None))
        store_of(output).discard(StagedObject.from_json(committable["staged"]))
        with pytest.raises(StagedOutputMissing):
            publisher.publish(attempt_of(0), committable)
        publisher.finish(STREAM, attempt_of(0), (committable,))
        publisher.publish(attempt_of(0), committable)  # published once, and compacted away by the user
        with pytest.raises(StagedOutputMissing):
            publisher.publish(attempt_of(0, nonce="0ther"), committable)

    def test_the_manifest_names_all_files_of_the_batch(self, output: str) -> None:
        committables = stage_bundle(output, records(2)) + stage_bundle(output, records(3, first=2))
        publish_batch(output, committables)
        (batch,) = read_batches(output)
        assert (batch.batch_id, batch.stream_id, batch.attempt, batch.rows) == (0, STREAM, attempt_of(0), 5)
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
        publisher = _FilesPublisher("orders", _Output(output, None))
        publisher.sweep(4)
        assert staged_names(output) == sorted(committable["final_key"] for committable in kept)
        publisher.sweep(4)


class TestStart:
    def test_a_new_output_is_fine(self, output: str) -> None:
        publisher = _FilesPublisher("orders", _Output(output, None))
        publisher.check_start(STREAM, 0)
        assert keys(output) == []

    @pytest.mark.parametrize("next_batch_id", [3, 4])
    def test_the_newest_batch_may_lack_its_manifest(self, output: str, next_batch_id: int) -> None:
        for batch_id in range(3):
            publisher = publish_batch(output, [], batch_id)
        publisher.check_start(STREAM, next_batch_id)

    @pytest.mark.parametrize("next_batch_id", [0, 1, 2])
    def test_an_output_ahead_of_the_checkpoint_is_refused(self, output: str, next_batch_id: int) -> None:
        for batch_id in range(3):
            publisher = publish_batch(output, [], batch_id)
        with pytest.raises(SinkAhead, match=rf"next batch of the checkpoint is {next_batch_id}.*older copy"):
            publisher.check_start(STREAM, next_batch_id)

    @pytest.mark.parametrize("next_batch_id", [0, 1, 9])
    def test_an_output_of_another_stream_is_refused(self, output: str, next_batch_id: int) -> None:
        publisher = publish_batch(output, [], 0, stream_id="0ther")
        with pytest.raises(SinkAhead, match=r"belongs to stream 0ther.*this is stream 5eed"):
            publisher.check_start(STREAM, next_batch_id)

    def test_other_objects_among_the_manifests_do_not_matter(self, output: str) -> None:
        publish_batch(output, [], 0)
        store_of(output).put_if_absent("_batches/README.md", b"")
        _FilesPublisher("orders", _Output(output, None)).check_start(STREAM, 1)
        assert [batch.batch_id for batch in read_batches(output)] == [0]


class TestReadBatches:
    def test_batches_come_in_order_and_a_reader_goes_on(self, output: str) -> None:
        for batch_id in (0, 1, 2):
            publish_batch(output, stage_bundle(output, records(batch_id), batch_id), batch_id)
        assert [(batch.batch_id, batch.rows) for batch in read_batches(output)] == [(0, 0), (1, 1), (2, 2)]
        assert [batch.batch_id for batch in read_batches(output, after=1)] == [2]
        assert list(read_batches(output, after=2)) == []

    def test_an_output_without_batches(self, output: str) -> None:
        assert list(read_batches(output)) == []

    def test_a_hole_is_named_after_what_comes_before_it(self, output: str) -> None:
        for batch_id in (0, 1, 3):
            publish_batch(output, [], batch_id)
        batches = read_batches(output)
        assert [next(batches).batch_id, next(batches).batch_id] == [0, 1]
        with pytest.raises(CheckpointHole, match=f"{manifest_key(2)} is missing"):
            next(batches)

    @pytest.mark.parametrize(
        ("body", "error"),
        [
            (b"", CorruptObject),
            (b"[]", CorruptObject),
            (b'{"format_version": 1}', CorruptObject),
            (b'{"format_version": 2}', NewerFormat),
        ],
    )
    def test_manifests_that_cannot_be_read(self, output: str, body: bytes, error: type[Exception]) -> None:
        store_of(output).put_if_absent(manifest_key(0), body)
        with pytest.raises(error, match=manifest_key(0)):
            list(read_batches(output))

    def test_a_manifest_under_a_wrong_name(self, output: str) -> None:
        publish_batch(output, [], 0)
        body = store_of(output).get(manifest_key(0))
        assert body is not None
        store_of(output).put_if_absent(manifest_key(1), body)
        with pytest.raises(CorruptObject, match="manifest of batch 0"):
            list(read_batches(output))


class StreamLike(beam.Pipeline):  # type: ignore[misc]
    """As much of a stream as a sink needs."""

    def __init__(self) -> None:
        super().__init__(FnApiRunner())
        attempts = self | "Attempts" >> beam.Create([orjson.dumps(attempt_of(4).to_json()).decode()])
        self.stream_graph = StreamGraph(attempts, attempts, attempts)


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
            assert sink.definition == {"kind": "files", "output": store_of(output).uri}
            assert_that(
                sink.committables | beam.Map(lambda gathered: orjson.loads(gathered[1][2])["rows"]), _sums_to(100)
            )
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
            ({"output": ""}, "output=''"),
            ({"output": None}, "output=None"),
            ({"file_format": "csv"}, "file_format='csv'"),
            ({"compression": "zip"}, "compression='zip' is not known for parquet"),
            ({"file_format": "json", "compression": "zstd"}, "'zstd' is not known for json"),
            ({"file_bytes_max": 0}, "file_bytes_max=0"),
            ({"row_group_rows": 1.5}, "row_group_rows=1.5"),
            ({"schema": {"id": "int"}}, r"schema= must be a pyarrow\.Schema, not a dict"),
            ({"schema": pa.schema([])}, "at least one column"),
            ({"schema": pa.schema([("a", pa.int8()), ("a", pa.int8())])}, "no two of one name"),
        ],
    )
    def test_arguments_are_checked_at_once(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            WriteToFiles(**{"output": "/tmp/x", **arguments})


def _sums_to(total: int) -> Any:
    def check(rows: list[int]) -> None:
        assert sum(rows) == total

    return check


def test_names_sort_by_batch() -> None:
    batch_ids = [0, 9, 10, 99, 10**12]
    names = [part_name(attempt_of(batch_id), "0" * 16, 0, "json.gz") for batch_id in reversed(batch_ids)]
    assert list(map(batch_id_of_part, sorted(names))) == batch_ids
