"""A value of any Arrow type is in a file as it was, or is refused before the file begins: by its type, or as a row."""

from __future__ import annotations

import datetime
import io
import json
import math
import tempfile
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.sinks.delta.schema import delta_schema
from beam_exactly_once.sinks.files.encoding import row_blocks
from beam_exactly_once.sinks.files.layout import FileFormat, FileLayout

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=60)

UNITS = ("s", "ms", "us", "ns")
COUNTED = [
    *(pa.timestamp(unit, zone) for unit in UNITS for zone in (None, "Europe/Berlin", "Nowhere/Land")),
    *(pa.duration(unit) for unit in UNITS),
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
]
"""Types whose values are numbers, which Arrow does not check."""
NUMBERS = st.sampled_from(
    [0, 1, -1, 86_399, 86_400_000, 2**31 - 1, 253_402_300_800, 2**53 + 1, 2**63 - 1, -(2**63) + 1]
)
INT = pa.int64()
INTERVAL = pa.month_day_nano_interval()
NULL_OR_A = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([None, "a"]))
INNER_DICTIONARIES = [
    pa.ListArray.from_arrays([0, 1, 2], NULL_OR_A),
    pa.StructArray.from_arrays([NULL_OR_A], names=["a"]),
    pa.MapArray.from_arrays([0, 1, 2], pa.array(["k", "l"]), NULL_OR_A),
    pa.ListArray.from_arrays([0, 1, 2], pa.StructArray.from_arrays([NULL_OR_A], names=["a"])),
]
SAMPLES: list[pa.Array] = [
    pa.nulls(2),
    pa.array([True, None]),
    *(pa.array([7, None], kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32())),
    pa.array([2**63 - 1, -(2**63)]),
    pa.array([2**64 - 1], pa.uint64()),
    pa.array([np.float16(1.5), None], pa.float16()),
    pa.array([0.1, -0.0, math.inf], pa.float32()),
    pa.array([0.1, 1e300, 5e-324]),
    pa.array([math.inf]),
    *(pa.array([Decimal("1.50")], kind) for kind in (pa.decimal128(5, 2), pa.decimal256(50, 5))),
    pa.array([Decimal(300)], pa.decimal128(5, -2)),
    *(pa.array(["a", "", None, '"'], kind) for kind in (pa.string(), pa.large_string())),
    *(pa.array([b"ab", None], kind) for kind in (pa.binary(), pa.large_binary(), pa.binary(2))),
    pa.array([b"a\xff"]),
    pa.array([(1, 2, 3)], INTERVAL),
    pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
    pa.array([{}], pa.struct([])),
    pa.array([{"a": 1}, None], pa.struct([("a", INT)])),
    pa.array([{"a": {}}], pa.struct([("a", pa.struct([]))])),
    pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
    pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["a"])),
    *(pa.array([[1, None], None], kind) for kind in (pa.list_(INT), pa.large_list(INT), pa.list_(INT, 2))),
    pa.array([[1, 2]], pa.list_(INT, 2)),
    pa.array([[[1, 2], None]], pa.list_(pa.list_(INT, 2))),
    pa.array([[("a", 1)], None], pa.map_(pa.string(), INT)),
    pa.array([[(1, 2, 3)]], pa.list_(INTERVAL)),
    pa.array([[{}]], pa.list_(pa.struct([]))),
    pa.array(["a", None]).dictionary_encode(),
    pa.array([1, None]).dictionary_encode(),
    pa.array([datetime.datetime(2026, 1, 1)]).dictionary_encode(),
    NULL_OR_A,
    *INNER_DICTIONARIES,
    pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([[1]])),
    pa.DictionaryArray.from_arrays(pa.array([0]), pa.array(["a"]).dictionary_encode()),
]


_READ_AS = {pa.float16(): pa.float32(), pa.decimal256(50, 5): pa.decimal128(38, 5)}
"""Where pyarrow writes a type to CSV that it does not read."""


def written(format: FileFormat, values: pa.Array, *, with_schema: bool) -> bytes | None:
    """The file; None where its column or a value is refused."""
    batch = pa.RecordBatch.from_arrays([values, pa.array(range(len(values)))], names=["x", "i"])
    try:
        layout = FileLayout(format, schema=batch.schema if with_schema else None)
        ((_, block),) = row_blocks(layout).of_batch(batch)
    except (ConfigurationError, UnfitRow):
        return None
    with tempfile.TemporaryDirectory() as folder:
        store = open_object_store(f"{folder}/out")
        with store.stage("file") as target:
            file = layout.open_file(target)
            file.write([block])
            file.close()
        store.publish(target.staged)
        return store.get("file")


