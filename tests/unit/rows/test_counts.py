"""A number is a count of its column's units; a boolean is none, and neither is what numpy counts in other units."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.columns import batch_of_rows
from unit.rows.columns_under_test import in_column, repeatable

UNITS = ("s", "ms", "us", "ns")
TIMES = [
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    *(pa.timestamp(unit) for unit in UNITS),
    *(pa.timestamp(unit, "UTC") for unit in UNITS),
]
TYPES = [
    *(pa.int8(), pa.int32(), pa.int64(), pa.uint16(), pa.float16(), pa.float32(), pa.float64(), pa.bool_()),
    *TIMES,
    *(pa.duration(unit) for unit in UNITS),
    pa.decimal128(38, 10),
]


@pytest.mark.parametrize(
    ("value", "arrow_type"),
    [
        (-1, pa.time32("s")),
        (86_400, pa.time32("s")),
        (86_400_000_001, pa.time64("us")),
        (np.int64(-1), pa.time64("us")),
        (-1, pa.time64("ns")),
        (259_200_005, pa.date64()),
        (2**62, pa.timestamp("s")),
        ([0, -1], pa.list_(pa.time64("us"))),
        ({"at": 86_400_000}, pa.struct([("at", pa.time32("ms"))])),
        (86_400, pa.dictionary(pa.int8(), pa.time32("s"))),
        (True, pa.float64()),
        (True, pa.float32()),
        (True, pa.float16()),
        (np.True_, pa.int64()),
        (np.True_, pa.uint8()),
        (np.True_, pa.date32()),
        (np.True_, pa.time64("us")),
        ([1.5, True], pa.list_(pa.float64())),
        (np.array([True]), pa.list_(pa.int64())),
        ({"a": True}, pa.map_(pa.string(), pa.float64())),
        (np.uint64(2**64 - 1), pa.float64()),
        (np.uint64(2**64 - 1), pa.float32()),
        (np.array([2**64 - 1], np.uint64), pa.list_(pa.float64())),
        (2049, pa.float16()),
        (np.uint32(2**32 - 1), pa.float16()),
        (np.longdouble("0.1") if np.finfo(np.longdouble).precision > 15 else True, pa.float64()),
        (np.datetime64(5, "ns"), pa.date32()),
        (np.datetime64(86_400_000, "ns"), pa.date64()),
        (np.datetime64(5, "ns"), pa.time64("us")),
        (np.timedelta64(5, "ns"), pa.int64()),
        (np.datetime64(2024, "Y"), pa.int64()),
        (np.array([1], "datetime64[ns]"), pa.list_(pa.timestamp("us"))),
        (np.array([1], "datetime64[D]"), pa.list_(pa.timestamp("s"))),
        (np.array([1], "timedelta64[10us]"), pa.list_(pa.duration("us"))),
    ],
    ids=str,
)
def test_a_count_that_its_column_would_change_is_refused(value: Any, arrow_type: pa.DataType) -> None:
    with pytest.raises(UnfitRow, match="column 'v' is"):
        in_column(value, arrow_type)


@pytest.mark.parametrize(
    ("value", "arrow_type", "expected"),
    [
        (86_399, pa.time32("s"), datetime.time(23, 59, 59)),
        (0, pa.time64("us"), datetime.time()),
        (259_200_000, pa.date64(), datetime.date(1970, 1, 4)),
        (np.datetime64(5, "us"), pa.timestamp("us"), datetime.datetime(1970, 1, 1, 0, 0, 0, 5)),
        (np.array([5], "datetime64[us]"), pa.list_(pa.timestamp("us")), [datetime.datetime(1970, 1, 1, 0, 0, 0, 5)]),
        (np.array([5], "timedelta64[us]"), pa.list_(pa.duration("us")), [datetime.timedelta(microseconds=5)]),
        (np.array([0.1, 2.0]), pa.list_(pa.float64()), [0.1, 2.0]),
        (np.array([0.5, 2.0]), pa.list_(pa.float32()), [0.5, 2.0]),
        (np.array([1, 2]), pa.list_(pa.float64()), [1.0, 2.0]),
    ],
    ids=str,
)
def test_a_count_of_the_columns_units_stays(value: Any, arrow_type: pa.DataType, expected: Any) -> None:
    assert in_column(value, arrow_type) == expected


@repeatable
@given(
    st.integers(-(2**33), 2**33) | st.integers(-(2**62), 2**62),
    st.sampled_from(TIMES),
)
def test_a_count_comes_back_or_is_refused(count: int, arrow_type: pa.DataType) -> None:
    try:
        column = batch_of_rows([{"v": count}], pa.schema([("v", arrow_type)])).column(0)
        (found,) = column.to_pylist()
    except UnfitRow:
        return
    except (ValueError, OverflowError):
        return  # Python cannot say it
    assert pa.array([found], arrow_type) == column


NUMPY = st.builds(
    lambda kind, count: np.array([count]).astype(kind),
    st.sampled_from(["?", "u1", "i4", "u8", "i8", "f2", "f4", "f8", "g"]),
    st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300),
) | st.builds(
    lambda kind, unit, count: np.array([count], f"{kind}8[{unit}]"),
    st.sampled_from(["M", "m"]),
    st.sampled_from(["D", "s", "ms", "us", "ns"]),
    st.integers(-(2**40), 2**40),
)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@repeatable
@given(NUMPY, st.sampled_from(TYPES), st.booleans())
def test_whatever_the_value_of_numpy(values: Any, arrow_type: pa.DataType, in_list: bool) -> None:
    value = values[0]
    try:
        found = in_column(values, pa.list_(arrow_type))[0] if in_list else in_column(value, arrow_type)
    except UnfitRow:
        return
    except (ValueError, OverflowError):
        return  # Python cannot say it
    if arrow_type in (pa.float16(), pa.float32()):
        assert math.isinf(found) == math.isinf(value)
    elif isinstance(value, (np.datetime64, np.timedelta64)):
        assert pa.types.is_timestamp(arrow_type) or pa.types.is_duration(arrow_type)
        in_microseconds = value.astype(f"{value.dtype.kind}8[us]").item()
        assert (found.replace(tzinfo=None) if pa.types.is_timestamp(arrow_type) else found) == in_microseconds
    elif isinstance(found, (bool, int, float, Decimal)):
        assert isinstance(found, bool) == isinstance(value, np.bool_)
        assert found == value
