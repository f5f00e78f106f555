"""A value is in its column as it was, or is refused: rows and Arrow batches alike, whatever the types."""

from __future__ import annotations

import datetime
import math
import uuid
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.errors import BeamExactlyOnceError, ConfigurationError, UnfitRow
from beam_exactly_once.rows.exact import cast_exactly, refuse_impossible
from unit.rows.columns_under_test import cast, in_column, repeatable

UTC = datetime.timezone.utc
LATE = datetime.datetime(2024, 1, 1, 23, 59, 59, 999999)
MIDNIGHT = datetime.datetime(2024, 1, 1)


@pytest.mark.parametrize(
    ("value", "arrow_type"),
    [
        (LATE, pa.date32()),
        (LATE, pa.date64()),
        (MIDNIGHT.replace(tzinfo=UTC), pa.date32()),
        (LATE, pa.timestamp("s")),
        (LATE, pa.timestamp("ms")),
        (datetime.time(1, 2, 3, tzinfo=UTC), pa.time64("us")),
        (datetime.time(1, 2, 3, 4), pa.time32("s")),
        (datetime.time(1, 2, 3, 4), pa.time32("ms")),
        (datetime.timedelta(microseconds=5), pa.duration("s")),
        (datetime.timedelta(milliseconds=1, microseconds=5), pa.duration("ms")),
        (1e300, pa.float32()),
        (-3.5e38, pa.float32()),
        (70000.0, pa.float16()),
        (1e-300, pa.float32()),
        (-(2.0**-150), pa.float32()),
        (1e-8, pa.float16()),
        ([None, 1e-300], pa.list_(pa.float32())),
        (1.5, pa.int64()),
        (1.5, pa.timestamp("s")),
        (1.7, pa.date32()),
        (1.5, pa.time32("s")),
        (-1, pa.time32("s")),
        (86_400_000, pa.time32("ms")),
        (1.5, pa.duration("ms")),
        ([MIDNIGHT, LATE], pa.list_(pa.date32())),
        ({"at": LATE}, pa.struct([("at", pa.timestamp("s"))])),
        ({"a": 1e300}, pa.map_(pa.string(), pa.float32())),
        (LATE, pa.dictionary(pa.int32(), pa.timestamp("s"))),
        (Decimal("1e-49"), pa.decimal128(30, 10)),
        (Decimal("-3.2855043396846905e-179"), pa.decimal128(30, 10)),
        ([Decimal("1e-219"), 1], pa.list_(pa.decimal256(50, 5))),
        ("red", pa.list_(pa.string())),
        ("", pa.list_(pa.int64())),
        (b"red", pa.list_(pa.uint8())),
        (["red"], pa.large_list(pa.list_(pa.string()))),
        ({"tags": "ab"}, pa.struct([("tags", pa.list_(pa.string(), 2))])),
        (np.float32(0.5), pa.date32()),
        (np.float32(0.5), pa.time32("s")),
        (uuid.UUID(int=1), pa.date32()),
        (uuid.UUID(int=1), pa.timestamp("us")),
        (uuid.UUID(int=1), pa.duration("us")),
        (uuid.UUID(int=1), pa.time64("us")),
    ],
    ids=str,
)
def test_a_row_that_its_column_would_change_is_refused(value: Any, arrow_type: pa.DataType) -> None:
    with pytest.raises(UnfitRow, match="column 'v' is"):
        in_column(value, arrow_type)


@pytest.mark.parametrize(
    ("value", "arrow_type"),
    [
        (MIDNIGHT, pa.timestamp("s")),
        (LATE, pa.timestamp("us")),
        (datetime.date(2024, 1, 1), pa.date32()),
        (datetime.time(1, 2, 3, 4), pa.time64("us")),
        (datetime.time(1, 2, 3), pa.time32("s")),
        (datetime.timedelta(seconds=5), pa.duration("s")),
        (math.inf, pa.float32()),
        (np.float16(0.5), pa.float16()),
        (3, pa.float32()),
        (Decimal("-0.0000000001"), pa.decimal128(30, 10)),
        (Decimal("0e-300"), pa.decimal128(30, 10)),
        (7, pa.decimal128(30, 10)),
        (True, pa.bool_()),
        (np.float64(0.1), pa.float64()),
        (np.float32(0.5), pa.float64()),
        (np.int64(7), pa.float64()),
        (np.uint64(2**53), pa.float64()),
        (np.longdouble(0.5), pa.float64()),
        ([1, 0.5, None], pa.list_(pa.float64())),
        (["red", "", None], pa.list_(pa.string())),
        ([["red"], []], pa.list_(pa.list_(pa.string()))),
    ],
    ids=str,
)
def test_what_fits_stays(value: Any, arrow_type: pa.DataType) -> None:
    assert in_column(value, arrow_type) == value


