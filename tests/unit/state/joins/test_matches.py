"""Which rows match, also where many keys have one hash; and the subkeys of rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.rows.event_times import EARLIEST_MS, LATEST_MS
from beam_exactly_once.state.joins.interval import LEFT, RIGHT, Interval
from beam_exactly_once.state.joins.matches import matches
from beam_exactly_once.state.joins.subkeys import (
    encoded,
    origin_of,
    places_in,
    places_of,
    sides_of,
    subkeys_of,
    times_of,
)
from beam_exactly_once.state.run import Run
from support.state_rows import hashes_of, large

TIMES = st.integers(-30, 30) | st.sampled_from([EARLIEST_MS, LATEST_MS])
BITS = st.sampled_from([0, 2, 64])


class Row(NamedTuple):
    key: bytes
    side: int
    time_ms: int


ROWS = st.lists(
    st.builds(Row, st.sampled_from([b"a", b"ab", b"b"]), st.sampled_from([LEFT, RIGHT]), TIMES), max_size=15
)


def run_of(rows: list[Row], bits: int) -> Run:
    """Rows by number, which is their value."""
    keys = large([row.key for row in rows])
    places = places_of(
        np.array([row.side for row in rows], np.int64), np.array([row.time_ms for row in rows], np.int64)
    )
    numbers = np.arange(len(rows))
    return Run.of(
        hashes_of(keys, bits),
        keys,
        pa.array(numbers),
        np.ones(len(rows), np.uint8),
        subkeys=subkeys_of(places, b"12345678", numbers),
    )


def near(left: Row, right: Row, interval: Interval) -> bool:
    within = left.time_ms - interval.before_ms <= right.time_ms <= left.time_ms + interval.after_ms
    return left.key == right.key and (left.side, right.side) == (LEFT, RIGHT) and within


@given(ROWS, ROWS, BITS, st.integers(0, 20), st.integers(0, 20), st.integers(1, 5))
def test_pairs_are_those_within_the_interval(
    arrived: list[Row], before: list[Row], bits: int, before_ms: int, after_ms: int, most: int
) -> None:
    interval, new, old = Interval(before_ms, after_ms), run_of(arrived, bits), run_of(before, bits)

    found = []
    for part in matches(new, old, interval, most=most):
        assert 0 < len(part.rows) <= most
        pairs = zip(
            new.values.take(pa.array(part.arrived)).to_pylist(),
            old.values.take(pa.array(part.rows)).to_pylist(),
            strict=True,
        )
        found += list(pairs)

    assert sorted(found) == [
        (one, other)
        for one, row in enumerate(arrived)
        for other, known in enumerate(before)
        if near(row, known, interval) or near(known, row, interval)
    ]


@given(ROWS, BITS)
def test_pairs_of_one_batch_are_given_once(arrived: list[Row], bits: int) -> None:
    new, interval = run_of(arrived, bits), Interval(5, 10)
    found = [len(part.rows) for part in matches(new, new, interval, most=100)]
    assert sum(found) == sum(near(left, right, interval) for left in arrived for right in arrived)


def test_an_interval_may_be_longer_than_all_of_time() -> None:
    new, ever = run_of([Row(b"a", LEFT, EARLIEST_MS)], 0), Interval(0, LATEST_MS - EARLIEST_MS)
    assert [part.rows.tolist() for part in matches(new, run_of([Row(b"a", RIGHT, LATEST_MS)], 0), ever, most=9)] == [
        [0]
    ]


@given(st.lists(st.tuples(st.sampled_from([LEFT, RIGHT]), TIMES, st.integers(0, 2**32 - 1)), max_size=20))
def test_subkeys_in_order_are_sides_then_times_in_order(rows: list[tuple[int, int, int]]) -> None:
    sides, times_ms, numbers = (np.array([row[place] for row in rows], np.int64) for place in range(3))
    places = places_of(sides, times_ms)
    subkeys = subkeys_of(places, origin_of("stream", 7), numbers)

    assert (sides_of(places_in(subkeys)).tolist(), times_of(places_in(subkeys)).tolist()) == (
        sides.tolist(),
        times_ms.tolist(),
    )
    by_bytes = sorted(range(len(rows)), key=lambda row: subkeys[row].as_py())
    assert [rows[row] for row in by_bytes] == sorted(rows)
    assert all(subkey.as_py().startswith(place.as_py()) for subkey, place in zip(subkeys, encoded(places), strict=True))


@pytest.mark.parametrize("other", [("stream", 8), ("another", 7)])
def test_the_bytes_of_a_subkey_never_change_and_batches_have_their_own(other: tuple[str, int]) -> None:
    one = subkeys_of(places_of(np.array([RIGHT]), np.array([1000])), origin_of("stream", 7), np.array([3]))
    assert one[0].as_py().hex() == "c0000000000003e8" + origin_of("stream", 7).hex() + "00000003"
    assert origin_of("stream", 7).hex() == "9a9a15c384d5f35d"
    assert origin_of(*other) != origin_of("stream", 7)
