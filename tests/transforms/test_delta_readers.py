"""Readers of a Delta table that look at its log first find every row, whatever the column is, and whatever is in it."""

from __future__ import annotations

import datetime
import math
import operator
import tempfile
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.rows.columns import batch_of_rows
from beam_exactly_once.sinks.delta.files import DeltaLayout
from beam_exactly_once.sinks.delta.table import TableVersion
from beam_exactly_once.sinks.receipts import StagedReceipt

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=10)

UTC = datetime.timezone.utc
ENGINE = duckdb.connect()
STRUCT = pa.struct([("a", pa.int64()), ("b", pa.float64()), ("c", pa.binary())])
MOMENTS = st.datetimes(datetime.datetime(1000, 1, 1), datetime.datetime(9998, 12, 31))
TEXTS = st.text(max_size=8) | st.text("ab\U0010ffff", min_size=60, max_size=70) | st.just("x" * 5000)
SCALARS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.decimal128(5, 2): st.decimals(-999, 999, places=2),
    pa.decimal128(38, 2): st.decimals(-(10**35), 10**35, places=2),
    pa.decimal128(38, 30): st.decimals(-(10**7), 10**7, places=30),
    pa.string(): TEXTS,
    pa.binary(): st.binary(max_size=4) | st.just(b"x" * 5000),
    pa.date32(): st.dates(),
    pa.timestamp("us"): MOMENTS | st.just(datetime.datetime.max),
    pa.timestamp("us", "UTC"): MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC)),
}
NESTED: dict[pa.DataType, st.SearchStrategy[Any]] = {
    STRUCT: st.fixed_dictionaries({"a": st.none() | st.integers(0, 9), "b": st.floats(), "c": st.binary(max_size=2)}),
    pa.list_(pa.int64()): st.lists(st.integers(0, 9), max_size=2),
    pa.map_(pa.string(), pa.int64()): st.lists(st.tuples(st.text(max_size=2), st.integers(0, 9)), max_size=1),
}
COMPARED: list[Callable[[Any, Any], Any]] = [operator.eq, operator.ge, operator.le]


def table_of(
    schema: pa.Schema, *files: list[dict[str, Any]], root: str, partition_by: tuple[str, ...] = ()
) -> DeltaTable:
    """A table as the sink makes it: each file one commit."""
    location = StoreLocation(root, None)
    layout = DeltaLayout(schema=schema, partition_by=partition_by)
    TableVersion.create(location, schema, partition_by, "table")
    for number, rows in enumerate(files):
        with location.store.stage(f"part-{number}.parquet") as target:
            file = layout.open_file(target)
            half = len(rows) // 2
            for of_group in filter(None, (rows[:half], rows[half:])):
                file.write([batch_of_rows(of_group, schema)])
            file.close()
        location.store.publish(target.staged)
        opened = TableVersion.open(location, "table")
        assert opened is not None
        committable = {"final_key": target.staged.final_key, "size_bytes": target.staged.size_bytes, **file.notes}
        opened.append("stream", "sink", StagedReceipt(Attempt(1, number, "00" * 8)), [committable], 1)
    return DeltaTable(root)


def ids(table: pa.Table) -> list[int]:
    return sorted(table["id"].to_pylist())


def assert_found(table: DeltaTable, column: str, kind: pa.DataType, values: list[Any]) -> None:
    """What a filter finds by the log is what it finds in all rows."""
    dataset: ds.Dataset = table.to_pyarrow_dataset()
    everything = pa.table(dataset.to_table())
    field = pc.field(column)
    assert ids(dataset.to_table(filter=field.is_null())) == ids(everything.filter(field.is_null()))
    assert ids(dataset.to_table(filter=field.is_valid())) == ids(everything.filter(field.is_valid()))
    for value in values if kind in SCALARS else []:
        for compare in COMPARED:
            asked = compare(field, pa.scalar(value, kind))
            assert ids(dataset.to_table(filter=asked)) == ids(everything.filter(asked)), (compare, value)
        if not isinstance(value, float):
            (found,) = (table.to_pyarrow_table(filters=[(column, "=", value)]),)
            assert ids(found) == ids(everything.filter(field == pa.scalar(value, kind)))
        assert by_duckdb(dataset, column, value) == by_duckdb(everything, column, value)


def by_duckdb(rows: Any, column: str, value: Any) -> list[Any]:
    ENGINE.register("rows", rows)
    return ENGINE.execute(f"SELECT id FROM rows WHERE {column} = ? ORDER BY id", [value]).fetchall()


@repeatable
@pytest.mark.parametrize("kind", [*SCALARS, *NESTED], ids=str)
@given(data=st.data())
def test_whatever_the_values(kind: pa.DataType, data: st.DataObject) -> None:
    schema = pa.schema([("id", pa.int64()), ("x", kind)])
    values = st.lists(st.none() | {**SCALARS, **NESTED}[kind], min_size=1, max_size=4)
    files = [data.draw(values) for _ in range(2)]
    numbers = iter(range(100))
    rows = [[{"id": next(numbers), "x": value} for value in of_file] for of_file in files]
    with tempfile.TemporaryDirectory() as folder:
        # What is staged lies beside the table, and goes with the folder.
        table = table_of(schema, *rows, root=f"{folder}/table")
        written = [row for of_file in rows for row in of_file]
        found = sorted(pa.table(table.to_pyarrow_table()).to_pylist(), key=lambda row: int(row["id"]))
        assert batch_of_rows(found, schema).equals(batch_of_rows(written, schema)) or "nan" in repr(written)
        assert_found(table, "x", kind, [row["x"] for row in written if row["x"] is not None])
        assert_found(table, "id", pa.int64(), [row["id"] for row in written])


def test_many_columns(tmp_path: Any) -> None:
    names = [f"c{number}" for number in range(40)]
    schema = pa.schema([("id", pa.int64()), *((name, pa.int64()) for name in names)])
    table = table_of(schema, [{"id": 1, **dict.fromkeys(names, 7)}], root=str(tmp_path))
    for name in names[::13]:
        assert_found(table, name, pa.int64(), [7])


def test_columns_that_a_file_lacks(tmp_path: Any) -> None:
    """The rows of a sink have fewer columns than the table, which is partitioned."""
    wide = pa.schema([("id", pa.int64()), ("day", pa.date32()), ("x", pa.float64()), ("s", STRUCT)])
    TableVersion.create(StoreLocation(str(tmp_path), None), wide, (), "table")
    table = table_of(pa.schema([("id", pa.int64())]), [{"id": 1}, {"id": 2}], root=str(tmp_path))
    for name in wide.names:
        assert_found(table, name, wide.field(name).type, [])
    assert_found(table, "id", pa.int64(), [1, 2])


@pytest.mark.parametrize("x", [math.nan, math.inf, Decimal(10**37)], ids=str)
def test_beside_a_value_that_the_log_cannot_say(tmp_path: Any, x: Any) -> None:
    kind = pa.decimal128(38, 0) if isinstance(x, Decimal) else pa.float64()
    schema = pa.schema([("id", pa.int64()), ("x", kind), ("y", pa.string())])
    table = table_of(schema, [{"id": 1, "x": x, "y": "a"}, {"id": 2, "x": 2, "y": "b"}], root=str(tmp_path))
    assert_found(table, "x", kind, [x, 2])
    assert_found(table, "y", pa.string(), ["a", "b", "c"])
