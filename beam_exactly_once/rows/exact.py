"""Values that Arrow would change without a word on their way into a column: found, and refused.

Arrow cuts fractions, hours, zones and digits where a type has no room for them. One loss is the type's own and asked for by its
name: ``float32`` and ``float16`` round, but to no zero and no infinity.
"""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.spelt import is_as_spelt

_STEP_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_LARGEST = {pa.float32(): 3.4028235677973366e38, pa.float16(): 65520.0}
"""What no longer rounds to a finite number."""
_LEAST = {pa.float32(): 2.0**-150, pa.float16(): 2.0**-25}
"""What rounds to zero, as all that is less."""
_DOUBLES = (float, int, np.float64, np.float32, np.int64, np.int32)
"""Types whose values a column of ``float64`` takes as they are, or refuses by itself."""
_DOUBLE_BYTES = 8
_OUT_OF_RANGE = "it is too large for the column, or so small that it would be zero"
_MIDNIGHT = datetime.time()
_NUMBERS = (int, float, Decimal, np.integer, np.floating)  # of units, where a column holds days, moments or durations
_TEXTS = (str, bytes, bytearray, memoryview)
"""Arrow makes a list of the letters of some of them."""
_BOOLEANS = frozenset({bool, np.bool_})
"""Arrow takes some of them as 0 and 1."""
_COUNTED = frozenset({np.datetime64, np.timedelta64})
"""Moments and durations of numpy, of which Arrow takes the number and drops the unit."""
_PARSED = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
"""A text is not the number or the date that it spells, so there is nothing to compare but numbers that Arrow misreads."""


class Changed(pa.ArrowInvalid):  # type: ignore[misc]
    """A value would not be the same in a column."""


class _Rule(NamedTuple):
    plain_kinds: frozenset[type]
    """Python types whose values are looked at together, if at all."""
    refuse_plain: Callable[[Sequence[Any]], object]
    """Raises ValueError (Arrow's errors of data are such) where the column does not hold one of these."""
    is_exact: Callable[[Any], bool]
    """Whether the column holds a value of another type."""
    complaint: str


def refuse_changed(values: Sequence[Any], arrow_type: pa.DataType) -> None:
    """Refuse Python values that ``pyarrow.array`` would change, also inside lists, maps and structs.

    Args:
        values: what it took as ``arrow_type``.

    Raises:
        ValueError: the column does not hold one of them.
    """
    rule = _rule(arrow_type)
    if rule is not None:
        if rule.plain_kinds.issuperset(map(type, values)):
            rule.refuse_plain(values)
            return
        kinds = frozenset(map(type, values))
        if not kinds.isdisjoint(_BOOLEANS):
            raise ValueError("a boolean is no number")
        if not (kinds.isdisjoint(_COUNTED) or pa.types.is_timestamp(arrow_type) or pa.types.is_duration(arrow_type)):
            raise ValueError("it is a moment or a duration, and the column has neither")
        if not all(value is None or rule.is_exact(value) for value in values):
            raise ValueError(rule.complaint)
    elif _may_change(arrow_type):
        present = [value for value in values if value is not None]
        for inner_type, inner_values in values_within(present, arrow_type):
            refuse_changed(inner_values, inner_type)


