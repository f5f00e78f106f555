"""Which timers are due, when the next one is, and whether a batch is planned for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.state import timers
from beam_exactly_once.state.run import NEVER
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.timers import bound_of, due_rows, is_batch_due, next_due
from support.state_rows import Row, rows_of, rows_with, run_of

RUNS = st.lists(rows_with(st.just(b"")), max_size=4) | st.lists(
    rows_with(st.sampled_from([b"", b"1", b"10", b"2"])), max_size=4
)
BITS = st.sampled_from([0, 4, 64])


def newest(runs: list[list[Row]]) -> dict[tuple[bytes, bytes], Row]:
    found: dict[tuple[bytes, bytes], Row] = {}
    for rows in runs:
        for row in rows:
            found.setdefault((row.key, row.subkey), row)
    return {place: row for place, row in found.items() if row.value is not None}


@given(RUNS, BITS, st.none() | st.integers(-1, 6), st.integers(-1, 7))
def test_due_is_what_the_newest_rows_say(runs: list[list[Row]], bits: int, lower_ms: int | None, upper_ms: int) -> None:
    found = due_rows([run_of(rows, bits) for rows in runs], lower_ms, upper_ms)
    due = [rows_of(one.run)[row] for one in found for row in one.rows.tolist()]
    least = -1 if lower_ms is None else lower_ms
    assert sorted(due) == sorted(row for row in newest(runs).values() if least < row.expiry_ms <= upper_ms)


@given(RUNS, BITS, st.integers(-1, 7), st.sampled_from([1, 2, 1024]))
def test_the_next_one_is_exact_or_early(runs: list[list[Row]], bits: int, upper_ms: int, rows_ahead: int) -> None:
    before, timers.ROWS_AHEAD = timers.ROWS_AHEAD, rows_ahead
    try:
        said_ms = next_due([run_of(rows, bits) for rows in runs], upper_ms)
    finally:
        timers.ROWS_AHEAD = before
    times = [row.expiry_ms for row in newest(runs).values() if upper_ms < row.expiry_ms < NEVER]
    if rows_ahead == 1024:
        assert said_ms == min(times, default=None)
    if times:
        assert said_ms is not None
        assert upper_ms < said_ms <= min(times)


def state(next_due_ms: int | None, fired_ms: int | None = None) -> StateList:
    empty = StateList.empty(slices=2)
    first, second = empty.slices
    slices = (replace(first, next_due_ms=next_due_ms), replace(second, next_due_ms=None))
    return replace(empty, slices=slices, fired_ms=fired_ms)


@pytest.mark.parametrize(
    ("next_due_ms", "fired_ms", "now_ms", "until_ms", "is_due"),
    [
        (None, 0, 10**9, None, False),
        (4_000, 0, 3_999, None, False),
        (4_000, 0, 4_000, None, True),
        (4_001, 0, 4_999, None, False),  # with all others of its second
        (4_001, 0, 5_000, None, True),
        (4_001, 0, 4_001, 4_001, True),  # what is due at the start
        (4_001, 0, 9_000, 4_000, False),  # what is due later
        (4_001, 0, 4_000, 5_000, False),  # a clock that has gone back since: the batch would fire nothing
        (4_001, 4_500, 4_000, None, False),
    ],
)
def test_a_batch_is_planned_for_what_it_fires(
    next_due_ms: int | None, fired_ms: int, now_ms: int, until_ms: int | None, is_due: bool
) -> None:
    assert is_batch_due([state(None), state(next_due_ms, fired_ms)], now_ms, until_ms) is is_due


def test_time_does_not_go_back() -> None:
    assert (bound_of(5, None), bound_of(5, 7), bound_of(8, 7)) == (5, 7, 8)
