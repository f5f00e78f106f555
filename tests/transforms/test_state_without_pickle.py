"""Beam's own CombineFns and coders: what they keep is stored between batches without pickle, or refused by name."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from apache_beam.coders import coders, registry
from apache_beam.transforms import combiners, stats
from apache_beam.transforms.core import CombineFn
from apache_beam.utils.timestamp import Timestamp

from beam_exactly_once import CoderState
from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.state.types import AccumulatorState

BATCHES: list[list[Any]] = [[3, 1, 2], [], [5], [4, 4]]
PAIRS = [[(str(number), number) for number in batch] for batch in BATCHES]
EVERYTHING = 100
"""A sample of so many has all there are, so it is the same whatever chance says."""


class Own:
    """A class for which Beam has no coder, but the one that pickles."""


def accumulated(fn: CombineFn, accumulator: Any, batch: list[Any]) -> Any:
    return fn.compact(fn.merge_accumulators([accumulator, fn.add_inputs(fn.create_accumulator(), batch)]))


def stored_between(fn: CombineFn, batches: list[list[Any]]) -> Any:
    """The result over all batches, with the accumulator stored behind each."""
    state = AccumulatorState(type(fn).__name__)
    accumulator = fn.compact(fn.create_accumulator())
    for batch in batches:
        column = state.encode([accumulated(fn, accumulator, batch)], operator="counts").column
        (accumulator,) = state.decode(column, np.ones(1, np.uint8), operator="counts")
    return fn.extract_output(accumulator)


def at_once(fn: CombineFn, batches: list[list[Any]]) -> Any:
    inputs = [value for batch in batches for value in batch]
    return fn.extract_output(fn.add_inputs(fn.create_accumulator(), inputs))


@pytest.mark.parametrize(
    "make",
    [
        combiners.CountCombineFn,
        combiners.MeanCombineFn,
        lambda: combiners.TopCombineFn(3),
        lambda: combiners.TopCombineFn(3, key=operator.neg, reverse=True),
        lambda: combiners.Smallest(2),
        combiners.ToListCombineFn,
        combiners.ToSetCombineFn,
        lambda: CombineFn.maybe_from_callable(sum),
        lambda: CombineFn.maybe_from_callable(max),
        lambda: CombineFn.maybe_from_callable(min),
        lambda: combiners.SingleInputTupleCombineFn(combiners.MeanCombineFn(), sum, max, combiners.ToListCombineFn()),
    ],
    ids=["count", "mean", "top", "top by key", "smallest", "list", "set", "sum", "max", "min", "tuple"],
)
def test_what_a_combine_fn_keeps_comes_back(make: Callable[[], CombineFn]) -> None:
    assert stored_between(make(), BATCHES) == at_once(make(), BATCHES)


def test_pairs_and_tuples_come_back() -> None:
    assert stored_between(combiners.ToDictCombineFn(), PAIRS) == at_once(combiners.ToDictCombineFn(), PAIRS)

    def both() -> CombineFn:
        return combiners.TupleCombineFn(max, combiners.MeanCombineFn())

    assert stored_between(both(), PAIRS) == at_once(both(), PAIRS)


def test_a_sample_comes_back() -> None:
    random.seed(7)
    assert sorted(stored_between(combiners.SampleCombineFn(EVERYTHING), BATCHES)) == [1, 2, 3, 4, 4, 5]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (combiners.LatestCombineFn, "Timestamp"),
        (lambda: stats.ApproximateUniqueCombineFn(16, coders.VarIntCoder()), "_LargestUnique"),
        (lambda: stats.ApproximateQuantilesCombineFn.create(3), "_QuantileState"),
    ],
    ids=["Latest", "ApproximateUnique", "ApproximateQuantiles"],
)
def test_a_combine_fn_that_keeps_objects_is_refused_by_name(make: Callable[[], CombineFn], named: str) -> None:
    fn = make()
    values = [(1, Timestamp(5))] if named == "Timestamp" else [1, 2]
    with pytest.raises(UnfitRow, match=f"operator 'counts': a state of type {named} cannot be stored") as refused:
        stored_between(fn, [values])
    assert type(fn).__name__ in str(refused.value)


BEAMS_OWN = [
    coders.VarIntCoder(),
    coders.TupleCoder((coders.StrUtf8Coder(), coders.NullableCoder(coders.BytesCoder()))),
    coders.ListCoder(coders.TimestampCoder()),
    coders.DeterministicMapCoder(coders.StrUtf8Coder(), coders.DecimalCoder()),
]


@pytest.mark.parametrize(
    ("coder", "value"),
    list(zip(BEAMS_OWN, [5, ("a", None), [Timestamp(5)], {"a": Decimal("1.50")}], strict=True)),
    ids=lambda value: type(value).__name__,
)
def test_state_goes_through_beams_coders_of_exact_types(coder: coders.Coder, value: Any) -> None:
    column, kept = CoderState(coder).encode([value], operator="counts")
    assert kept == CoderState(coder).decode(column, np.ones(1, np.uint8), operator="counts") == [value]


@pytest.mark.parametrize(
    "coder",
    [
        coders.FastPrimitivesCoder(),
        coders.FastPrimitivesCoder().as_deterministic_coder("step"),
        coders.PickleCoder(),
        coders.CloudpickleCoder(),
        coders.TupleCoder((coders.VarIntCoder(), coders.FastPrimitivesCoder())),
        coders.DeterministicMapCoder(
            coders.StrUtf8Coder(), coders.FastPrimitivesCoder().as_deterministic_coder("step")
        ),
        coders.LengthPrefixCoder(coders.VarIntCoder()),
        registry.get_coder(Any),
        registry.get_coder(Own),
    ],
    ids=repr,
)
def test_beams_coders_that_may_pickle_are_refused(coder: coders.Coder) -> None:
    with pytest.raises(ConfigurationError, match="is not one of the coders of Beam that never pickle"):
        CoderState(coder)
