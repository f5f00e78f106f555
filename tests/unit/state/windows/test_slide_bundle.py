"""Windows that share slides give and hold what a plain dict does, with an inverse and without."""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.state.windows.operator import WindowResult
from beam_exactly_once.state.windows.slide_bundle import SlideBundle
from beam_exactly_once.state.windows.slides import SlideEach
from beam_exactly_once.state.windows.windows import Windows
from support.timers.windows_in_memory import Batch, WindowsInMemory

FIVE, ONE = Windows(20, 4, 1), Windows(6, 6)
WAYS = (operator.sub, None)


def time_of(value: tuple[int, Any]) -> int:
    return value[0]


def add(one: tuple[int, Any], other: tuple[int, Any]) -> tuple[int, Any]:
    """Pairs of time and number: the time is that of any of them, since an inverse cannot know it."""
    return 0, one[1] + other[1]


def subtract(total: tuple[int, Any], one: tuple[int, Any]) -> tuple[int, Any]:
    return 0, total[1] - one[1]


def of_pairs(shape: Windows, *, inverse: bool) -> WindowsInMemory:
    return WindowsInMemory(SlideEach(add, subtract if inverse else None, shape, time_of), bundle=SlideBundle)


def numbers(batch: Batch) -> list[WindowResult]:
    return [row._replace(value=row.value[1]) for row in batch.rows]