def cast_exactly(column: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    """``column`` as ``arrow_type``, if each value can come back.

    Raises:
        pyarrow.ArrowException: a value cannot be cast, or would not be the same.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    column = _whole(column)
    cast = column.cast(arrow_type)
    _refuse_changed_column(column, cast.dictionary_decode() if pa.types.is_dictionary(arrow_type) else cast)
    if not has_times(column.type) and not is_possible(cast):
        raise Changed(f"a value of type {column.type} is no {arrow_type}")
    return cast


@functools.lru_cache(maxsize=256)
def has_times(arrow_type: pa.DataType) -> bool:
    """Whether dates, times, moments or durations are in a column."""
    if isinstance(arrow_type, pa.BaseExtensionType):
        return has_times(arrow_type.storage_type)
    if pa.types.is_dictionary(arrow_type) or pa.types.is_run_end_encoded(arrow_type):
        return has_times(arrow_type.value_type)
    if not pa.types.is_nested(arrow_type):
        return bool(pa.types.is_temporal(arrow_type))
    return any(has_times(arrow_type.field(number).type) for number in range(arrow_type.num_fields))


def refuse_impossible(column: pa.Array, name: str) -> None:
    """Refuse what Arrow's types of dates and times do not have, and what each reader takes for something else.

    Args:
        column: of an Arrow batch, which nobody has checked.
        name: its own.

    Raises:
        UnfitRow: a time is not within a day, a date is not whole, or a moment in seconds is beyond all others.
    """
    if not is_possible(column):
        raise UnfitRow(f"a row has a value in column {name!r} that is no {column.type}. Correct it before the sink.")


def is_possible(column: pa.Array) -> bool:
    """Whether Arrow's types of dates and times have the values of a column, also inside of others."""
    kind = column.type
    if not has_times(kind):
        return True
    if pa.types.is_time(kind):
        last = 86_400 * 10**9 // _STEP_NS[kind.unit] - 1
        ends = pc.min_max(column.view(pa.int32() if pa.types.is_time32(kind) else pa.int64())).as_py()
        return bool(ends["min"] is None or 0 <= ends["min"] <= ends["max"] <= last)
    if pa.types.is_date64(kind) or (pa.types.is_timestamp(kind) and kind.unit == "s"):
        try:
            column.cast(pa.date32() if pa.types.is_date64(kind) else pa.timestamp("ms", kind.tz))
        except pa.ArrowInvalid:
            return False
        return True
    return all(map(is_possible, _within(column)))


def _refuse_changed_column(column: pa.Array, cast: pa.Array) -> None:
    if column.type == cast.type:
        return
    if any(is_text(column.type) for is_text in _PARSED):
        if not is_as_spelt(column, cast):
            raise Changed(f"a number that a text spells would change as {cast.type}")
        return
    if column.type.num_fields and column.type.num_fields == cast.type.num_fields:
        for inner, cast_inner in _pairs(column, cast):
            _refuse_changed_column(inner, cast_inner)
        return
    if pa.types.is_floating(column.type) and pa.types.is_floating(cast.type):
        is_same = _has_its_ends(column, cast)
    else:
        try:
            back = cast.cast(column.type)
        except pa.ArrowException:
            raise Changed(f"a value of type {column.type} would change as {cast.type}") from None
        is_same = _all(_equal(back, column))
    if not is_same:
        raise Changed(f"a value of type {column.type} would change as {cast.type}")


def _has_its_ends(column: pa.Array, cast: pa.Array) -> bool:
    """Whether floating numbers that are rounded are infinite, and zero, where they were."""
    given, rounded = (one.cast(pa.float64()) for one in (column, cast))  # of two bytes, Arrow compares none
    is_same = pc.and_(
        pc.equal(pc.is_inf(rounded), pc.is_inf(given)), pc.equal(pc.equal(rounded, 0.0), pc.equal(given, 0.0))
    )
    return _all(is_same)


def _all(are_so: pa.Array) -> bool:
    return bool(pc.all(pc.fill_null(are_so, True)).as_py())


def _whole(column: pa.Array) -> pa.Array:
    """The same, alone in its memory: of a slice of a nested column, Arrow casts and shows also what lies outside of it."""
    return pa.concat_arrays([column]) if column.type.num_fields else column


def _within(column: pa.Array) -> Sequence[pa.Array]:
    """What a column's values are made of, without those that no row has. Of unions Arrow does not say it."""
    kinds = pa.types
    if isinstance(column.type, pa.BaseExtensionType):
        return (column.storage,)
    if kinds.is_dictionary(column.type):
        return (column.dictionary_decode(),)
    if kinds.is_run_end_encoded(column.type):
        return (pc.run_end_decode(column),)
    return _children(_whole(column)) if kinds.is_nested(column.type) and not kinds.is_union(column.type) else ()


def _children(column: pa.Array) -> Sequence[pa.Array]:
    """What is inside of a nested column that is no slice."""
    if pa.types.is_struct(column.type):
        return column.flatten()  # type: ignore[no-any-return]
    return (column.keys, column.items) if pa.types.is_map(column.type) else (pc.list_flatten(column),)


def _pairs(column: pa.Array, cast: pa.Array) -> Iterator[tuple[pa.Array, pa.Array]]:
    """What is inside of both. Arrow casts structs by the names of their fields, and makes nulls of one that is not there."""
    children, cast_children = _children(column), _children(cast)
    if pa.types.is_struct(column.type) and pa.types.is_struct(cast.type):
        places = [column.type.get_field_index(field.name) for field in cast.type]
        if -1 in places:
            name = cast.type.field(places.index(-1)).name
            raise pa.ArrowNotImplementedError(f"a struct in it has no field {name[:50]!r}, or two")
        children = [children[place] for place in places]
    yield from zip(children, cast_children, strict=True)


def _equal(one: pa.Array, other: pa.Array) -> pa.Array:
    same = pc.equal(one, other)
    return pc.or_(same, pc.and_(pc.is_nan(one), pc.is_nan(other))) if pa.types.is_floating(one.type) else same


@functools.lru_cache(maxsize=256)
def _rule(arrow_type: pa.DataType) -> _Rule | None:
    kinds = pa.types
    if kinds.is_integer(arrow_type):
        return _Rule(_plain(int), _take_all, _is_whole, "an integer column does not take fractions")
    if kinds.is_date(arrow_type):
        return _Rule(_plain(datetime.date), _take_all, _is_date, "a column of dates does not take times of day")
    if kinds.is_timestamp(arrow_type):
        return _rule_of_unit(datetime.datetime, arrow_type, pa.timestamp("us", arrow_type.tz))
    if kinds.is_duration(arrow_type):
        return _rule_of_unit(datetime.timedelta, arrow_type, pa.duration("us"))
    if kinds.is_time(arrow_type):
        return _rule_of_unit(datetime.time, arrow_type, pa.time64("us"))
    if kinds.is_decimal(arrow_type):
        return _rule_of_decimals(arrow_type)
    if arrow_type in _LARGEST:
        return _Rule(
            _plain(float), lambda values: _refuse_out_of_range(values, arrow_type), _is_in(arrow_type), _OUT_OF_RANGE
        )
    if kinds.is_float64(arrow_type):
        return _Rule(_plain(*_DOUBLES), _take_all, _is_double, "it is no number of 64 bits")
    return None


def _plain(*kinds: type) -> frozenset[type]:
    return frozenset({*kinds, type(None)})


def _take_all(values: Sequence[Any]) -> None:
    """Arrow holds these, or refuses them."""


def _rule_of_unit(kind: type, arrow_type: pa.DataType, python_type: pa.DataType) -> _Rule:
    """Of a column that may be coarser than Python's values, which ``python_type`` holds whole. Times of day have no zone."""
    step_ns = _STEP_NS[arrow_type.unit]
    is_time = kind is datetime.time

    def refuse_plain(values: Sequence[Any]) -> None:
        if is_time and any(value is not None and value.tzinfo is not None for value in values):
            raise ValueError(complaint)
        if step_ns > _STEP_NS["us"]:
            try:
                pa.array(values, python_type).cast(arrow_type)
            except pa.ArrowInvalid:  # says the value
                raise ValueError(complaint) from None

    def is_exact(value: Any) -> bool:
        if type(value) in _COUNTED:
            return np.datetime_data(value.dtype) == (arrow_type.unit, 1)
        return _fits(value, step_ns) and not (is_time and getattr(value, "tzinfo", None) is not None)

    complaint = f"its unit is {arrow_type.unit}: no finer fractions" + (", and no time zone" if is_time else "")
    return _Rule(_plain(kind), refuse_plain, is_exact, complaint)


def _rule_of_decimals(arrow_type: pa.DataType) -> _Rule:
    """Arrow refuses digits behind the last that the column has, except of numbers that are very small."""
    least = Decimal((0, (1,), -arrow_type.scale))

    def refuse_plain(values: Sequence[Decimal | None]) -> None:
        if any(value and -least < value < least for value in values):
            raise ValueError(complaint)

    def is_exact(value: Any) -> bool:
        return not isinstance(value, Decimal) or not value or not -least < value < least

    complaint = f"it has more than {arrow_type.scale} digits behind the point"
    return _Rule(_plain(Decimal), refuse_plain, is_exact, complaint)


def _refuse_out_of_range(values: Sequence[float | None], arrow_type: pa.DataType) -> None:
    is_in = _is_in(arrow_type)
    if arrow_type == pa.float32():
        wide = pa.array(values, pa.float64())
        is_fine = _has_its_ends(wide, wide.cast(arrow_type))
    else:
        is_fine = all(value is None or is_in(value) for value in values)
    if not is_fine:
        raise ValueError(_OUT_OF_RANGE)


def _is_in(arrow_type: pa.DataType) -> Callable[[Any], bool]:
    least, largest = _LEAST[arrow_type], _LARGEST[arrow_type]

    def is_in(value: Any) -> bool:
        if arrow_type == pa.float16() and isinstance(value, (int, np.integer)) and not _is_half(value):
            return False
        number = abs(float(value))
        return _is_double(value) and (
            not number or least < number < largest or math.isinf(number) or math.isnan(number)
        )

    return is_in


def _is_half(value: Any) -> bool:
    """Of other floating numbers Arrow itself takes only whole numbers that are exact."""
    return bool(abs(value) < _LARGEST[pa.float16()] and int(np.float16(int(value))) == value)


def _is_double(value: Any) -> bool:
    """Arrow takes the bits of an unsigned number, and what is too large as infinite."""
    if isinstance(value, np.uint64):
        return bool(value < 2**63)
    if not isinstance(value, np.longdouble):
        return True
    with np.errstate(over="ignore"):
        return bool(value == float(value) or value != value)


def _is_whole(value: Any) -> bool:
    return bool(value == int(value))


def _is_whole_number(value: Any) -> bool:
    """A UUID can become a number, and is none."""
    return isinstance(value, _NUMBERS) and _is_whole(value)


def _is_date(value: Any) -> bool:
    if isinstance(value, datetime.datetime):
        return value.tzinfo is None and value.time() == _MIDNIGHT
    return _is_whole_number(value) if hasattr(value, "__int__") else True


def _fits(value: Any, step_ns: int) -> bool:
    """Whether a moment, a time of day or a duration is a whole number of steps."""
    if hasattr(value, "__int__"):
        return _is_whole_number(value)
    parts = getattr(value, "microsecond", None), getattr(value, "microseconds", None)
    fraction_ns = 1000 * next((part for part in parts if part is not None), 0)
    fraction_ns += getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0)  # of pandas
    return bool(fraction_ns % step_ns == 0)


