"""CSV and text files: what readers read is what was written, and what they would read otherwise is refused."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import random
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv
import pytest

from beam_exactly_once import RECORD_SCHEMA, Record, WriteToFiles
from beam_exactly_once.errors import ConfigurationError
from support.file_sinks import (
    SCHEMA,
    publish_batch,
    read_published,
    records,
    stage_bundle,
    staged_names,
    visible_files,
)

TEXT = pa.schema([("value", pa.binary())])
NASTY = [
    "",
    "plain",
    'quo"te',
    "a,b;c\td",
    "two\nlines",
    "cr\rlf\r\n",
    " padded ",
    "é日本😀",
    "null",
    "NULL",
    "\\N",
    '""',
    *(["\x00"] if sys.version_info >= (3, 11) else []),  # Python's own reader refuses it before
]


def csv_file(output: str, suffix: str = ".csv") -> bytes:
    (body,) = visible_files(output, suffix)
    return body


class TestCsv:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "_", "\x01"])
    @pytest.mark.parametrize("as_arrow", [False, True])
    def test_any_text_and_null_come_back(self, output: str, delimiter: str, as_arrow: bool) -> None:
        rows: list[Any] = [{"id": number, "name": name} for number, name in enumerate([None, *NASTY])]
        given = [pa.RecordBatch.from_pylist(rows, SCHEMA)] if as_arrow else rows
        publish_batch(output, stage_bundle(output, given, format="csv", schema=SCHEMA, csv_delimiter=delimiter))
        body = csv_file(output)
        assert body.startswith(f'"id"{delimiter}"name"\n'.encode())
        by_arrow = pyarrow.csv.read_csv(
            io.BytesIO(body),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={"name": pa.string()}, null_values=[""], strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )  # fmt: skip
        assert by_arrow.to_pylist() == rows
        by_python = list(csv.DictReader(io.StringIO(body.decode(), newline=""), delimiter=delimiter))
        assert by_python == [{"id": str(row["id"]), "name": row["name"] or ""} for row in rows]
        assert read_published(output) == [{**row, "id": str(row["id"])} for row in rows]

    def test_duckdb_reads_values_of_all_types(self, tmp_path: Path) -> None:
        output = str(tmp_path / "out")
        schema = pa.schema(
            [
                ("i", pa.int64()),
                ("f", pa.float64()),
                ("b", pa.bool_()),
                ("d", pa.date32()),
                ("at", pa.timestamp("us")),
                ("price", pa.decimal128(10, 2)),
                ("kind", pa.dictionary(pa.int32(), pa.string())),
                ("raw", pa.binary()),
            ]
        )
        row = {
            "i": -(2**63),
            "f": 0.1,
            "b": True,
            "d": datetime.date(2026, 1, 31),
            "at": datetime.datetime(2026, 1, 31, 1, 2, 3, 4),
            "price": decimal.Decimal("12.50"),
            "kind": "new",
            "raw": "é".encode(),
        }
        empty = dict.fromkeys(row)
        publish_batch(output, stage_bundle(output, [row, empty], format="csv", schema=schema))
        types = ["BIGINT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP", "DECIMAL(10,2)", "VARCHAR", "VARCHAR"]
        columns = dict(zip(row, types, strict=True))
        read = duckdb.sql(f"select * from read_csv('{output}/*.csv', header=true, columns={columns}) order by i")
        assert read.fetchall() == [(*list(row.values())[:-1], "é"), (None,) * 8]

    @pytest.mark.parametrize(("compression", "extension"), [("gzip", ".csv.gz"), ("zstd", ".csv.zst")])
    def test_compressed_files_begin_with_their_header_each(
        self, tmp_path: Path, compression: str, extension: str
    ) -> None:
        output, chooser = str(tmp_path / "out"), random.Random(7)
        rows = [{"id": number, "name": chooser.randbytes(50).hex()} for number in range(3000)]
        committables = stage_bundle(
            output, rows, format="csv", schema=SCHEMA, compression=compression, max_file_bytes=50_000
        )
        publish_batch(output, committables)
        assert len(committables) >= 2
        assert all(one["final_key"].endswith(extension) for one in committables)
        read = duckdb.sql(f"select id, name from read_csv('{output}/*{extension}', header=true) order by id")
        assert read.fetchall() == [tuple(row.values()) for row in rows]

    def test_kafka_records_by_a_schema_without_headers(self, output: str) -> None:
        schema = pa.schema([("offset", pa.int64()), ("key", pa.string()), ("value", pa.binary())])
        publish_batch(output, stage_bundle(output, records(2), format="csv", schema=schema))
        assert csv_file(output) == b'"offset","key","value"\n0,"k0","value 0"\n1,"k1","value 1"\n'

    def test_arrow_batches_need_no_schema(self, output: str) -> None:
        batch = pa.RecordBatch.from_pylist([{"a": 1, "b": b"x"}, {"a": None, "b": None}])
        publish_batch(output, stage_bundle(output, [batch, batch], format="csv"))
        assert csv_file(output) == b'"a","b"\n1,"x"\n,\n1,"x"\n,\n'

    @pytest.mark.parametrize(
        ("rows", "schema", "message"),
        [
            ([{"id": 1}], None, "has no schema to write it with"),
            ([Record()], None, "cannot hold column 'headers' of type list"),
            ([{"id": 1, "name": b"\xff"}], pa.schema([("id", pa.int8()), ("name", pa.binary())]), "'name' that are not UTF-8"),
            ([{"id": 1}, {"id": None}], pa.schema([("id", pa.int8())]), "only column 'id'"),
            ([{"id": "x"}], SCHEMA, "'id' is int64"),
        ],
    )  # fmt: skip
    def test_rows_that_csv_cannot_hold_are_refused(
        self, output: str, rows: list[Any], schema: pa.Schema | None, message: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=message):
            stage_bundle(output, rows, format="csv", schema=schema)
        assert staged_names(output) == []


class TestText:
    @pytest.mark.parametrize(
        ("rows", "schema"),
        [
            (["one", "", "é", b"\xff\x00 raw"], None),
            ([{"value": b"one"}, {"value": b""}, {"value": "é"}, {"value": b"\xff\x00 raw"}], TEXT),
            ([Record(value=value) for value in (b"one", b"", "é".encode(), b"\xff\x00 raw")], TEXT),
            ([pa.record_batch({"any": [b"one", b"", "é".encode(), b"\xff\x00 raw", b"more"]}).slice(0, 4)], None),
        ],
        ids=["str and bytes", "dicts", "records", "arrow"],
    )
    @pytest.mark.parametrize("compression", ["auto", "gzip", "zstd"])
    def test_a_row_is_a_line(self, output: str, rows: list[Any], schema: pa.Schema | None, compression: str) -> None:
        publish_batch(output, stage_bundle(output, rows, format="text", schema=schema, compression=compression))
        lines = [b"one", b"", "é".encode(), b"\xff\x00 raw"]
        assert read_published(output) == [{"line": line} for line in lines]
        if compression == "gzip":
            assert gzip.decompress(csv_file(output, ".txt.gz")) == b"\n".join(lines) + b"\n"

    def test_text_columns_of_every_width(self, output: str) -> None:
        batches = [
            pa.record_batch({"line": pa.array(["a", "b"], kind)})
            for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()))
        ]
        publish_batch(output, stage_bundle(output, batches[:2], format="text"))
        assert csv_file(output, ".txt") == b"a\nb\na\nb\n"
        with pytest.raises(ConfigurationError, match=r"line \(dictionary"):
            stage_bundle(output, batches[2:], format="text")

    @pytest.mark.parametrize(
        ("rows", "schema", "message"),
        [
            (["two\nlines"], None, "line end"),
            ([b"carriage\r"], None, "line end"),
            ([pa.record_batch({"a": ["two\nlines"]})], None, "line end"),
            ([{"value": b"x\n"}], TEXT, "line end"),
            ([Record(value=None)], TEXT, "without a value in column 'value'"),
            (["ok", 7], None, "row of type int"),
            ([{"a": "x"}], None, "row of type dict"),
            (["\ud800"], None, "not Unicode"),
            ([Record(value=b"x")], None, "one column of text or bytes"),
            ([pa.record_batch({"a": ["x"], "b": ["y"]})], None, r"a \(string\), b \(string\)"),
            ([pa.record_batch({"a": [1]})], None, r"a \(int64\)"),
        ],
    )
    def test_what_is_no_line_is_refused(
        self, output: str, rows: list[Any], schema: pa.Schema | None, message: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=message):
            stage_bundle(output, rows, format="text", schema=schema)
        assert staged_names(output) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "csv", "schema": RECORD_SCHEMA}, "cannot hold column 'headers'"),
        ({"format": "text", "schema": SCHEMA}, r"one column.*id \(int64\), name \(string\)"),
        ({"format": "text", "partition_by": ["a"]}, "needs schema="),
        ({"format": "csv", "csv_delimiter": ""}, "csv_delimiter=''"),
        *(
            ({"format": "csv", "csv_delimiter": one}, "that no number, date or time has in it")
            for one in " :-.+0eZa\r\n"
        ),
        ({"format": "csv", "csv_delimiter": '"'}, "csv_delimiter="),
        ({"format": "csv", "csv_delimiter": "é"}, "csv_delimiter='é'"),
        ({"format": "csv", "compression": "snappy"}, "'snappy' is not known for csv"),
    ],
)
def test_arguments_are_checked_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        WriteToFiles("/tmp/x", **arguments)
