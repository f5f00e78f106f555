"""Merged runs say what the runs say together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.state.merging import merged
from support.state_rows import Row, rows_of, rows_with, run_of

RUNS = st.lists(rows_with(st.sampled_from([b"", b"\0", b"1"])), min_size=1, max_size=5)
BITS = st.sampled_from([0, 1, 4, 64])


def newest(runs: list[list[Row]]) -> dict[tuple[bytes, bytes], Row]:
    """By key and subkey, as a dict keeps them."""
    return {row.name: row for rows in reversed(runs) for row in rows}


@given(RUNS, BITS)
def test_the_newest_row_of_each_key_stays(runs: list[list[Row]], bits: int) -> None:
    together = merged([run_of(rows, bits) for rows in runs])

    expected = run_of(list(newest(runs).values()), bits)
    assert rows_of(together) == rows_of(expected)
    assert together.hashes.tolist() == expected.hashes.tolist()
    assert together.versions.tolist() == expected.versions.tolist()
    assert together.due(-1, 7).tolist() == expected.due(-1, 7).tolist()


@given(RUNS, BITS)
def test_the_oldest_run_forgets_what_is_gone(runs: list[list[Row]], bits: int) -> None:
    together = merged([run_of(rows, bits) for rows in runs], drop_tombstones=True)

    assert rows_of(together) == rows_of(run_of([row for row in newest(runs).values() if row.value is not None], bits))


@given(RUNS, BITS, st.data())
def test_runs_that_lie_side_by_side_may_be_merged_at_any_time(
    runs: list[list[Row]], bits: int, data: st.DataObject
) -> None:
    every = [run_of(rows, bits) for rows in runs]
    start = data.draw(st.integers(0, len(runs) - 1))
    stop = data.draw(st.integers(start + 1, len(runs)))

    shorter = [*every[:start], merged(every[start:stop], drop_tombstones=stop == len(runs)), *every[stop:]]

    assert rows_of(merged(shorter, drop_tombstones=True)) == rows_of(merged(every, drop_tombstones=True))
