"""Which timers are due, when the next one is, and whether a batch is planned for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.state import run, timers
from beam_exactly_once.state.run import NEVER, Run
from beam_exactly_once.state.shard import OpenSlice
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.timers import bound_of, due_rows, first_due, is_batch_due, next_due, superseded
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


@given(RUNS, BITS, st.integers(-1, 7), st.sampled_from([1, 2, 8]))
def test_the_next_one_is_what_the_newest_rows_say(
    runs: list[list[Row]], bits: int, upper_ms: int, looked_at_first: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "FIRST_EXPIRING", looked_at_first)
        assert first_due([run_of(rows, bits) for rows in runs], upper_ms) == first_of(runs, upper_ms)


@given(RUNS, BITS, st.integers(-1, 4), st.integers(0, 4), st.booleans(), st.integers(0, 3))
def test_the_next_one_of_a_slice_is_exact(
    runs: list[list[Row]], bits: int, fired_ms: int, further_ms: int, is_changed: bool, early_ms: int
) -> None:
    """Also where the one before was too early, as earlier versions say it."""
    upper_ms = fired_ms + further_ms
    open_runs = [run_of(rows, bits) for rows in runs]
    delta, held, before = (open_runs[0], open_runs[1:], runs[1:]) if is_changed and runs else (None, open_runs, runs)
    base_ms = first_of(before, fired_ms)
    base_ms = None if base_ms is None else max(base_ms - early_ms, fired_ms + 1)
    base = replace(StateList.empty(slices=1).slices[0], next_due_ms=base_ms)
    one = OpenSlice(base, lambda sections: held, delta)
    if delta is None and base_ms is not None and base_ms > upper_ms:
        assert next_due(one, upper_ms) == base_ms
    else:
        assert next_due(one, upper_ms) == first_of(runs, upper_ms)


def first_of(runs: list[list[Row]], after_ms: int) -> int | None:
    return min((row.expiry_ms for row in newest(runs).values() if after_ms < row.expiry_ms < NEVER), default=None)


def test_superseded_timers_are_passed_over_once() -> None:
    """A key whose timer is set again and again costs a batch what the batch sets."""
    looked_at = 0

    def counted(at: Run, rows: Any, newer: Any) -> Any:
        nonlocal looked_at
        looked_at += len(rows)
        return superseded(at, rows, newer)

    keys = [b"%d" % number for number in range(1_000)]
    times_ms = {key: 1_000 + number for number, key in enumerate(keys)}
    base = replace(StateList.empty(slices=1).slices[0], next_due_ms=1_000)
    runs = [run_of([Row(key, b"", b"v", at_ms) for key, at_ms in times_ms.items()])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timers, "superseded", counted)
        for number in range(0, 900, 100):
            again = keys[number : number + 100]
            times_ms |= dict.fromkeys(again, 5_000 + number)
            one = OpenSlice(
                base, lambda sections, held=runs: held, run_of([Row(key, b"", b"v", times_ms[key]) for key in again])
            )
            base = replace(base, next_due_ms=next_due(one, number))
            assert base.next_due_ms == min(times_ms.values())
            runs = [*one.changed, *runs]
    assert looked_at < 3 * len(keys)


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