def test_a_date_may_be_given_as_its_midnight() -> None:
    assert in_column(MIDNIGHT, pa.date32()) == MIDNIGHT.date()


@pytest.mark.parametrize(
    ("values", "arrow_type"),
    [
        (pa.array([Decimal(12345678901234567890)]), pa.float64()),
        (pa.array([0.15]), pa.decimal128(3, 1)),
        (pa.array([2]), pa.bool_()),
        (pa.array([1.0, 1e300]), pa.float32()),
        (pa.array([0.0, None, 1e-300]), pa.float32()),
        (pa.array([1e-8]), pa.float16()),
        (pa.array([1e-40], pa.float32()), pa.float16()),
        (pa.array([[1e-300]]), pa.list_(pa.float32())),
        (pa.array(["0.0", "1e-300"]), pa.float32()),
        (pa.array([None, "1e-400"]), pa.float64()),
        (pa.array([b"1e300"], pa.binary()), pa.float32()),
        (pa.array([MIDNIGHT, LATE]), pa.date32()),
        (pa.array([LATE]), pa.timestamp("s")),
        (pa.array([MIDNIGHT]), pa.time64("us")),
        (pa.array([86_399, -1], pa.int32()), pa.time32("s")),
        (pa.array([[86_400]], pa.list_(pa.int32())), pa.list_(pa.time32("s"))),
        (pa.array([[LATE]]), pa.list_(pa.date32())),
        (pa.array([{"n": 2}]), pa.struct([("n", pa.bool_())])),
        (pa.array([LATE]).dictionary_encode(), pa.date32()),
        (pa.array(["1", "1E-49"]), pa.decimal128(30, 10)),
        (pa.array([["1E+34"], None]), pa.list_(pa.decimal128(38, 38))),
        (pa.array([1e-49]), pa.decimal128(30, 10)),
    ],
    ids=lambda given: str(given.type if isinstance(given, pa.Array) else given),
)
def test_a_batch_that_its_column_would_change_is_refused(values: pa.Array, arrow_type: pa.DataType) -> None:
    with pytest.raises(UnfitRow, match="cannot become"):
        cast(values, arrow_type)


def struct(**fields: pa.DataType) -> pa.StructType:
    return pa.struct(list(fields.items()))


ONE = pa.array([{"id": 1, "x": 2}])
CASTS_BY_NAME = int(pa.__version__.split(".")[0]) > 18
"""Fields of structs in another order; before, Arrow refuses them."""


