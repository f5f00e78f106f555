"""Rows that do not fit their columns are refused with a name, and nothing of them is written."""

from __future__ import annotations

import dataclasses
import decimal
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import Record
from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.sinks.files.encoding import FileEncoding
from beam_exactly_once.sinks.files.layout import FileLayout
from beam_exactly_once.transforms.encode_rows import ToBlocksOrReject
from support.file_sinks import (
    SCHEMA,
    keys,
    publish_batch,
    read_parquet,
    read_published,
    records,
    stage_bundle,
    staged_names,
)


class Order(NamedTuple):
    id: int
    name: str | None = None


@dataclasses.dataclass
class OrderData:
    id: int
    name: str | None = None


class TestWrongRows:
    @pytest.mark.parametrize(
        ("row", "messages"),
        [
            ({"id": "7"}, ["'orders'", "'id'", "int64", "str", "ArrowInvalid"]),
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

    def test_a_null_in_an_arrow_batch_whose_schema_takes_none(self, output: str) -> None:
        texts = pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([None], pa.string()))
        for column in (pa.nulls(1, pa.int64()), texts):
            schema = pa.schema([pa.field("id", column.type, nullable=False)])
            with pytest.raises(UnfitRow, match="no value in column 'id'"):
                stage_bundle(output, [pa.RecordBatch.from_arrays([column], schema=schema)])

    @pytest.mark.parametrize("format", ["parquet", "json", "csv"])
    def test_two_columns_of_one_name(self, output: str, format: str) -> None:
        batch = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["x", "id", "id"])
        with pytest.raises(ConfigurationError, match=r"two columns 'id', .* Rename one before the sink"):
            stage_bundle(output, [batch], format=format)
        assert keys(output) == []
        publish_batch(output, stage_bundle(output, [batch], format=format, schema=pa.schema([("x", pa.int64())])))
        assert [int(row["x"]) for row in read_published(output)] == [1]

    def test_records_that_are_no_records(self, output: str) -> None:
        with pytest.raises(ConfigurationError, match="'offset' is int64"):
            stage_bundle(output, [*records(3), Record(offset=1.5)])  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="'value' is binary"):
            stage_bundle(output, [*records(3), Record(value=1)])  # type: ignore[arg-type]

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


ORDERS = pa.schema([("idd", pa.int64()), ("name", pa.string())])


def test_a_column_that_schema_misspells_is_no_column_of_nulls(output: str) -> None:
    with pytest.raises(
        UnfitRow, match=r"none of 3 rows has column 'idd' of schema=, and they have 'id', .* is it misspelt"
    ):
        stage_bundle(output, [{"id": number, "name": "a"} for number in range(3)], schema=ORDERS)
    assert staged_names(output) == []


def test_a_column_that_only_the_last_of_many_rows_has(output: str) -> None:
    """How many of them become columns together does not matter."""
    rows: list[Any] = [{"id": number, "name": "a"} for number in range(2000)]
    publish_batch(output, stage_bundle(output, [*rows, {"idd": 7, "name": "b"}], schema=ORDERS))
    assert [row["idd"] for row in read_published(output) if row["name"] == "b"] == [7]


@pytest.mark.parametrize(
    "rows",
    [
        [{"name": "a"}, {"name": "b"}],
        [{"id": 1, "name": "a"}, {"idd": 2, "name": "b"}],
        [{"id": 1, "idd": None, "name": "a"}],
    ],
    ids=["no other field", "one row has it", "it is None"],
)
def test_rows_may_lack_a_column(output: str, rows: list[dict[str, Any]]) -> None:
    publish_batch(output, stage_bundle(output, rows, schema=ORDERS))
    assert read_published(output) == [{"idd": row.get("idd"), "name": row.get("name")} for row in rows]


def test_a_field_that_says_that_it_may_be_absent(output: str) -> None:
    schema = pa.schema([pa.field("idd", pa.int64(), metadata={"may_be_absent": "true"}), ("name", pa.string())])
    publish_batch(output, stage_bundle(output, [{"id": 1, "name": "a"}], schema=schema))
    assert read_published(output) == [{"idd": None, "name": "a"}]


def test_a_schema_for_records_that_misspells_a_column(output: str) -> None:
    misspelt = pa.schema([("offset", pa.int64()), ("valeu", pa.binary())])
    with pytest.raises(ConfigurationError, match="the column 'valeu', which no Kafka record has"):
        stage_bundle(output, records(3), schema=misspelt)
    assert staged_names(output) == []
    said = misspelt.set(1, misspelt.field(1).with_metadata({"may_be_absent": "true"}))
    publish_batch(output, stage_bundle(output, records(3), schema=said))
    assert read_published(output) == [{"offset": number, "valeu": None} for number in range(3)]


def test_rows_of_a_misspelt_schema_are_rejected_together() -> None:
    blocks = ToBlocksOrReject(FileEncoding(FileLayout(schema=ORDERS)), "orders")
    blocks.start_bundle()
    for number in range(3):
        assert not blocks.process({"id": number, "name": "a"})
    rejected = [output.value.value for output in blocks.finish_bundle() if output.tag == "rejected"]
    assert [(row.error, row.row) for row in rejected] == [
        (f"{UnfitRow.__module__}.UnfitRow", f"{{'id': {number}, 'name': 'a'}}") for number in range(3)
    ]
