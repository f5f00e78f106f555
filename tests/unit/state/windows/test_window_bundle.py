"""Windows hold and give what a plain dict does, whatever batches are cut and attempts lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.state.columns.folds import Folds
from beam_exactly_once.state.updates import CombineEach
from beam_exactly_once.state.windows.operator import Emit, WindowEach, WindowResult
from beam_exactly_once.state.windows.windows import Windows
from support.timers.windows_in_memory import WindowsInMemory

SUM = CombineEach(beam.CombineFn.from_callable(sum), None, "sum", Folds(("sum",)))
LARGEST = CombineEach(beam.combiners.TopCombineFn(2), None)
FIXED, SLIDING, UNEVEN = Windows(10, 10), Windows(12, 4, 1), Windows(10, 4)


def at(value: tuple[int, int]) -> int:
    return value[0]


def windows(shape: Windows, emit: Emit = "final", combine: CombineEach = SUM) -> WindowsInMemory:
    return WindowsInMemory(WindowEach(combine, shape, lambda value: value, emit))


class Oracle:
    """The same with a dict."""

    def __init__(self, shape: Windows) -> None:
        self.shape = shape
        self.held: dict[tuple[Any, int], list[int]] = defaultdict(list)
        self.closed_ms: int | None = None

    def run(self, pairs: Sequence[tuple[Any, int]], closes_to_ms: int | None) -> tuple[list[WindowResult], list[Any]]:
        late = []
        for key, time_ms in pairs:
            ends = self.shape.of(np.array([time_ms])).ends_ms.tolist()
            ends = [end for end in ends if self.closed_ms is None or end > self.closed_ms]
            if not ends:
                late.append((key, time_ms))
            for end in ends:
                self.held[key, end].append(time_ms)
        self.closed_ms = closes_to_ms
        closing = [one for one in self.held if closes_to_ms is not None and one[1] <= closes_to_ms]
        return [
            WindowResult(key, end - self.shape.size_ms, end, sum(self.held.pop((key, end)))) for key, end in closing
        ], late


PAIR = st.tuples(st.sampled_from(["a", "b", 1, None, ("a", 1)]), st.integers(-30, 120))
BATCH = st.tuples(
    st.lists(PAIR, max_size=12),
    st.one_of(st.none(), st.integers(0, 60)),  # how far it closes beyond the batch before
    st.integers(1, 5),  # shards
    st.booleans(),  # an attempt is lost before it
)


@given(st.sampled_from([FIXED, SLIDING, UNEVEN]), st.lists(BATCH, max_size=8))
@settings(deadline=None, max_examples=60)
def test_windows_close_once_with_all_that_came_in_time(shape: Windows, batches: list[Any]) -> None:
    under_test, oracle = windows(shape), Oracle(shape)
    closed_ms: int | None = None
    for pairs, further_ms, shards, is_lost in batches:
        if further_ms is not None:
            closed_ms = (-20 if closed_ms is None else closed_ms) + further_ms
        if is_lost:
            under_test.attempt(pairs[:3], None if closed_ms is None else closed_ms + 7, shards=shards)
        batch = under_test.run(pairs, closed_ms, shards=shards)
        rows, late = oracle.run(pairs, closed_ms)
        assert sorted(batch.rows, key=repr) == sorted(rows, key=repr)
        assert sorted(batch.late, key=repr) == sorted(late, key=repr)
        assert under_test.state.keys == len(oracle.held)


@given(st.lists(PAIR, max_size=20), st.lists(st.integers(0, 20), max_size=5))
@settings(deadline=None, max_examples=60)
def test_what_windows_give_does_not_depend_on_where_batches_are_cut(pairs: list[Any], cuts: list[int]) -> None:
    """Nothing is late: no window closes before all rows came."""
    given_ = []
    for bounds in ([], sorted(cuts), range(len(pairs))):
        under_test, rows = windows(SLIDING), []
        edges = [0, *(min(cut, len(pairs)) for cut in bounds), len(pairs)]
        for start, stop in pairwise(edges):
            rows += under_test.run(pairs[start:stop], None).rows
        rows += under_test.run([], 500).rows
        given_.append(sorted(rows, key=repr))
    assert given_[0] == given_[1] == given_[2]


def test_a_row_of_the_batch_that_closes_its_window_is_in_it() -> None:
    under_test = windows(FIXED)
    under_test.run([("a", 3)], None)
    closing = under_test.run([("a", 5), ("b", 9), ("a", 12)], 10)
    assert sorted(closing.rows) == [WindowResult("a", 0, 10, 8), WindowResult("b", 0, 10, 9)]
    assert under_test.run([("a", 4)], 10).late == [("a", 4)]
    assert under_test.run([], 20).rows == [WindowResult("a", 10, 20, 12)]
    assert under_test.state.keys == 0


def test_a_row_that_is_late_for_some_windows_counts_in_the_others() -> None:
    under_test = windows(SLIDING)
    under_test.run([], 9)  # of [-11, 1), [-7, 5), [-3, 9) and so on, nothing is taken any more
    batch = under_test.run([("a", 4)], 30)
    assert batch.late == []
    assert sorted(batch.rows) == [WindowResult("a", 1, 13, 4)]


def test_a_window_is_given_again_in_each_batch_that_changes_it_and_not_when_it_closes() -> None:
    under_test = windows(FIXED, "updates")
    assert under_test.run([("a", 3)], None).rows == [WindowResult("a", 0, 10, 3)]
    assert under_test.run([("a", 4)], 5).rows == [WindowResult("a", 0, 10, 7)]
    assert under_test.run([("b", 4)], 10).rows == [WindowResult("b", 0, 10, 4)]
    assert under_test.run([], 50).rows == []
    assert under_test.state.keys == 0


def test_keys_that_python_calls_equal_have_windows_of_their_own() -> None:
    under_test = windows(FIXED)
    rows = [WindowResult(key, 0, 10, 5) for key in (1, True, "1")]
    under_test.run([(one.key, one.value) for one in rows], None)
    assert sorted(map(repr, under_test.run([], 10).rows)) == sorted(map(repr, rows))


def test_a_bound_that_stands_closes_nothing_again() -> None:
    under_test = windows(FIXED)
    under_test.run([("a", 3)], None)
    assert len(under_test.run([], 10).rows) == 1
    assert under_test.run([], 10).rows == []
    assert under_test.run([("a", 3)], 10).late == [("a", 3)]


def test_a_row_from_the_future_is_in_no_window() -> None:
    under_test = windows(FIXED)
    batch = under_test.run([("a", 3), ("a", 1001)], None, latest_ms=1000)
    assert batch.late == [("a", 1001)]
    assert under_test.run([], 10**6).rows == [WindowResult("a", 0, 10, 3)]


def test_any_function_that_combines() -> None:
    under_test = windows(FIXED, combine=LARGEST)
    under_test.run([("a", 1), ("a", 7), ("a", 3)], None)
    assert under_test.run([("a", 5)], 10).rows == [WindowResult("a", 0, 10, [7, 5])]


def test_numbers_that_columns_cannot_hold_are_added_one_by_one() -> None:
    large = WindowEach(SUM, FIXED, lambda value: 3, "final")
    under_test = WindowsInMemory(large)
    under_test.run([("a", 2**62), ("a", 2**62)], None)
    assert under_test.run([("a", 1)], 10).rows == [WindowResult("a", 0, 10, 2**63 + 1)]


def test_what_has_closed_goes_with_time() -> None:
    under_test = windows(FIXED)
    for number in range(60):
        under_test.run([(key, 10 * number) for key in range(50)], 10 * number)
    assert under_test.state.keys == 50
    assert sum(section.rows for section in under_test.state.sections) < 12 * 50


def test_a_row_without_a_time_is_refused() -> None:
    under_test = windows(FIXED)
    with pytest.raises(UnfitRow, match="windows"):
        under_test.run([("a", None)], None)