class Oracle:
    """The same with a dict of all rows that are in time."""

    def __init__(self, shape: Windows) -> None:
        self.shape = shape
        self.rows: dict[Any, list[tuple[int, Any]]] = defaultdict(list)
        self.closed_ms: int | None = None

    def run(self, pairs: Sequence[tuple[Any, Any]], closes_to_ms: int | None) -> tuple[list[Any], list[Any]]:
        size_ms, period_ms, offset_ms = self.shape.size_ms, self.shape.period_ms, self.shape.offset_ms
        late, given_ = [], []
        for key, value in pairs:
            last_end_ms = (value[0] - offset_ms) // period_ms * period_ms + offset_ms + size_ms
            if self.closed_ms is not None and last_end_ms <= self.closed_ms:
                late.append((key, value))
            else:
                self.rows[key].append(value)
        if closes_to_ms is not None:
            first_ms = -1000 + offset_ms if self.closed_ms is None else self.closed_ms + 1
            ends = [end for end in range(first_ms, closes_to_ms + 1) if (end - offset_ms) % period_ms == 0]
            for end_ms in ends:
                for key, rows in self.rows.items():
                    inside = [number for at_ms, number in rows if end_ms - size_ms <= at_ms < end_ms]
                    if inside:
                        given_.append(WindowResult(key, end_ms - size_ms, end_ms, sum(inside)))
            self.closed_ms = closes_to_ms
        return given_, late

    @property
    def slides(self) -> int:
        """How many are to be remembered."""
        period_ms, offset_ms = self.shape.period_ms, self.shape.offset_ms
        ends = {
            (key, (at_ms - offset_ms) // period_ms * period_ms + offset_ms + period_ms)
            for key, rows in self.rows.items()
            for at_ms, _ in rows
        }
        stays_ms = self.shape.size_ms - period_ms
        return sum(self.closed_ms is None or end_ms + stays_ms > self.closed_ms for _, end_ms in ends)


def in_order(rows: Sequence[Any]) -> list[Any]:
    return sorted(rows, key=repr)


KEYS = ["a", "b", 1, None, ("a", 1)]
PAIR = st.tuples(st.sampled_from(KEYS), st.tuples(st.integers(-30, 120), st.integers(-5, 5)))
BATCH = st.tuples(
    st.lists(PAIR, max_size=12),
    st.one_of(st.none(), st.integers(0, 3), st.integers(0, 60)),  # how far it closes beyond the batch before
    st.integers(1, 5),  # shards
    st.booleans(),  # an attempt is lost before it
)


@given(st.sampled_from([FIVE, ONE]), st.lists(BATCH, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
@settings(deadline=None, max_examples=40)
def test_windows_give_all_keys_that_they_have_at_each_slide(
    shape: Windows, batches: list[Any], ways: list[bool]
) -> None:
    """Whatever batches are cut and attempts lost, and also where an inverse comes and goes from start to start."""
    under_test, oracle = of_pairs(shape, inverse=True), Oracle(shape)
    closed_ms: int | None = None
    for (pairs, further_ms, shards, is_lost), inverse in zip(batches, ways, strict=False):
        under_test.operator = SlideEach(add, subtract if inverse else None, shape, time_of)
        if further_ms is not None:
            closed_ms = (-20 if closed_ms is None else closed_ms) + further_ms
        if is_lost:
            under_test.attempt(pairs[:3], None if closed_ms is None else closed_ms + 7, shards=shards)
        batch = under_test.run(pairs, closed_ms, shards=shards)
        rows, late = oracle.run(pairs, closed_ms)
        assert in_order(numbers(batch)) == in_order(rows)
        assert in_order(batch.late) == in_order(late)
        assert under_test.state.keys == oracle.slides


@given(st.lists(PAIR, max_size=20), st.lists(st.integers(0, 20), max_size=5), st.booleans())
@settings(deadline=None, max_examples=20)
def test_what_windows_give_does_not_depend_on_where_batches_are_cut(
    pairs: list[Any], cuts: list[int], inverse: bool
) -> None:
    """Rows come in order, and each batch closes up to its last one: so nothing is late, however many slides that passes."""
    pairs = sorted(pairs, key=lambda pair: pair[1])
    given_ = []
    for bounds in ([], sorted(cuts), range(len(pairs))):
        under_test, rows = of_pairs(FIVE, inverse=inverse), []
        edges = [0, *(min(cut, len(pairs)) for cut in bounds), len(pairs)]
        for start, stop in pairwise(edges):
            part = pairs[start:stop]
            batch = under_test.run(part, part[-1][1][0] if part else under_test.state.fired_ms)
            assert batch.late == []
            rows += numbers(batch)
        rows += numbers(under_test.run([], 500))
        assert under_test.state.keys == 0
        given_.append(in_order(rows))
    assert given_[0] == given_[1] == given_[2]


# -- one number a row, all at times that the test says ---------------------------------------------------------------


class Floats:
    """Rows of one key whose values are what is added, and whose times stand beside them."""

    def __init__(self, inverse: Callable[[Any, Any], Any] | None) -> None:
        self.times_ms: list[int] = []
        self.under_test = WindowsInMemory(SlideEach(operator.add, inverse, FIVE, self._time), bundle=SlideBundle)

    def _time(self, value: Any) -> int:
        return self.times_ms.pop(0)

    def run(self, rows: Sequence[tuple[int, Any]], closes_to_ms: int) -> dict[int, Any]:
        """The result of each window, by its end."""
        every = [*rows[::2], *rows[1::2]]  # as the two bundles ask for them
        self.times_ms = [at_ms for at_ms, _ in every]
        batch = self.under_test.run([("a", value) for _, value in rows], closes_to_ms)
        return {row.window_end_ms: row.value for row in batch.rows}


@pytest.mark.parametrize("inverse", WAYS)
def test_an_infinity_goes_with_its_slide(inverse: Any) -> None:
    one = Floats(inverse)
    assert one.run([(2, math.inf), (6, 1.0)], 5) == {5: math.inf}
    given_ = one.run([], 30)
    assert given_ == {9: math.inf, 13: math.inf, 17: math.inf, 21: math.inf, 25: 1.0}


@pytest.mark.parametrize("inverse", WAYS)
def test_floats_give_what_they_give_when_they_are_added_anew(inverse: Any) -> None:
    """By the inverse, 1e16 + 1 - 1e16 would be 0."""
    one = Floats(inverse)
    assert one.run([(2, 1e16)], 5) == {5: 1e16}
    assert one.run([(6, 1.0)], 21)[21] == 1e16
    assert one.run([(22, 2)], 25) == {25: 3.0}
    assert one.run([], 40) == {29: 2, 33: 2, 37: 2}


def test_whole_numbers_go_by_the_inverse_alone() -> None:
    """As soon as floats have left, and however many slides a batch passes."""
    calls: list[tuple[Any, Any]] = []

    def counted(one: Any, other: Any) -> Any:
        calls.append((one, other))
        return one + other

    one = Floats(operator.sub)
    one.under_test.operator = SlideEach(counted, operator.sub, FIVE, one._time)
    one.run([(at_ms, 1) for at_ms in range(1, 400, 4)], 301)
    assert len(calls) == 74
    calls.clear()
    assert one.run([(402, 0.5)], 421)[421] == 0.5
    calls.clear()
    one.run([(at_ms, 1) for at_ms in range(501, 600, 4)], 541)
    assert len(calls) == 9


def test_a_row_that_some_windows_have_missed_counts_in_the_others() -> None:
    under_test = of_pairs(FIVE, inverse=True)
    under_test.run([("a", (2, 1))], 9)
    batch = under_test.run([("a", (2, 10)), ("b", (6, 5)), ("c", (-12, 1))], 10)
    assert (batch.rows, batch.late) == ([], [("c", (-12, 1))])
    rows = numbers(under_test.run([], 25))
    of_a = {row.window_end_ms: row.value for row in rows if row.key == "a"}
    of_b = {row.window_end_ms: row.value for row in rows if row.key == "b"}
    assert (of_a, of_b) == ({13: 11, 17: 11, 21: 11}, {13: 5, 17: 5, 21: 5, 25: 5})


def test_long_after_its_last_row_a_key_is_gone_and_a_batch_far_ahead_costs_nothing() -> None:
    under_test = of_pairs(FIVE, inverse=True)
    under_test.run([("a", (2, 1))], 5)
    rows = numbers(under_test.run([("a", (10**12, 7))], 10**12 + 3))
    assert [row.window_end_ms for row in rows] == [9, 13, 17, 21, 10**12 + 1]
    assert rows[-1].value == 7
    assert under_test.state.next_due_ms == 10**12 + 5


def test_the_next_slide_end_is_said_while_a_window_has_anything() -> None:
    under_test = of_pairs(FIVE, inverse=True)
    assert under_test.run([("a", (14, 1))], None).state.next_due_ms == 17
    assert under_test.run([], 16).state.next_due_ms == 17
    assert under_test.run([], 18).state.next_due_ms == 21
    assert under_test.run([], 40).state.next_due_ms is None


def test_state_does_not_grow_with_time() -> None:
    under_test = of_pairs(FIVE, inverse=True)
    for number in range(30):
        under_test.run([(key, (4 * number + 1, 1)) for key in range(20)], 4 * number)
    assert under_test.state.keys == 20 * 6
    assert sum(section.rows for section in under_test.state.sections) < 20 * 20


def test_what_the_function_makes_is_given_as_it_is() -> None:
    """Also what has no order and no inverse."""
    under_test = WindowsInMemory(SlideEach(operator.or_, None, FIVE, lambda value: max(value)), bundle=SlideBundle)
    under_test.run([("a", frozenset({2})), ("a", frozenset({6})), ("a", frozenset({3}))], None)
    batch = under_test.run([], 9)
    assert [row.value for row in batch.rows] == [frozenset({2, 3}), frozenset({2, 3, 6})]
    assert reduce(operator.or_, [row.value for row in under_test.run([], 25).rows]) == frozenset({2, 3, 6})
