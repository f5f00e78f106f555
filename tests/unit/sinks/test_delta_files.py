"""What a Delta table's log says of a file: read back by what relies on it, and never narrower than the values."""

from __future__ import annotations

import datetime
import io
import random
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_exactly_once.sinks.delta.files import STATISTICS_COLUMNS, batch_id_of_file, statistics_of

UTC = datetime.timezone.utc
MOMENT = datetime.datetime(2026, 1, 31, 23, 59, 59, 123456)


def statistics(schema: pa.Schema, *groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a file with these row groups."""
    footer: list[pq.FileMetaData] = []
    with pq.ParquetWriter(io.BytesIO(), schema, metadata_collector=footer) as writer:
        for rows in groups:
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return dict(statistics_of(footer[0], schema))


@pytest.mark.parametrize(
    ("kind", "values", "bounds"),
    [
        (pa.int8(), [3, -2, None], (-2, 3)),
        (pa.int64(), [2**62, -(2**62)], (-(2**62), 2**62)),
        (pa.string(), ["b", "ä", "a"], ("a", "ä")),
        (pa.date32(), [datetime.date(2026, 1, 2), datetime.date(1969, 12, 31)], ("1969-12-31", "2026-01-02")),
        (pa.decimal128(10, 2), [Decimal("1.25"), Decimal("-0.10")], (-0.1, 1.25)),
        (pa.timestamp("us"), [MOMENT], ("2026-01-31T23:59:59.123", "2026-01-31T23:59:59.124")),
        (
            pa.timestamp("us", "UTC"),
            [MOMENT.replace(tzinfo=UTC)],
            ("2026-01-31T23:59:59.123Z", "2026-01-31T23:59:59.124Z"),
        ),
    ],
    ids=str,
)
def test_bounds_of_types(kind: pa.DataType, values: list[Any], bounds: tuple[Any, Any]) -> None:
    found = statistics(pa.schema([("x", kind)]), [{"x": value} for value in values])
    assert found == {
        "numRecords": len(values),
        "minValues": {"x": bounds[0]},
        "maxValues": {"x": bounds[1]},
        "nullCount": {"x": values.count(None)},
    }


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.float64(), [1.0, float("nan")]),
        (pa.bool_(), [True, False]),
        (pa.binary(), [b"a"]),
        (pa.string(), ["a", "x" * 65]),
        (pa.decimal128(38, 0), [Decimal(10**30 + 1)]),
        (pa.int64(), [None, None]),
    ],
    ids=str,
)
def test_no_bounds_where_they_would_not_be_exact(kind: pa.DataType, values: list[Any]) -> None:
    found = statistics(pa.schema([("x", kind)]), [{"x": value} for value in values])
    assert (found["minValues"], found["maxValues"]) == ({}, {})
    assert found["nullCount"] == {"x": values.count(None)}


def test_a_moment_that_python_does_not_reach() -> None:
    far = pa.array([253_402_300_800_000_000], pa.int64()).cast(pa.timestamp("us"))
    footer: list[pq.FileMetaData] = []
    table = pa.table({"x": far})
    with pq.ParquetWriter(io.BytesIO(), table.schema, metadata_collector=footer) as writer:
        writer.write_table(table)
    assert statistics_of(footer[0], table.schema)["maxValues"] == {}


def test_over_row_groups_and_beside_nested_columns() -> None:
    schema = pa.schema([("list", pa.list_(pa.int64())), ("x", pa.int64())])
    found = statistics(
        schema,
        [{"list": [9, 9], "x": 5}, {"list": [], "x": None}],
        [{"list": None, "x": None}],
        [{"list": [1], "x": 2}],
    )
    assert found == {"numRecords": 4, "minValues": {"x": 2}, "maxValues": {"x": 5}, "nullCount": {"x": 2}}


def test_of_the_first_columns_only() -> None:
    names = [f"c{number}" for number in range(STATISTICS_COLUMNS + 3)]
    found = statistics(pa.schema([(name, pa.int64()) for name in names]), [dict.fromkeys(names, 1)])
    assert list(found["maxValues"]) == names[:STATISTICS_COLUMNS]


def test_random_values_lie_within_their_bounds() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    values = [
        datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=chance.randrange(-(10**15), 10**15))
        for _ in range(50)
    ]
    found = statistics(pa.schema([("x", pa.timestamp("us"))]), [{"x": value} for value in values])
    low, high = (datetime.datetime.fromisoformat(found[key]["x"]) for key in ("minValues", "maxValues"))
    assert low <= min(values)
    assert high >= max(values)
    assert high - low <= max(values) - min(values) + datetime.timedelta(milliseconds=2)


@pytest.mark.parametrize(
    ("name", "batch_id"),
    [
        ("part-00000000000000000007-00aa11bb22cc33dd-0123456789abcdef-00000.0a1b.parquet", 7),
        ("a=x%20y/b=1/part-00000000000000000007-00aa11bb22cc33dd-0123456789abcdef-00000.0a1b.parquet", 7),
        ("part-00000000000000000007-00aa11bb22cc33dd-0123456789abcdef-00000.ffff.parquet", None),
        ("part-00000000000000000007-00aa11bb22cc33dd-0123456789abcdef-00000.parquet", None),
        ("part-00001-e2c0.0a1b.parquet", None),
        ("_delta_log/00000000000000000007.json", None),
    ],
)
def test_whose_file_it_is(name: str, batch_id: int | None) -> None:
    assert batch_id_of_file(name, "0a1b") == batch_id
