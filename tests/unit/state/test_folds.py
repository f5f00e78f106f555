"""What is computed by columns is what a ``CombineFn`` gives, value by value: results, states, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.state.definition import refuse_changed_state
from beam_exactly_once.state.updates import CombineEach
from beam_exactly_once.transforms.stateful.by_key import StatefulCombinePerKey
from support.simulation.operator_batches import OperatorBatches

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=25)

INT64 = 1 << 63
FUNCTIONS = [sum, min, max, len, beam.combiners.CountCombineFn(), beam.combiners.MeanCombineFn()]
SMALL = st.integers(-9, 9)
LARGE = st.sampled_from([INT64 - 1, -INT64, INT64, INT64 // 2, -INT64 // 2, 0, 7])
EIGHTHS = st.integers(-100, 100).map(lambda number: number / 8)
ODD = st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 0.0, 1e308, 1.5])
VALUES = st.sampled_from([SMALL, LARGE, EIGHTHS, ODD, SMALL | EIGHTHS, st.booleans() | SMALL])
PARTS = VALUES.flatmap(lambda values: st.lists(st.tuples(st.sampled_from("abcd"), values), min_size=1, max_size=12))
BATCHES = st.lists(st.lists(PARTS, min_size=1, max_size=3), min_size=1, max_size=4)


def update_of(fn: Any, **more: Any) -> CombineEach:
    update = StatefulCombinePerKey(fn, **more)._update()
    assert isinstance(update, CombineEach)
    return update


def value_by_value(fn: Any) -> CombineEach:
    return replace(update_of(fn), folds=None)


def gathered(pairs: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [key for key, _ in pairs], [value for _, value in pairs]


def shown(emitted: list[tuple[Any, Any]]) -> list[tuple[Any, str, Any]]:
    """With types, and NaN equal to itself."""
    return sorted((key, type(value).__name__, "nan" if value != value else value) for key, value in emitted)


@pytest.mark.parametrize("fn", FUNCTIONS, ids=["sum", "min", "max", "len", "count", "mean"])
@repeatable
@given(BATCHES, st.data())
def test_by_columns_and_value_by_value_are_one(
    fn: Any, batches: list[list[list[tuple[Any, Any]]]], data: st.DataObject
) -> None:
    mixed, by_value = OperatorBatches(update_of(fn)), OperatorBatches(value_by_value(fn))
    for batch in batches:
        mixed.update = data.draw(st.sampled_from([update_of(fn), value_by_value(fn)]))
        parts = [gathered(part) for part in batch]
        assert shown(mixed.run(*parts)) == shown(by_value.run(*parts))
    assert mixed.list.keys == by_value.list.keys


def test_sums_go_on_beyond_64_bits() -> None:
    operator = OperatorBatches(update_of(sum))
    operator.run((["a", "a"], [INT64 - 1, -5]))
    assert operator.run((["a"], [INT64 - 1])) == [("a", 2 * INT64 - 7)]
    assert operator.run((["a"], [1])) == [("a", 2 * INT64 - 6)]


def test_numbers_of_two_types_go_value_by_value() -> None:
    operator = OperatorBatches(update_of(sum))
    operator.run((["a", "b"], [1, 2]))
    assert sorted(operator.run((["a"], [0.5]), (["a", "b"], [3, 4]))) == [("a", 4.5), ("b", 6)]


def test_a_key_that_expired_begins_anew() -> None:
    operator = OperatorBatches(update_of(sum, ttl_s=1))
    operator.run((["a", "b"], [1, 2]), now_ms=1000)
    assert operator.run((["a"], [3]), now_ms=1999) == [("a", 4)]
    assert sorted(operator.run((["a", "b"], [5, 6]), now_ms=2500)) == [("a", 9), ("b", 6)]


def test_sum_is_not_taken_for_max() -> None:
    stored = update_of(sum).state_type.to_definition()
    with pytest.raises(Exception, match="its CombineFn was sum, and is max"):
        refuse_changed_state("counts", [stored], update_of(max).state_type)


# -- batches of Arrow ------------------------------------------------------------------------------------------------

ALL = {"amount": sum, "least": min, "most": max, "orders": len, "mean": beam.combiners.MeanCombineFn()}


def orders(rows: list[tuple[str | None, int, Any]], kind: pa.DataType) -> pa.RecordBatch:
    names, regions, amounts = zip(*rows, strict=True)
    column = pa.array(amounts, kind)
    return pa.RecordBatch.from_arrays(
        [pa.array(names, pa.string()), pa.array(regions, pa.int16()), *[column] * 5],
        names=["name", "region", *ALL],
    )


ROWS = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 2), SMALL), min_size=1, max_size=12)


@repeatable
@given(st.lists(st.lists(ROWS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_columns_of_batches_are_combined_as_values_of_pairs_are(
    batches: list[list[list[tuple[str | None, int, Any]]]],
) -> None:
    operator = OperatorBatches(update_of(ALL, key_columns=["name", "region"]))
    by_value = {name: OperatorBatches(value_by_value(fn)) for name, fn in ALL.items()}
    for batch in batches:
        emitted = operator.run(*(orders(part, pa.int32()) for part in batch))
        rows = [row for one in emitted for row in one.to_pylist()]
        for name, alone in by_value.items():
            expected = alone.run(*(gathered([((key, region), n) for key, region, n in part]) for part in batch))
            assert sorted([((row["name"], row["region"]), row[name]) for row in rows], key=repr) == sorted(
                expected, key=repr
            )
        assert {one.schema.field("region").type for one in emitted} == {pa.int16()}


def test_a_key_of_one_column_and_floats() -> None:
    operator = OperatorBatches(update_of({"paid": sum}, key_columns=["who"]))
    keys = pa.array(["a", "b", "a"]).dictionary_encode()
    batch = pa.record_batch({"who": keys, "paid": pa.array([0.5, 1, 2], pa.float32()), "more": pa.array([1, 2, 3])})
    operator.run(batch)
    (emitted,) = operator.run(batch.slice(0, 1))
    assert emitted.to_pylist() == [{"who": "a", "paid": 3.0}]
    assert emitted.schema.field("who").type == pa.string()
    assert emitted.schema.field("paid").type == pa.float64()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"who": ["a"], "other": [1]}, "has not exactly one column 'paid'"),
        ({"who": ["a"], "paid": ["1"]}, "'paid' is of type string, and sum takes integers and floats"),
        ({"who": ["a", "a"], "paid": [1, None]}, "'paid' has 1 nulls, and sum takes none"),
        ({"who": [0.5], "paid": [1]}, "'who' is of type double, which a key is not made of"),
        ({"who": ["a", "a"], "paid": [INT64 - 1, 1]}, "'paid' has more digits than its type holds"),
    ],
)
def test_what_a_column_cannot_be_is_refused(batch: dict[str, list[Any]], message: str) -> None:
    operator = OperatorBatches(update_of({"paid": sum}, key_columns=["who"]))
    with pytest.raises(UnfitRow, match=message):
        operator.run(pa.record_batch(batch))


@pytest.mark.parametrize("types", [(pa.int16(), pa.int64()), (pa.null(), pa.int64())], ids=str)
def test_a_key_column_of_two_types_in_one_batch_is_refused(types: tuple[pa.DataType, pa.DataType]) -> None:
    operator = OperatorBatches(update_of({"paid": sum}, key_columns=["who"]), shards=1)
    parts = [pa.record_batch({"who": pa.array([None, None], kind), "paid": [1, 2]}) for kind in types]
    with pytest.raises(UnfitRow, match=r"key column 'who' is of type \w+ in one batch and of type int64 in another"):
        operator.run(*parts)


def test_ints_of_one_batch_and_floats_of_another() -> None:
    operator = OperatorBatches(update_of({"paid": max}, key_columns=["who"]), shards=1)
    floats = pa.record_batch({"who": ["b"], "paid": [0.5]})
    (emitted,) = operator.run(pa.record_batch({"who": ["a"], "paid": [2**53]}), floats)
    assert sorted(emitted.to_pylist(), key=repr) == [{"who": "a", "paid": 2.0**53}, {"who": "b", "paid": 0.5}]
    with pytest.raises(UnfitRow, match="'paid' has more digits than its type holds"):
        operator.run(pa.record_batch({"who": ["a"], "paid": [2**53 + 1]}), floats)


def test_pairs_are_no_batches() -> None:
    with pytest.raises(UnfitRow, match=r"so it takes a pyarrow\.RecordBatch, and got a tuple"):
        OperatorBatches(update_of({"paid": sum}, key_columns=["who"])).run(("a", 1))


@pytest.mark.parametrize(
    ("fn", "keys", "message"),
    [
        ({"paid": sum}, [], "name at least one column of each"),
        ({}, ["who"], "name at least one column of each"),
        ({"who": sum}, ["who"], "none twice"),
        ({"paid": sorted}, ["who"], "of column 'paid' is not a function that StatefulCombinePerKey knows by columns"),
        (sum, ["who"], "is for batches of Arrow: give a mapping"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(fn: Any, keys: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        StatefulCombinePerKey(fn, key_columns=keys)
