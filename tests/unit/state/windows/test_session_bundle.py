"""Sessions grow, merge and close as those of a list of all rows do, whatever batches are cut and attempts lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import IntervalWindow, Sessions, WindowFn
from apache_beam.utils.timestamp import Duration, Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_exactly_once.state.run import NEVER
from beam_exactly_once.state.updates import CombineEach
from beam_exactly_once.state.windows.operator import WindowResult
from beam_exactly_once.state.windows.session_bundle import SessionBundle
from beam_exactly_once.state.windows.sessions import Part, SessionEach, sessions_of
from support.timers.windows_in_memory import WindowsInMemory

GAP_MS = 10
TIMES = CombineEach(beam.combiners.ToListCombineFn(), None)


def sessions(combine: CombineEach = TIMES) -> WindowsInMemory:
    return WindowsInMemory(SessionEach(combine, GAP_MS, lambda value: value), bundle=SessionBundle)


def of_times(key: Any, *times_ms: int) -> WindowResult:
    return WindowResult(key, min(times_ms), max(times_ms) + GAP_MS, sorted(times_ms))


def found(rows: Sequence[WindowResult]) -> list[WindowResult]:
    return sorted((row._replace(value=sorted(row.value)) for row in rows), key=repr)


def chains(times_ms: Sequence[int]) -> list[list[int]]:
    """Times less than a gap apart, together."""
    every: list[list[int]] = []
    for at_ms in sorted(times_ms):
        if every and at_ms < every[-1][-1] + GAP_MS:
            every[-1].append(at_ms)
        else:
            every.append([at_ms])
    return every


class Oracle:
    """The same with a list of times of each key: those of sessions that are open."""

    def __init__(self) -> None:
        self.open: dict[Any, list[int]] = defaultdict(list)
        self.closed_ms: int | None = None

    def run(self, pairs: Sequence[tuple[Any, int]], closes_to_ms: int | None) -> tuple[list[WindowResult], list[Any]]:
        late, given_ = [], []
        for key, at_ms in pairs:
            self.open[key].append(at_ms)
        for key, times_ms in self.open.items():
            every = chains(times_ms)
            is_late = [self.closed_ms is not None and one[-1] + GAP_MS <= self.closed_ms for one in every]
            late += [(key, at_ms) for one, gone in zip(every, is_late, strict=True) if gone for at_ms in one]
            live = [one for one, gone in zip(every, is_late, strict=True) if not gone]
            ends = [one for one in live if closes_to_ms is not None and one[-1] + GAP_MS <= closes_to_ms]
            given_ += [of_times(key, *one) for one in ends]
            self.open[key] = [at_ms for one in live if one not in ends for at_ms in one]
        self.closed_ms = closes_to_ms
        return given_, late

    @property
    def count(self) -> int:
        return sum(len(chains(times_ms)) for times_ms in self.open.values())


PAIR = st.tuples(st.sampled_from(["a", "b", 1, None, ("a", 1)]), st.integers(-30, 120))
BATCH = st.tuples(
    st.lists(PAIR, max_size=12),
    st.one_of(st.none(), st.integers(0, 60)),  # how far it closes beyond the batch before
    st.integers(1, 5),  # shards
    st.booleans(),  # an attempt is lost before it
)


@given(st.lists(BATCH, max_size=6))
@example([([("a", 0)], None, 1, False), ([("a", 1)], None, 5, False)])
@settings(deadline=None, max_examples=40)
def test_sessions_close_once_with_all_that_came_in_time(batches: list[Any]) -> None:
    under_test, oracle = sessions(), Oracle()
    closed_ms: int | None = None
    most_shards = batches[0][2] if batches else 0
    is_cut = False  # a part of a slice says what the whole one said, until a batch changes it
    for pairs, further_ms, shards, is_lost in batches:
        is_cut |= shards > most_shards
        if further_ms is not None:
            closed_ms = (-20 if closed_ms is None else closed_ms) + further_ms
        if is_lost:
            under_test.attempt(pairs[:3], None if closed_ms is None else closed_ms + 7, shards=shards)
        batch = under_test.run(pairs, closed_ms, shards=shards)
        rows, late = oracle.run(pairs, closed_ms)
        assert found(batch.rows) == found(rows)
        assert sorted(batch.late, key=repr) == sorted(late, key=repr)
        assert under_test.state.keys == oracle.count
        ends_ms = [one[-1] + GAP_MS for times_ms in oracle.open.values() for one in chains(times_ms)]
        first_end_ms = min(ends_ms, default=NEVER)
        due_ms = NEVER if under_test.state.next_due_ms is None else under_test.state.next_due_ms
        assert due_ms == first_end_ms or (is_cut and due_ms < first_end_ms)


@given(st.lists(PAIR, max_size=20), st.lists(st.integers(0, 20), max_size=5))
@settings(deadline=None, max_examples=25)
def test_sessions_do_not_depend_on_where_batches_are_cut(pairs: list[Any], cuts: list[int]) -> None:
    """Each batch closes up to the first time that is still to come, so nothing is late, and sessions close on the way."""
    given_ = []
    for bounds in ([], sorted(cuts), range(len(pairs))):
        under_test, rows = sessions(), []
        edges = [0, *(min(cut, len(pairs)) for cut in bounds), len(pairs)]
        for start, stop in pairwise(edges):
            to_come = [at_ms for _, at_ms in pairs[stop:]]
            batch = under_test.run(pairs[start:stop], min(to_come, default=500))
            assert batch.late == []
            rows += batch.rows
        given_.append(found(rows))
    assert given_[0] == given_[1] == given_[2]
    assert under_test.state.keys == 0


def test_a_row_between_two_sessions_makes_one_of_them() -> None:
    under_test = sessions()
    assert under_test.run([("a", 0), ("a", 18)], None).state.keys == 2
    assert under_test.run([("a", 9)], 5).state.keys == 1
    assert found(under_test.run([], 28).rows) == [of_times("a", 0, 9, 18)]
    assert under_test.run([], 100).rows == []


def test_an_earlier_row_moves_the_start_of_a_session_that_is_then_given_once() -> None:
    under_test = sessions()
    under_test.run([("a", 15)], None)
    under_test.run([("a", 6)], 10)
    assert found(under_test.run([("b", 70)], 60).rows) == [of_times("a", 6, 15)]
    assert found(under_test.run([], 100).rows) == [of_times("b", 70)]


def test_a_session_that_grew_is_not_due_when_it_would_have_been() -> None:
    """Else a batch would be planned that closes nothing."""
    under_test = sessions()
    assert under_test.run([("a", 0), ("b", 5)], None).state.next_due_ms == 10
    assert under_test.run([("a", 8)], 9).state.next_due_ms == 15
    assert under_test.run([("b", 14)], 12).state.next_due_ms == 18
    assert under_test.run([], 18).state.next_due_ms == 24


def test_a_row_a_gap_behind_the_last_begins_a_session() -> None:
    under_test = sessions()
    assert found(under_test.run([("a", 0), ("a", 10)], 100).rows) == [of_times("a", 0), of_times("a", 10)]


def test_a_row_is_late_if_nothing_joins_it_to_a_session_that_is_open() -> None:
    under_test = sessions()
    under_test.run([("a", 25)], 30)
    alone = under_test.run([("a", 12), ("b", 20)], 30)
    assert sorted(alone.late) == [("a", 12), ("b", 20)]
    joined = under_test.run([("a", 12), ("a", 18)], 30)
    assert joined.late == []
    assert found(under_test.run([], 40).rows) == [of_times("a", 12, 18, 25)]


def test_a_row_from_the_future_is_in_no_session() -> None:
    under_test = sessions()
    assert under_test.run([("a", 3), ("a", 1001)], None, latest_ms=1000).late == [("a", 1001)]
    assert found(under_test.run([], 10**6).rows) == [of_times("a", 3)]


def test_sums_of_sessions_that_merge_are_added() -> None:
    under_test = sessions(CombineEach(beam.CombineFn.from_callable(sum), None))
    under_test.run([("a", 1), ("a", 15)], None)
    assert under_test.run([("a", 8)], 50).rows == [WindowResult("a", 1, 25, 24)]


@given(st.lists(st.integers(-100, 100), max_size=20))
def test_sessions_are_those_of_beam(times_ms: list[int]) -> None:
    merged: list[tuple[int, int]] = []

    class Context(WindowFn.MergeContext):
        def merge(self, to_be_merged: Any, merge_result: Any) -> None:
            merged.append((merge_result.start.micros // 1000, merge_result.end.micros // 1000))
            self.windows = [one for one in self.windows if one not in to_be_merged]

    gap = Duration(micros=GAP_MS * 1000)
    of_beam = [
        IntervalWindow(Timestamp(micros=1000 * one), Timestamp(micros=1000 * one) + gap) for one in set(times_ms)
    ]
    context = Context(of_beam)
    Sessions(gap).merge(context)
    merged += [(one.start.micros // 1000, one.end.micros // 1000) for one in context.windows]
    ours = sessions_of([Part(one, one, False, []) for one in times_ms], GAP_MS)
    assert [(one.first_ms, one.last_ms + GAP_MS) for one in ours] == sorted(merged)
