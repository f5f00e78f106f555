"""Whatever the types, a value is in its column as it was, or is refused: of random values."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import BeamExactlyOnceError, UnfitRow
from beam_exactly_once.rows.columns import batch_of_rows
from unit.rows.test_exact import cast, in_column

# Derandomised: the same examples in every run. No deadline: a slow machine is no fault.
repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=400)

UTC = datetime.timezone.utc
UNITS = ("s", "ms", "us", "ns")
TYPES = [
    *(pa.int8(), pa.int32(), pa.int64(), pa.uint16(), pa.float16(), pa.float32(), pa.float64(), pa.bool_()),
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    *(pa.timestamp(unit) for unit in UNITS),
    *(pa.timestamp(unit, "UTC") for unit in UNITS),
    *(pa.duration(unit) for unit in UNITS),
    *(pa.decimal128(5, 2), pa.decimal128(38, 10), pa.decimal256(50, 5)),
]
VALUES = (
    st.integers(-(2**66), 2**66)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.decimals(allow_nan=False, allow_infinity=False, places=3)
    | st.builds(Decimal.scaleb, st.integers(-(10**20), 10**20).map(Decimal), st.integers(-300, 50))
    | st.dates()
    | st.times(timezones=st.none() | st.just(UTC))
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.timedeltas()
)


def meaning(value: Any) -> Any:
    """Equal for values that mean the same in columns of different types."""
    if isinstance(value, (bool, int, Decimal)) or (isinstance(value, float) and math.isfinite(value)):
        return Fraction(value)
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None)  # a zone is the column's
    if isinstance(value, datetime.date):
        return datetime.datetime.combine(value, datetime.time())
    if hasattr(value, "to_pydatetime"):  # of a column of nanoseconds
        return value.to_pydatetime().replace(tzinfo=None)
    return value


def rounds(arrow_type: pa.DataType) -> bool:
    return arrow_type in (pa.float16(), pa.float32())


@repeatable
@given(VALUES, st.sampled_from(TYPES))
def test_whatever_the_value_and_the_type(value: Any, arrow_type: pa.DataType) -> None:
    try:
        found = in_column(value, arrow_type)
    except UnfitRow:
        return
    except (ValueError, OverflowError):
        return  # Python cannot say it
    if rounds(arrow_type):
        assert (math.isinf(found), not found) == (math.isinf(value), not value)
    elif isinstance(value, (int, float, Decimal)) and not isinstance(found, (int, float, Decimal)):
        assert value == int(value), "a number is a count of the column's units"
    else:
        assert meaning(found) == meaning(value)


@repeatable
@given(VALUES, st.sampled_from(TYPES), st.sampled_from(TYPES))
def test_whatever_the_types_of_batch_and_column(value: Any, of_batch: pa.DataType, of_column: pa.DataType) -> None:
    try:
        values = pa.array([value, None], of_batch)
        was = values.to_pylist()[0]
        found = cast(values, of_column)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, BeamExactlyOnceError):
        return  # refused, or Python cannot say it
    assert found[1] is None
    if rounds(of_column) or rounds(of_batch):
        if rounds(of_column) and isinstance(was, float):
            assert (math.isinf(found[0]), not found[0]) == (math.isinf(was), not was)
    elif type(meaning(found[0])) is type(meaning(was)):
        assert meaning(found[0]) == meaning(was)
    else:
        assert pa.array([found[0]], of_column).cast(of_batch).to_pylist() == [was], "a count of units"


SPELT = (
    st.decimals(allow_nan=False, allow_infinity=False).map(str)
    | st.builds(
        "{}{}e{}".format, st.integers(-(10**20), 10**20), st.sampled_from(["", ".0", ".5"]), st.integers(-400, 400)
    )
    | st.integers(-(2**66), 2**66).map(str)
    | st.floats(allow_nan=False).map(repr)
    | st.floats(allow_nan=False, allow_infinity=False).map("{:.17g}".format)
)


@repeatable
@given(st.lists(SPELT, min_size=1, max_size=3), st.sampled_from([pa.float64(), pa.float32(), pa.decimal128(38, 10)]))
def test_whatever_number_a_text_spells(texts: list[str], arrow_type: pa.DataType) -> None:
    try:
        found = cast(pa.array(texts), arrow_type)
    except UnfitRow:
        return
    for text, number in zip(texts, found, strict=True):
        spelt = Decimal(text)
        assert math.isinf(number) == spelt.is_infinite()
        if arrow_type == pa.float64() and spelt.is_finite():
            # The float, and no other, is what the text says in as many digits.
            assert Decimal(repr(number)) == spelt or Decimal(f"{number:.{len(spelt.as_tuple().digits) - 1}e}") == spelt
        elif pa.types.is_decimal(arrow_type):
            assert number == spelt


@repeatable
@given(st.floats(allow_nan=False))
def test_a_float_that_was_spelt_comes_back(number: float) -> None:
    texts = [repr(number), f"{number:.17g}", f"{number:.25e}", str(Decimal(number))]
    assert cast(pa.array(texts), pa.float64()) == [number] * 4
    assert cast(pa.array([number]).cast(pa.string()), pa.float64()) == [number]


@repeatable
@given(
    st.integers(-(2**33), 2**33) | st.integers(-(2**62), 2**62),
    st.sampled_from(
        [kind for kind in TYPES if pa.types.is_time(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind)]
    ),
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
    if rounds(arrow_type):
        assert math.isinf(found) == math.isinf(value)
    elif isinstance(value, (np.datetime64, np.timedelta64)):
        assert pa.types.is_timestamp(arrow_type) or pa.types.is_duration(arrow_type)
        plain = (
            value.item()
            if arrow_type.unit != "ns"
            else value.astype("M8[us]" if value.dtype.kind == "M" else "m8[us]").item()
        )
        assert meaning(found) == plain
    elif isinstance(found, (bool, int, float, Decimal)):
        assert isinstance(found, bool) == isinstance(value, np.bool_)
        assert found == value
