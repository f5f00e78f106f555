"""Joins hold and give what plain lists do, whatever batches are cut and attempts lost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.state.joins import bundle
from beam_exactly_once.state.joins.interval import Interval
from beam_exactly_once.state.joins.operator import How, JoinEach
from support.timers.joins_in_memory import JoinsInMemory

Row = tuple[int, int]
"""When it happened, and its number."""


def at_ms(row: Row) -> int:
    return row[0]


def join(before_ms: int, after_ms: int, how: How = "inner", **memory: Any) -> JoinsInMemory:
    return JoinsInMemory(JoinEach(Interval(before_ms, after_ms), how, (at_ms, at_ms)), **memory)


def in_order(rows: Sequence[Any]) -> list[Any]:
    return sorted(rows, key=repr)


class Oracle:
    """The same with lists, row by row."""

    def __init__(self, before_ms: int, after_ms: int, how: How) -> None:
        self.before_ms, self.after_ms = before_ms, after_ms
        self.alone = {"inner": (), "left": (0,), "right": (1,), "full": (0, 1)}[how]
        self.held: list[list[tuple[Any, Row]]] = [[], []]
        self.matched: set[tuple[int, Any, Row]] = set()
        self.late_ms: list[int | None] = [None, None]

    def run(
        self, sides: Sequence[Sequence[tuple[Any, Row]]], bounds: Sequence[int | None]
    ) -> tuple[list[Any], list[Any]]:
        rows, late = [], []
        for side, pairs in enumerate(sides):
            limit_ms = self.late_ms[side]
            for pair in pairs:
                if limit_ms is not None and pair[1][0] < limit_ms:
                    late.append(pair)
                    continue
                for other in self.held[1 - side]:
                    left, right = (pair, other) if side == 0 else (other, pair)
                    if repr(left[0]) == repr(right[0]) and -self.before_ms <= right[1][0] - left[1][0] <= self.after_ms:
                        rows.append((left[0], (left[1], right[1])))
                        self.matched |= {(0, repr(left[0]), left[1]), (1, repr(left[0]), right[1])}
                self.held[side].append(pair)
        self.late_ms = list(bounds)
        if None not in bounds:
            for side, reach_ms in enumerate((self.after_ms, self.before_ms)):
                gone = [pair for pair in self.held[side] if pair[1][0] + reach_ms < min(bounds)]  # type: ignore[type-var]
                self.held[side] = [pair for pair in self.held[side] if pair not in gone]
                for key, row in gone:
                    if side in self.alone and (side, repr(key), row) not in self.matched:
                        rows.append((key, (row, None) if side == 0 else (None, row)))
        return rows, late


HOW = st.sampled_from(["inner", "left", "right", "full"])
PAIR = st.tuples(st.sampled_from(["a", "b", 1, True, None]), st.integers(-20, 60))
BATCH = st.tuples(
    st.lists(PAIR, max_size=8),
    st.lists(PAIR, max_size=8),
    st.one_of(st.none(), st.integers(0, 40)),  # how far the time of the left side comes
    st.one_of(st.none(), st.integers(0, 40)),  # and that of the right
    st.integers(1, 3),  # shards
    st.booleans(),  # an attempt is lost before it
)


def numbered(pairs: Sequence[tuple[Any, int]], first: int) -> list[tuple[Any, Row]]:
    return [(key, (time_ms, first + number)) for number, (key, time_ms) in enumerate(pairs)]


@given(HOW, st.integers(0, 15), st.integers(0, 15), st.lists(BATCH, min_size=2, max_size=6))
@settings(deadline=None, max_examples=40)
def test_each_pair_is_given_once_and_each_row_alone_once(
    how: How, before_ms: int, after_ms: int, batches: list[Any]
) -> None:
    under_test, oracle = join(before_ms, after_ms, how), Oracle(before_ms, after_ms, how)
    bounds: list[int | None] = [None, None]
    for number, (left, right, *further, shards, is_lost) in enumerate(batches):
        sides = numbered(left, 100 * number), numbered(right, 100 * number)
        for side, more_ms in enumerate(further):
            if more_ms is not None:
                bounds[side] = (-20 if (before := bounds[side]) is None else before) + more_ms
        if is_lost:
            lost = [None if one is None else one + 7 for one in bounds]
            under_test.attempt(sides[0][:3], sides[1][1:], type(under_test.bounds)(*lost), shards=shards)
        batch = under_test.run(*sides, *bounds, shards=shards)
        rows, late = oracle.run(sides, bounds)
        assert in_order(batch.rows) == in_order(rows)
        assert in_order(batch.late) == in_order(late)


@given(HOW, st.lists(PAIR, max_size=8), st.lists(PAIR, max_size=8), st.lists(st.integers(0, 8), max_size=3))
@settings(deadline=None, max_examples=15)
def test_what_a_join_gives_does_not_depend_on_where_batches_are_cut(
    how: How, left: list[Any], right: list[Any], cuts: list[int]
) -> None:
    """Nothing is late: the time of both sides is that of what is still to come."""
    sides = [sorted(numbered(side, 0), key=lambda pair: at_ms(pair[1])) for side in (left, right)]
    given_ = []
    for bounds in ([], sorted(cuts), range(8)):
        under_test, rows = join(5, 10, how), []
        edges = [0, *bounds, 8]
        for start, stop in pairwise(edges):
            reached = [at_ms(side[stop][1]) if stop < len(side) else 1000 for side in sides]
            rows += under_test.run(*(side[start:stop] for side in sides), *reached).rows
        rows += under_test.run((), (), 1000, 1000).rows
        given_.append(in_order(rows))
    assert given_[0] == given_[1] == given_[2]


def test_equal_rows_stay_as_many_as_they_are() -> None:
    """Of one batch, and of two."""
    under_test = join(5, 5, "left")
    under_test.run([("a", (10, 1)), ("a", (10, 1))])
    under_test.run([("a", (10, 1))])
    assert under_test.state.keys == 3
    assert under_test.run((), [("a", (12, 2))] * 2).rows == [("a", ((10, 1), (12, 2)))] * 6
    under_test.run([("b", (10, 1))] * 2)
    assert under_test.run((), (), 100, 100).rows == [("b", ((10, 1), None))] * 2


def test_rows_of_another_stream_that_had_the_same_batches_stay_apart() -> None:
    """A stream that goes on with the state of another one numbers its batches anew."""
    under_test = join(5, 5, stream_id="old")
    under_test.run([("a", (10, 1))])
    under_test.stream_id, under_test.batch_id = "new", 0
    under_test.run([("a", (10, 1))])
    assert len(under_test.run((), [("a", (10, 1))]).rows) == 2


def test_a_match_in_the_batch_in_which_its_row_would_be_given_alone() -> None:
    """SPARK-49829, SPARK-38684: rows of a batch were evicted before, or while, they were matched."""
    under_test = join(0, 10, "full")
    under_test.run([("a", (10, 1)), ("b", (10, 2))])
    batch = under_test.run([("c", (11, 5))], [("a", (20, 3)), ("c", (12, 4))], 100, 100)
    assert in_order(batch.rows) == [
        ("a", ((10, 1), (20, 3))),
        ("b", ((10, 2), None)),
        ("c", ((11, 5), (12, 4))),
    ]
    assert under_test.run((), (), 200, 200).rows == []


@pytest.mark.parametrize("how", ["left", "right", "full"])
def test_a_row_that_had_a_match_is_never_given_alone_whatever_became_of_the_match(how: How) -> None:
    """SPARK-26154: whether a row had a match was looked for among the rows of the other side, which were gone."""
    under_test = join(100, 0, how)
    under_test.run([("a", (100, 1))], [("a", (5, 2))])  # right ones are held until 105, left ones until 100
    under_test.run((), (), 103, 103)
    for bound_ms in range(104, 110):
        assert under_test.run((), (), bound_ms, bound_ms).rows == []


def test_a_row_is_given_alone_when_the_slower_side_has_passed_it() -> None:
    under_test = join(0, 10, "left")
    under_test.run([("a", (10, 1))])
    assert under_test.run((), (), 1000, 20).rows == []  # one of 20 may still come
    assert under_test.run((), (), 1000, 21).rows == [("a", ((10, 1), None))]
    assert under_test.run((), (), 1000, 21).rows == []
    assert under_test.state.next_due_ms is None


def test_each_side_is_late_by_its_own_time() -> None:
    under_test = join(5, 5)
    under_test.run((), (), 50, 10)
    batch = under_test.run([("a", (49, 1)), ("a", (50, 2))], [("a", (9, 3)), ("a", (45, 4))])
    assert batch.late == [("a", (49, 1)), ("a", (9, 3))]
    assert batch.rows == [("a", ((50, 2), (45, 4)))]


def test_a_row_from_the_future_matches_nothing() -> None:
    under_test = join(5, 5, "full")
    batch = under_test.run([("a", (1001, 1))], [("a", (1001, 2))], latest_ms=1000)
    assert in_order(batch.late) == [("a", (1001, 1)), ("a", (1001, 2))]
    assert under_test.state.keys == 0


def test_only_rows_that_may_be_given_alone_ask_for_a_batch() -> None:
    inner, left = join(5, 5), join(5, 5, "left")
    for one in (inner, left):
        one.run([("a", (10, 1)), ("b", (30, 1))], [("a", (10, 2)), ("c", (10, 3))])
    assert inner.state.next_due_ms is None
    assert left.state.next_due_ms == 36


def test_pairs_come_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_EMITTED_ROWS", 7)
    under_test = join(50, 50, "full")
    under_test.run([("a", (number, number)) for number in range(10)])
    batch = under_test.run((), [("a", (number, number)) for number in range(5)] + [("b", (1, n)) for n in range(20)])
    assert in_order(batch.rows) == in_order([("a", ((one, one), (two, two))) for one in range(10) for two in range(5)])
    assert len(under_test.run((), (), 500, 500).rows) == 20


def test_a_row_of_a_hot_key_is_written_twice_at_the_most() -> None:
    """Whatever else its key has: sections have as many rows as came, and those that had their first match."""
    under_test, written = join(10**6, 10**6, "left"), 0
    for number in range(6):
        under_test.run([("a", (number, n)) for n in range(100)], [("a", (number, 7))])
        written = sum(section.rows for section in under_test.state.sections)
    assert written <= 6 * 101 + 6 * 100


def test_what_nothing_can_match_goes_with_time() -> None:
    under_test = join(5, 5, "full")
    for number in range(30):
        rows = [(key, (10 * number, key)) for key in range(20)]
        under_test.run(rows, rows[:10], 10 * number, 10 * number, shards=1)
    assert sum(section.rows for section in under_test.state.sections) < 10 * 30
    assert under_test.state.keys < 10 * 30


def test_keys_that_python_calls_equal_do_not_match() -> None:
    under_test = join(5, 5)
    batch = under_test.run([(1, (10, 1)), ("1", (10, 2))], [(True, (10, 3)), (1, (10, 4))])
    assert batch.rows == [(1, ((10, 1), (10, 4)))]


@pytest.mark.parametrize("row", [(None, 1), ("now", 2)])
def test_a_row_without_a_time_is_refused(row: Any) -> None:
    with pytest.raises(UnfitRow, match="join"):
        join(5, 5).run([("a", row)])


def test_a_row_that_only_pickle_could_store_is_refused_with_the_way_out() -> None:
    under_test = JoinsInMemory(JoinEach(Interval(1, 1), "inner", (lambda row: 5, lambda row: 5)))
    with pytest.raises(UnfitRow, match=r"a row with a value of type object cannot be remembered.*_asdict"):
        under_test.run((), [("a", {"x": object()})])
