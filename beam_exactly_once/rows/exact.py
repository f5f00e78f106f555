"""Values that Arrow would change without a word on their way into a column: found, and refused.

Arrow cuts fractions, hours, zones and digits where a type has no room for them. One loss is the type's own and asked for by its
name: ``float32`` and ``float16`` round.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

_STEP_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_LARGEST = {pa.float32(): 3.4028235677973366e38, pa.float16(): 65520.0}
"""What no longer rounds to a finite number."""
_MIDNIGHT = datetime.time()
_NUMBERS = (int, float, Decimal)
"""Counts of a column's units, where it holds days, moments or durations."""
_PARSED = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
"""A text is not the number or the date that it spells, so there is nothing to compare."""


class _Rule(NamedTuple):
    exact_kinds: frozenset[type]
    """Python types whose every value the column holds, or Arrow refuses."""
    is_exact: Callable[[Any], bool]
    complaint: str


def refuse_changed(values: Sequence[Any], arrow_type: pa.DataType, column: pa.Array | None = None) -> None:
    """Refuse Python values that ``pyarrow.array`` would change, also inside lists, maps and structs.

    Args:
        values: what it took as ``arrow_type``.
        column: what it made of them, which may spare a look at each.

    Raises:
        ValueError: the column does not hold one of them.
    """
    if column is not None and arrow_type in _LARGEST and not pc.any(pc.is_inf(column)).as_py():
        return
    rule = _rule(arrow_type)
    if rule is not None:
        if not rule.exact_kinds.issuperset(map(type, values)):
            for value in values:
                if value is not None and not rule.is_exact(value):
                    raise ValueError(rule.complaint)
    elif _may_change(arrow_type):
        present = [value for value in values if value is not None]
        for inner_type, inner_values in _inner(present, arrow_type):
            refuse_changed(inner_values, inner_type)


def cast_exactly(column: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    """``column`` as ``arrow_type``, if each value can come back.

    Raises:
        pyarrow.ArrowException: a value cannot be cast, or would not be the same.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    cast = column.cast(arrow_type)
    if pa.types.is_dictionary(arrow_type):
        _refuse_changed_column(column, cast.dictionary_decode())
    else:
        _refuse_changed_column(column, cast)
    return cast


def _refuse_changed_column(column: pa.Array, cast: pa.Array) -> None:
    if column.type == cast.type or any(is_text(column.type) for is_text in _PARSED):
        return
    if column.type.num_fields and column.type.num_fields == cast.type.num_fields:
        for inner in _children(column, cast):
            _refuse_changed_column(*inner)
        return
    if pa.types.is_floating(column.type) and pa.types.is_floating(cast.type):
        is_same = pc.equal(pc.is_inf(cast), pc.is_inf(column))
    else:
        try:
            back = cast.cast(column.type)
        except pa.ArrowException as error:
            raise pa.ArrowInvalid(f"a value would change ({error})") from None
        is_same = _equal(back, column)
    if not pc.all(pc.fill_null(is_same, True)).as_py():
        raise pa.ArrowInvalid(f"a value of type {column.type} would change as {cast.type}")


def _children(column: pa.Array, cast: pa.Array) -> Iterator[tuple[pa.Array, pa.Array]]:
    if pa.types.is_struct(column.type):
        yield from zip(column.flatten(), cast.flatten(), strict=True)
    elif pa.types.is_map(column.type):
        yield column.keys, cast.keys
        yield column.items, cast.items
    else:
        yield pc.list_flatten(column), pc.list_flatten(cast)


def _equal(one: pa.Array, other: pa.Array) -> pa.Array:
    same = pc.equal(one, other)
    return pc.or_(same, pc.and_(pc.is_nan(one), pc.is_nan(other))) if pa.types.is_floating(one.type) else same


def _rule(arrow_type: pa.DataType) -> _Rule | None:
    kinds = pa.types
    if kinds.is_integer(arrow_type):
        return _Rule(frozenset({int, type(None)}), _is_whole, "an integer column does not take fractions")
    if kinds.is_date(arrow_type):
        return _Rule(frozenset({datetime.date, type(None)}), _is_date, "a column of dates does not take times of day")
    if kinds.is_timestamp(arrow_type) or kinds.is_duration(arrow_type):
        step_ns = _STEP_NS[arrow_type.unit]
        fine = {datetime.datetime, datetime.timedelta, type(None)} if step_ns <= 1000 else set()
        return _Rule(
            frozenset(fine), lambda value: _fits(value, step_ns), f"its unit is {arrow_type.unit}: no finer fractions"
        )
    if kinds.is_time(arrow_type):
        step_ns = _STEP_NS[arrow_type.unit]
        complaint = f"a column of times takes no time zone, and its unit is {arrow_type.unit}: no finer fractions"
        return _Rule(
            frozenset(), lambda value: getattr(value, "tzinfo", None) is None and _fits(value, step_ns), complaint
        )
    if arrow_type in _LARGEST:
        largest = _LARGEST[arrow_type]
        return _Rule(
            frozenset(), lambda value: abs(value) < largest or math.isinf(value) or math.isnan(value), "too large"
        )
    return None


def _is_whole(value: Any) -> bool:
    return bool(value == int(value))


def _is_date(value: Any) -> bool:
    if isinstance(value, datetime.datetime):
        return value.tzinfo is None and value.time() == _MIDNIGHT
    return not isinstance(value, _NUMBERS) or _is_whole(value)


def _fits(value: Any, step_ns: int) -> bool:
    """Whether a moment, a time of day or a duration is a whole number of steps."""
    if isinstance(value, _NUMBERS):
        return _is_whole(value)
    parts = getattr(value, "microsecond", None), getattr(value, "microseconds", None)
    fraction_ns = 1000 * next((part for part in parts if part is not None), 0)
    fraction_ns += getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0)  # of pandas
    return bool(fraction_ns % step_ns == 0)


def _may_change(arrow_type: pa.DataType) -> bool:
    if _rule(arrow_type) is not None:
        return True
    if pa.types.is_dictionary(arrow_type):
        return _may_change(arrow_type.value_type)
    return any(_may_change(arrow_type.field(number).type) for number in range(arrow_type.num_fields))


def _inner(values: list[Any], arrow_type: pa.DataType) -> Iterator[tuple[pa.DataType, list[Any]]]:
    if pa.types.is_dictionary(arrow_type):
        yield arrow_type.value_type, values
    elif pa.types.is_map(arrow_type):
        pairs = [pair for value in values for pair in (value.items() if isinstance(value, Mapping) else value)]
        yield arrow_type.key_type, [key for key, _ in pairs]
        yield arrow_type.item_type, [item for _, item in pairs]
    elif pa.types.is_struct(arrow_type):
        for position, field in enumerate(arrow_type):
            yield (
                field.type,
                [value.get(field.name) if isinstance(value, Mapping) else value[position] for value in values],
            )
    elif arrow_type.num_fields:
        yield arrow_type.value_type, list(chain.from_iterable(values))