def read_parquet(body: bytes, values: pa.Array) -> None:
    found = pq.read_table(io.BytesIO(body)).column("x").combine_chunks()
    plain = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    if pa.types.is_dictionary(found.type):
        found = found.dictionary_decode()
    assert found.cast(plain.type).equals(plain)


def read_csv(body: bytes, values: pa.Array) -> None:
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    plain = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    read_as = INT if pa.types.is_duration(kind) else _READ_AS.get(kind, kind)  # pyarrow 18 reads no durations
    options = pyarrow.csv.ConvertOptions(
        column_types={"x": read_as}, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    found = pyarrow.csv.read_csv(io.BytesIO(body), convert_options=options).column("x").combine_chunks()
    assert found.cast(kind).equals(plain)


def read_json(body: bytes, values: pa.Array) -> None:
    """As each type is said in JSON."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    for line, value in zip(body.splitlines(), values.to_pylist(), strict=True):
        (name, found), _ = json.loads(line).items()
        if name == "x_base64":
            assert isinstance(value, bytes)
        elif isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
            assert type(value).fromisoformat(found) == value
        elif isinstance(value, datetime.timedelta):
            assert datetime.timedelta(seconds=found) == value
        elif isinstance(value, Decimal):
            assert Decimal(found) == value
        elif isinstance(value, bytes):
            assert found.encode() == value
        else:
            assert found == json.loads(json.dumps(value)), kind


READ = {"parquet": read_parquet, "csv": read_csv, "json": read_json}


@pytest.mark.parametrize("with_schema", [False, True])
@pytest.mark.parametrize("format", READ)
@pytest.mark.parametrize("values", SAMPLES, ids=lambda values: str(values.type)[:40])
def test_of_each_type(format: FileFormat, values: pa.Array, with_schema: bool) -> None:
    body = written(format, values, with_schema=with_schema)
    if body is not None:
        READ[format](body, values)


@repeatable
@given(
    st.sampled_from(COUNTED),
    st.lists(NUMBERS | st.integers(-(2**63) + 1, 2**63 - 1), min_size=1, max_size=2),
    st.booleans(),
)
@example(pa.date64(), [5], True)
@example(pa.time32("s"), [90_000], False)
@example(pa.timestamp("s"), [2**63 - 1], True)
@pytest.mark.parametrize("format", READ)
def test_numbers_that_are_no_moments(
    format: FileFormat, kind: pa.DataType, numbers: list[int], with_schema: bool
) -> None:
    width = pa.int32() if kind.bit_width == 32 else INT
    values = pa.array([number if width == INT else number % 2**31 for number in numbers], width).view(kind)
    body = written(format, values, with_schema=with_schema)
    is_known_gap = format == "csv" and kind == pa.timestamp("ns")  # near 1677 pyarrow does not read what it writes
    if body is not None and not (is_known_gap and min(numbers) < -9 * 10**18):
        READ[format](body, values)


LACKING = {
    "parquet": [
        INTERVAL,
        pa.struct([]),
        pa.run_end_encoded(pa.int32(), pa.string()),
        pa.sparse_union([pa.field("a", INT)]),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.struct([("a", pa.dictionary(pa.int32(), pa.string()))]),
    ],
    "csv": [INTERVAL, pa.list_(INT), pa.run_end_encoded(pa.int32(), pa.string()), pa.timestamp("s", "Nowhere/Land")],
    "json": [INTERVAL, pa.sparse_union([pa.field("a", INT)]), pa.timestamp("s", "Nowhere/Land")],
}


@pytest.mark.parametrize(
    ("format", "kind"), [(name, kind) for name, kinds in LACKING.items() for kind in kinds], ids=str
)
def test_types_that_a_format_lacks_are_refused_from_the_schema(format: FileFormat, kind: pa.DataType) -> None:
    with pytest.raises(ConfigurationError, match="cannot hold column 'x' of type"):
        FileLayout(format, schema=pa.schema([("i", INT), ("x", kind)]))


@pytest.mark.parametrize(
    "kind",
    [*LACKING["parquet"][:4], pa.list_(pa.struct([])), pa.struct([("a", INT), ("A", INT)]), pa.struct([("a b", INT)])],
    ids=str,
)
def test_types_that_a_delta_table_lacks_are_refused_from_the_schema(kind: pa.DataType) -> None:
    with pytest.raises(ConfigurationError, match=r"schema=: (column 'x' is of type|a Delta table takes no column)"):
        delta_schema(pa.schema([("i", INT), ("x", kind)]), where="schema=")
