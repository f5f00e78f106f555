"""What a Delta table's log says of a file: never narrower than the values, and its readers find every row by it."""

from __future__ import annotations

import datetime
import io
import json
import math
import random
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_exactly_once.sinks.delta.statistics import FileStatistics, completed

UTC = datetime.timezone.utc
MOMENT = datetime.datetime(2026, 1, 31, 23, 59, 59, 123456)
BEYOND_PYTHON = pa.array([253_402_300_800_000_000], pa.int64()).cast(pa.timestamp("us"))


def statistics(*groups: pa.Table) -> dict[str, Any]:
    """Of a file with these row groups. Numbers with a point are decimals, as readers of decimals take them."""
    footer: list[pq.FileMetaData] = []
    gathered, schema = FileStatistics(), groups[0].schema
    with pq.ParquetWriter(io.BytesIO(), schema, metadata_collector=footer) as writer:
        for group in groups:
            writer.write_table(group)
            gathered.look_at(group)
    return dict(json.loads(gathered.text(footer[0], schema), parse_float=Decimal))


def of_column(kind: pa.DataType, *values: Any) -> dict[str, Any]:
    return statistics(pa.table({"x": pa.array(values, kind)}))


@pytest.mark.parametrize(
    ("kind", "values", "bounds"),
    [
        (pa.int8(), [3, -2, None], (-2, 3)),
        (pa.int64(), [2**62, -(2**62)], (-(2**62), 2**62)),
        (pa.float64(), [0.1, -2.5, None], (Decimal("-2.5"), Decimal("0.1"))),
        (pa.float32(), [0.5], (Decimal("0.5"), Decimal("0.5"))),
        (pa.bool_(), [True, None, False], (False, True)),
        (pa.string(), ["b", "ä", "a"], ("a", "ä")),
        (pa.string(), ["x" * 64, "y" * 65], ("x" * 64, "y" * 63 + "z")),
        (pa.string(), ["y" * 64 + "a", "y" * 65], ("y" * 64, "y" * 63 + "z")),
        (pa.string(), ["y" * 9000, "z" * 9000], ("y" * 64, "z" * 63 + "{")),
        (pa.string(), ["a", "\ud7ff" * 65], ("a", "\ud7ff" * 63 + "\ue000")),
        (pa.string(), ["a", "b" + "\U0010ffff" * 64], ("a", "c")),
        (pa.date32(), [datetime.date(2026, 1, 2), datetime.date(1969, 12, 31)], ("1969-12-31", "2026-01-02")),
        (pa.decimal128(10, 2), [Decimal("1.25"), Decimal("-0.10")], (Decimal("-0.10"), Decimal("1.25"))),
        (pa.decimal128(38, 0), [Decimal(10**30 + 1), Decimal(-1)], (-1, 10**30 + 1)),
        (pa.decimal128(38, 30), [Decimal("1E-30")], (Decimal("1E-30"), Decimal("1E-30"))),
        (pa.timestamp("us"), [MOMENT], ("2026-01-31T23:59:59.123", "2026-01-31T23:59:59.124")),
        (
            pa.timestamp("us", "UTC"),
            [MOMENT.replace(tzinfo=UTC)],
            ("2026-01-31T23:59:59.123Z", "2026-01-31T23:59:59.124Z"),
        ),
    ],
    ids=lambda given: str(given)[:40],
)
def test_bounds_of_types(kind: pa.DataType, values: list[Any], bounds: tuple[Any, Any]) -> None:
    assert of_column(kind, *values) == {
        "numRecords": len(values),
        "nullCount": {"x": values.count(None)},
        "minValues": {"x": bounds[0]},
        "maxValues": {"x": bounds[1]},
    }


@pytest.mark.parametrize(
    "x",
    [
        pa.array([1.0, math.nan]),
        pa.array([math.inf]),
        pa.array([1.0, -math.inf], pa.float32()),
        pa.array(["\U0010ffff" * 65]),
        BEYOND_PYTHON,
        pa.array([datetime.datetime.max]),
    ],
    ids=lambda column: str(column.to_string())[:40],
)
def test_no_bounds_at_all_where_one_column_cannot_have_some(x: pa.Array) -> None:
    """A bound that is missing beside others is one that no row is within, to readers such as deltalake's datasets."""
    found = statistics(pa.table({"x": x, "y": pa.array([1] * len(x))}))
    assert found == {"numRecords": len(x), "nullCount": {"x": 0, "y": 0}}


def test_columns_that_need_no_bounds() -> None:
    """Bytes, what is nested, and what is null."""
    groups = [
        pa.table({"nulls": pa.nulls(2, pa.int64()), "bytes": [b"a", None], "list": [[9, 9], []], "x": [5, None]}),
        pa.table({"nulls": pa.nulls(1, pa.int64()), "bytes": [b"a"], "list": [[1]], "x": pa.array([None], pa.int64())}),
        pa.table({"nulls": pa.nulls(1, pa.int64()), "bytes": [b"b"], "list": [None], "x": [2]}),
    ]
    found = statistics(*(group.cast(groups[0].schema) for group in groups))
    assert found == {
        "numRecords": 4,
        "nullCount": {"nulls": 4, "bytes": 1, "x": 2},
        "minValues": {"x": 2},
        "maxValues": {"x": 5},
    }


def test_a_long_text_beside_short_ones() -> None:
    groups = [pa.table({"x": [text]}) for text in ("m" * 5000, "a", "z", "n" * 9000)]
    found = statistics(*groups)
    assert (found["minValues"], found["maxValues"]) == ({"x": "a"}, {"x": "z"})


def test_of_every_column_however_many() -> None:
    names = [f"c{number}" for number in range(50)]
    assert list(statistics(pa.table({name: [1] for name in names}))["maxValues"]) == names


def test_a_table_says_of_its_file_what_it_lacks() -> None:
    """Of scalars that all are null; of structs nothing, but that there is something to say."""
    table = pa.schema(
        [("x", pa.decimal128(38, 1)), ("day", pa.date32()), ("s", pa.struct([("a", pa.int8())])), ("t", pa.string())]
    )
    x = pa.array([Decimal(10**30) + Decimal("0.5")], pa.decimal128(38, 1))
    footer: list[pq.FileMetaData] = []
    with pq.ParquetWriter(io.BytesIO(), pa.schema([("x", x.type)]), metadata_collector=footer) as writer:
        writer.write_table(pa.table({"x": x}))
    text = completed(FileStatistics().text(footer[0], pa.schema([("x", x.type)])), table, ["day"])
    assert json.loads(text, parse_float=Decimal) == {
        "numRecords": 1,
        "nullCount": {"x": 0, "t": 1},
        "minValues": {"x": x[0].as_py(), "s": {}},
        "maxValues": {"x": x[0].as_py(), "s": {}},
    }


def test_random_values_lie_within_their_bounds() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    values = [
        datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=chance.randrange(-(10**15), 10**15))
        for _ in range(50)
    ]
    found = of_column(pa.timestamp("us"), *values)
    low, high = (datetime.datetime.fromisoformat(found[key]["x"]) for key in ("minValues", "maxValues"))
    assert low <= min(values)
    assert high >= max(values)
    assert high - low <= max(values) - min(values) + datetime.timedelta(milliseconds=2)