def _is_list(arrow_type: pa.DataType) -> bool:
    return bool(arrow_type.num_fields) and not (pa.types.is_struct(arrow_type) or pa.types.is_map(arrow_type))


def _may_change(arrow_type: pa.DataType) -> bool:
    if _rule(arrow_type) is not None:
        return True
    if pa.types.is_dictionary(arrow_type):
        return _may_change(arrow_type.value_type)
    return bool(arrow_type.num_fields)


def values_within(values: list[Any], arrow_type: pa.DataType) -> Iterator[tuple[pa.DataType, list[Any]]]:
    """The values inside of Python values of a nested column, none of them null, by the type that the column has for them."""
    if pa.types.is_dictionary(arrow_type):
        yield arrow_type.value_type, values
    elif any(issubclass(kind, _TEXTS) for kind in set(map(type, values))):
        raise ValueError("a text is no list, and no struct")
    elif pa.types.is_map(arrow_type):
        pairs = [pair for value in values for pair in (value.items() if isinstance(value, Mapping) else value)]
        yield arrow_type.key_type, [key for key, _ in pairs]
        yield arrow_type.item_type, [item for _, item in pairs]
    elif pa.types.is_struct(arrow_type):
        if any(type(value) is list and not value for value in values):
            raise ValueError("a list is no struct")
        for position, field in enumerate(arrow_type):
            yield (
                field.type,
                [value.get(field.name) if isinstance(value, Mapping) else value[position] for value in values],
            )
    elif _is_list(arrow_type):
        if not _may_change(arrow_type.value_type):
            return
        lists = (_listed(value, arrow_type.value_type) for value in values)
        yield arrow_type.value_type, list(chain.from_iterable(lists))


def _listed(values: Any, arrow_type: pa.DataType) -> Any:
    """Values of a list that are to be looked at: as Python's, since numpy makes each of its own slowly."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fi" or values.dtype.itemsize > _DOUBLE_BYTES:
        return values
    return () if values.dtype.kind == "f" and arrow_type == pa.float64() else values.tolist()