@pytest.mark.parametrize(
    ("values", "arrow_type", "absent"),
    [
        (ONE, struct(idd=pa.int64(), x=pa.int64()), "idd"),
        (ONE, struct(x=pa.int64(), y=pa.int64()), "y"),
        (pa.array([[{"id": 1}]]), pa.list_(struct(idd=pa.int64())), "idd"),
        (pa.array([{"a": {"id": 1}}]), struct(a=struct(idd=pa.int64())), "idd"),
    ],
    ids=str,
)
def test_a_struct_of_a_batch_that_lacks_a_field_is_refused(values: pa.Array, arrow_type: Any, absent: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        cast(values, arrow_type)
    assert f"has no field '{absent}'" in str(refused.value) or not CASTS_BY_NAME


def test_fields_of_a_struct_in_another_order_keep_their_values_or_are_refused() -> None:
    swapped = struct(x=pa.int8(), id=pa.int64())
    if CASTS_BY_NAME:
        assert cast(ONE, swapped) == [{"x": 2, "id": 1}]
    else:
        with pytest.raises(ConfigurationError):
            cast(ONE, swapped)
    with pytest.raises(UnfitRow if CASTS_BY_NAME else ConfigurationError):
        cast(pa.array([{"id": 2, "x": 1}]), struct(x=pa.int8(), id=pa.bool_()))


BIG = 2**40 + 1
NESTED = [
    pytest.param(pa.list_, lambda one: [one], id="list"),
    pytest.param(pa.large_list, lambda one: [one, one], id="large list"),
    pytest.param(lambda inner: pa.list_(inner, 1), lambda one: [one], id="list of a fixed size"),
    pytest.param(lambda inner: pa.map_(pa.string(), inner), lambda one: [("key", one)], id="map"),
    pytest.param(lambda inner: pa.struct([("x", inner)]), lambda one: {"x": one}, id="struct"),
    pytest.param(lambda inner: pa.list_(pa.struct([("x", inner)])), lambda one: [{"x": one}], id="list of structs"),
]
DICTIONARIES = [
    pytest.param(lambda inner: pa.dictionary(pa.int8(), inner), lambda one: one, id="dictionary"),
    pytest.param(lambda inner: pa.list_(pa.dictionary(pa.int8(), inner)), lambda one: [one], id="list of a dictionary"),
]


@pytest.mark.parametrize(("outer", "value"), NESTED)
def test_a_slice_of_a_nested_column_is_judged_by_its_own_values(outer: Any, value: Any) -> None:
    """Rows are rejected by halves of their batch: what is in the other half is no fault of this one."""
    column = pa.array([value(1), value(2), None, value(BIG)], outer(pa.int64()))
    assert cast_exactly(column.slice(1, 2), outer(pa.float32())).to_pylist() == [value(2), None]
    with pytest.raises(pa.ArrowInvalid):
        cast_exactly(column.slice(2), outer(pa.float32()))


@pytest.mark.parametrize(("outer", "value"), [*NESTED, *DICTIONARIES])
def test_times_beyond_a_day_are_refused_wherever_they_are(outer: Any, value: Any) -> None:
    column = pa.array([value(86_399), None, value(86_400)], outer(pa.int32())).cast(outer(pa.time32("s")))
    refuse_impossible(column.slice(0, 2), "at")
    with pytest.raises(UnfitRow, match="'at'"):
        refuse_impossible(column, "at")


TIMES = pa.array([86_399, 86_400], pa.int32()).view(pa.time32("s"))


@pytest.mark.parametrize(
    "column",
    [
        pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.ListArray.from_arrays([0, 1, 2], TIMES)),
        pa.ListViewArray.from_arrays([0, 1], [1, 1], TIMES),
        pa.ExtensionArray.from_storage(pa.opaque(TIMES.type, "time", "vendor"), TIMES),
        pa.Array.from_buffers(
            pa.run_end_encoded(pa.int32(), TIMES.type), 2, [None], children=[pa.array([1, 2], pa.int32()), TIMES]
        ),
    ],
    ids=lambda column: str(column.type)[:30],
)
def test_times_beyond_a_day_are_refused_behind_other_types(column: pa.Array) -> None:
    refuse_impossible(column.slice(0, 1), "at")
    with pytest.raises(UnfitRow, match="'at'"):
        refuse_impossible(column, "at")


def test_a_batch_that_can_come_back_is_cast() -> None:
    assert cast(pa.array([1, 0, None]), pa.bool_()) == [True, False, None]
    assert cast(pa.array([MIDNIGHT, None]), pa.date32()) == [MIDNIGHT.date(), None]
    assert cast(pa.array([0.1, math.inf, None]), pa.float32()) == [pytest.approx(0.1, rel=1e-7), math.inf, None]
    assert cast(pa.array([0.0, -0.0, 1e-45, math.nan]), pa.float32())[:3] == [0.0, -0.0, 2.0**-149]
    assert cast(pa.array([0.0, 6e-8, None]), pa.float16()) == [0.0, 2.0**-24, None]
    assert cast(pa.array(["0", "-0.0e5", "inf", "1.5", None]), pa.float32()) == [0.0, 0.0, math.inf, 1.5, None]
    assert cast(pa.array([1, 2], pa.int8()), pa.int64()) == [1, 2]
    assert cast(pa.array(["1", "2"]), pa.int64()) == [1, 2]
    assert cast(pa.array(["1.50", None, "1e2"]), pa.decimal128(5, 2)) == [Decimal("1.5"), None, 100]
    assert cast(pa.array(["a", "a"]).dictionary_encode(), pa.string()) == ["a", "a"]
    assert cast(pa.array([b"\xff"]), pa.large_binary()) == [b"\xff"]
    assert cast(pa.array(["0x7F", "-1"]), pa.int8()) == [127, -1]


# -- properties ---------------------------------------------------------------------------------------------------

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
