"""An accumulator comes back with its exact types, or is refused by the name of its type. Pickle is never in it."""

from __future__ import annotations

import collections
import datetime
import enum
import fractions
import math
import pickle
import pickletools
import struct
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import PipelineChanged, UnfitRow
from beam_exactly_once.state import tagged
from beam_exactly_once.state.definition import refuse_changed_state
from beam_exactly_once.state.types import VALUE_MAX_BYTES, AccumulatorState

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=60)

UTC = datetime.timezone.utc
STATE = AccumulatorState("Mean")

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 3)
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes().map(lambda moment: moment.replace(fold=0))
    | st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(fold=0))
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2).map(tuple) | st.frozensets(inner, max_size=2), max_leaves=3
)


def holders(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=3)
    return lists | lists.map(tuple) | st.dictionaries(HASHABLE, inner, max_size=2) | st.sets(HASHABLE, max_size=2)


ACCUMULATORS = st.recursive(HASHABLE, holders, max_leaves=5)
NUMBERS = st.sampled_from([st.integers(), st.integers(-3, 3), st.floats(), st.booleans(), st.text(max_size=2)])
SHAPES = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda items: st.tuples(*items)), max_leaves=4
)


def typed(value: Any) -> Any:
    """With types, and NaN as its bits, so that what is the same is equal. Sets have no order."""
    if type(value) in (tuple, list):
        return type(value), [typed(item) for item in value]
    if type(value) is dict:
        return dict, [(typed(key), typed(item)) for key, item in value.items()]
    if type(value) in (set, frozenset):
        return type(value), sorted(repr(typed(item)) for item in value)
    return type(value), struct.pack("<d", value) if type(value) is float else repr(value)


def read_back(accumulators: list[Any]) -> list[Any]:
    column, kept = STATE.encode(accumulators, operator="counts")
    assert column.type == STATE.arrow_type
    assert all(one is other for one, other in zip(kept, accumulators, strict=True))
    return STATE.decode(column, np.ones(len(accumulators), np.uint8), operator="counts")


@repeatable
@given(st.lists(ACCUMULATORS, max_size=3))
def test_an_accumulator_comes_back_with_its_types(accumulators: list[Any]) -> None:
    assert typed(read_back(accumulators)) == typed(accumulators)


@repeatable
@given(SHAPES.flatmap(lambda shape: st.lists(shape, max_size=4)))
def test_accumulators_of_one_shape_have_the_bytes_of_each(accumulators: list[Any]) -> None:
    column = tagged.encode_column(accumulators, tagged.PLAIN)
    assert column.to_pylist() == [tagged.encode(one, tagged.PLAIN) for one in accumulators]
    assert typed(tagged.decode_column(column)) == typed(accumulators)
    as_lists = [list(one) for one in accumulators if type(one) is tuple]
    assert typed(read_back(as_lists)) == typed(as_lists)


VECTORS: list[tuple[Any, str]] = [
    (1.5, "64000000000000f83f"),
    (-0.0, "640000000000000080"),
    (Decimal("1.50"), "44312e3530"),
    (datetime.date(2026, 1, 31), "59323032362d30312d3331"),
    (datetime.datetime(2026, 1, 31, 1, 2, 3, tzinfo=UTC), "4d" + b"2026-01-31T01:02:03+00:00".hex()),
    ([True], "6c01000000" "01000000" "54"),
    ({"a": None}, "6d02000000" "02000000" "01000000" "7361" "6e"),
    ({"b", "a"}, "5302000000" "02000000" "02000000" "7361" "7362"),
    (frozenset(), "5a00000000"),
    ((1.5, 2), "7402000000" "09000000" "09000000" "64000000000000f83f" "690200000000000000"),
]  # fmt: skip


@pytest.mark.parametrize(("accumulator", "stored"), VECTORS)
def test_the_bytes_of_an_accumulator_never_change(accumulator: Any, stored: str) -> None:
    (encoded,) = STATE.encode([accumulator], operator="counts").column.to_pylist()
    assert encoded.hex() == stored
    assert typed(read_back([accumulator])) == typed([accumulator])


@pytest.mark.parametrize("items", [{1, 2, 3}, frozenset({"a", "b", "c"})])
def test_equal_sets_have_equal_bytes(items: Any) -> None:
    other = type(items)(sorted(items, reverse=True))
    assert tagged.encode(items, tagged.PLAIN) == tagged.encode(other, tagged.PLAIN)


class Point(NamedTuple):
    x: int


class Level(enum.IntEnum):
    LOW = 1


class Own:
    def __reduce__(self) -> Any:
        raise AssertionError("pickled")


@pytest.mark.parametrize(
    ("accumulator", "named"),
    [
        (Own(), "Own"),
        ([Own()], "Own"),
        ((1, {"hidden": [Own()]}), "Own"),
        (Point(1), "Point"),
        (Level.LOW, "Level"),
        (np.float64(1.5), "float64"),
        (np.int64(1), "int64"),
        (collections.Counter("hidden"), "Counter"),
        (collections.deque("hidden"), "deque"),
        (fractions.Fraction(1, 3), "Fraction"),
        (1j, "complex"),
        (bytearray(b"hidden"), "bytearray"),
        (datetime.datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")), "datetime"),
        (datetime.datetime(2026, 1, 1, fold=1), "datetime"),
        (datetime.timedelta(1), "timedelta"),
        ("hidden\ud800", "str"),
        (len, "builtin_function_or_method"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_need_pickle_is_refused_by_operator_and_type(accumulator: Any, named: str) -> None:
    for accumulators in ([accumulator], [1, accumulator], [(1, accumulator), (2, accumulator)], [[accumulator]]):
        with pytest.raises(UnfitRow) as refused:
            STATE.encode(accumulators, operator="counts")
        assert str(refused.value).startswith(f"operator 'counts': a state of type {named} cannot be stored: ")
        assert "compact()" in str(refused.value)
        assert "hidden" not in str(refused.value)


def test_an_accumulator_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UnfitRow, match="more than 64 levels, or holds itself"):
        STATE.encode([endless], operator="counts")


def test_a_large_accumulator_is_refused() -> None:
    assert STATE.encode([b"x" * (VALUE_MAX_BYTES - 1)], operator="counts").column.nbytes > VALUE_MAX_BYTES
    with pytest.raises(UnfitRow, match=f"operator 'counts': the state of one key has {VALUE_MAX_BYTES + 1} bytes"):
        STATE.encode([b"x", b"x" * VALUE_MAX_BYTES], operator="counts")


def test_bytes_of_pickle_are_no_accumulator() -> None:
    for value in (1, [1], Point):
        data = pickle.dumps(value)
        assert list(pickletools.genops(data))
        with pytest.raises(ValueError, match="are no value"):
            tagged.decode(data)


def test_another_combine_fn_or_a_newer_library_is_refused() -> None:
    refuse_changed_state("counts", [STATE.to_definition()], AccumulatorState("Mean"))
    with pytest.raises(PipelineChanged, match="its CombineFn was Mean, and is Top"):
        refuse_changed_state("counts", [STATE.to_definition()], AccumulatorState("Top"))
    with pytest.raises(PipelineChanged, match="accumulators have version 2, and this library knows 1"):
        STATE.decode(pa.array([b"n"], pa.large_binary()), np.array([2], np.uint8), operator="counts")


def test_nan_comes_back_as_nan() -> None:
    (number, (total, count)) = read_back([math.nan, (math.nan, 2)])
    assert (math.isnan(number), math.isnan(total), count) == (True, True, 2)
