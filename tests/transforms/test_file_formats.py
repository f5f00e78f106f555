"""What files hold: rows of every kind as Parquet and JSON lines, and what is refused."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import io
from typing import Any, NamedTuple

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_exactly_once import RECORD_SCHEMA, Record
from beam_exactly_once.errors import (
    ConfigurationError,
)
from support.file_sinks import (
    SCHEMA,
    keys,
    publish_batch,
    read_json,
    read_parquet,
    records,
    stage_bundle,
    visible_files,
)


class Order(NamedTuple):
    id: int
    name: str | None = None


@dataclasses.dataclass
class OrderData:
    id: int
    name: str | None = None


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
    @pytest.mark.parametrize("compression", ["auto", "zstd", "snappy", "gzip", "lz4", "brotli", "none"])
    @pytest.mark.parametrize("kind", kinds_of_rows())
    def test_parquet_holds_rows_of_every_kind(self, tmp_path: Any, kind: str, compression: str) -> None:
        output = str(tmp_path / "out")
        committables = stage_bundle(output, kinds_of_rows()[kind], schema=SCHEMA, compression=compression)
        publish_batch(output, committables)
        assert read_parquet(output) == EXPECTED
        (body,) = visible_files(output, ".parquet")
        used = pq.ParquetFile(io.BytesIO(body)).metadata.row_group(0).column(0).compression
        assert used == {"auto": "ZSTD", "none": "UNCOMPRESSED"}.get(compression, compression.upper())

    @pytest.mark.parametrize("schema", [None, SCHEMA])
    @pytest.mark.parametrize("compression", ["auto", "gzip"])
    @pytest.mark.parametrize("kind", kinds_of_rows())
    def test_json_holds_rows_of_every_kind(
        self, output: str, kind: str, compression: str, schema: pa.Schema | None
    ) -> None:
        rows = kinds_of_rows()[kind]
        committables = stage_bundle(output, rows, format="json", compression=compression, schema=schema)
        publish_batch(output, committables)
        assert read_json(output) == EXPECTED

    def test_kafka_records_need_no_schema(self, output: str) -> None:
        strange = [
            Record("orders", 2, 7, 0, 0, None, None, ()),
            Record("other", 0, 9, -1, 2, b"", b"\xff\x00", (("trace", b"\xfe"), ("trace", None))),
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
        publish_batch(output, stage_bundle(output, rows, format="json"))
        assert read_json(output) == [
            {"key": "text", "other": 1},
            {"key_base64": "/wA=", "nested": {"deep_base64": "/g=="}, "many_base64": ["b2s=", "/Q=="]},
            {"key": None, "many": ["ok"], "view": "seen"},
        ]

    def test_records_with_and_without_text(self, output: str) -> None:
        text = Record("t", 0, 1, 5, 1, None, "é".encode(), (("h", b"1"), ("n", None)))
        binary = Record("t", 0, 2, 5, 1, b"k", b"\xff", (("h", b"\xfe"),))
        publish_batch(output, stage_bundle(output, [text, binary], format="json"))
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
        publish_batch(output, stage_bundle(output, [row], format="json"))
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
            stage_bundle(output, [row], format="json")
        assert keys(output) == []

    def test_the_same_rows_give_the_same_gzip_bytes(self, output: str) -> None:
        for batch_id in (0, 1):
            committables = stage_bundle(output, records(10), batch_id, format="json", compression="gzip")
            publish_batch(output, committables, batch_id)
        first, second = visible_files(output, ".json.gz")
        assert first == second
