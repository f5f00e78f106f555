"""Runs are sorted, and found in as plain dicts say, also where different keys have one hash."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.state.run import END_OF_HASHES, NEVER, Run, look_up
from support.state_rows import Row, hashes_of, large, rows_of, rows_with, run_of

BITS = st.sampled_from([0, 1, 4, 64])
ONE_ROW_A_KEY = rows_with(st.just(b""))
ROWS = rows_with(st.sampled_from([b"", b"\0", b"1", b"10", b"\xff" * 12]))
ASKED = st.lists(
    st.sampled_from([b"", b"\0", b"a", b"a\0", b"a\0\0", b"b", b"absent", b"\xff" * 8, b"k" * 300]), max_size=20
)


@given(ROWS, BITS)
def test_rows_are_sorted_by_hash_then_by_bytes(rows: list[Row], bits: int) -> None:
    def place(row: Row) -> tuple[int, bytes, bytes]:
        return int(hashes_of(large([row.key]), bits)[0]), row.key, row.subkey

    run = run_of(rows, bits)

    assert rows_of(run) == sorted(rows, key=place)
    assert run.hashes.tolist() == sorted(place(row)[0] for row in rows)
    assert run.tombstones == sum(row.value is None for row in rows)


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="1 rows have the key and subkey of another row"):
        run_of([Row(b"a", b"", b"1"), Row(b"b", b"", b"1"), Row(b"a", b"", b"2")])


@given(ONE_ROW_A_KEY, BITS, ASKED)
def test_keys_are_found_as_in_a_dict(rows: list[Row], bits: int, asked: list[bytes]) -> None:
    run, keys = run_of(rows, bits), large(asked)
    by_key = {row.key: row for row in rows}

    found = run.find(hashes_of(keys, bits), keys)

    in_order = rows_of(run)
    assert [None if row < 0 else in_order[row] for row in found] == [by_key.get(key) for key in asked]


@given(ROWS, BITS, ASKED, st.lists(st.binary(max_size=3), min_size=20, max_size=20))
def test_rows_of_a_key_are_found_by_their_subkeys(
    rows: list[Row], bits: int, asked: list[bytes], subkeys: list[bytes]
) -> None:
    run, keys, wanted = run_of(rows, bits), large(asked), large(subkeys[: len(asked)])
    hashes = hashes_of(keys, bits)

    starts, stops = run.range_of(hashes, keys)
    found = run.first_not_below(starts, stops, wanted)

    in_order = rows_of(run)
    assert [in_order[start:stop] for start, stop in zip(found, stops, strict=True)] == [
        sorted(row for row in rows if row.key == key and row.subkey >= subkey)
        for key, subkey in zip(asked, subkeys, strict=False)
    ]
    there = {(row.key, row.subkey) for row in rows}
    assert run.holds(hashes, keys, wanted).tolist() == [one in there for one in zip(asked, subkeys, strict=False)]


@given(ROWS, BITS, ASKED)
def test_all_rows_of_a_key_are_a_range(rows: list[Row], bits: int, asked: list[bytes]) -> None:
    run, keys = run_of(rows, bits), large(asked)

    starts, stops = run.range_of(hashes_of(keys, bits), keys)

    in_order = rows_of(run)
    assert [in_order[start:stop] for start, stop in zip(starts, stops, strict=True)] == [
        sorted(row for row in rows if row.key == key) for key in asked
    ]


@given(st.lists(ONE_ROW_A_KEY, max_size=5), BITS, ASKED, st.none() | st.integers(0, 6))
def test_the_newest_row_of_a_key_decides(
    runs: list[list[Row]], bits: int, asked: list[bytes], fired_ms: int | None
) -> None:
    newest: dict[bytes, tuple[int, Row]] = {}
    for number, rows in reversed(list(enumerate(runs))):
        newest |= {row.key: (number, row) for row in rows}
    keys = large(asked)
    searched = [run_of(rows, bits) for rows in runs]

    found = look_up(searched, hashes_of(keys, bits), keys, fired_ms=fired_ms)

    def is_live(row: Row) -> bool:
        return row.value is not None and (fired_ms is None or row.expiry_ms > fired_ms)

    assert [
        None if run < 0 else (run, rows_of(searched[run])[row]) for run, row in zip(found.runs, found.rows, strict=True)
    ] == [newest[key] if key in newest and is_live(newest[key][1]) else None for key in asked]


@given(ROWS, BITS, st.integers(0, 1 << 64), st.integers(0, 1 << 64), st.integers(-1, 7), st.integers(-1, 7))
def test_a_slice_is_a_run_of_its_own(
    rows: list[Row], bits: int, first_hash: int, end_hash: int, lower_ms: int, upper_ms: int
) -> None:
    run = run_of(rows, bits)
    inside = [
        row for row, hash_ in zip(rows_of(run), run.hashes.tolist(), strict=True) if first_hash <= hash_ < end_hash
    ]

    part = run.slice(first_hash, end_hash)

    assert rows_of(part) == inside
    assert [rows_of(part)[row] for row in part.due(lower_ms, upper_ms)] == sorted(
        (row for row in inside if lower_ms < row.expiry_ms <= upper_ms and row.value is not None),
        key=lambda row: row.expiry_ms,
    )


def test_a_slice_copies_no_rows() -> None:
    run = run_of([Row(b"%d" % number, b"", b"value") for number in range(100)])
    cut = int(run.hashes[50])

    part = run.slice(cut, END_OF_HASHES)

    assert len(part) == 50
    assert np.shares_memory(part.hashes, run.hashes)
    assert np.shares_memory(part.expiry_ms, run.expiry_ms)
    assert part.keys.buffers()[2].address == run.keys.buffers()[2].address
    assert part.values.buffers()[2].address == run.values.buffers()[2].address
    assert run.slice(0, END_OF_HASHES) is run


def test_what_never_expires_is_never_due() -> None:
    run = run_of([Row(b"a", b"", b"1", 5), Row(b"b", b"", b"1"), Row(b"c", b"", None, 5)])

    assert [rows_of(run)[row].key for row in run.due(-1, NEVER)] == [b"a"]
    assert run.due(5, NEVER).tolist() == []
    assert run_of([Row(b"b", b"", b"1")]).by_expiry is None


def test_an_empty_run_has_nothing() -> None:
    run, keys = Run.empty(pa.int64()), large([b"a"])

    assert len(run) == run.tombstones == 0
    assert run.find(hashes_of(keys), keys).tolist() == [-1]
    assert [bounds.tolist() for bounds in run.range_of(hashes_of(keys), keys)] == [[0], [0]]
    assert run.due(0, NEVER).tolist() == []
    assert look_up([run], hashes_of(keys), keys).runs.tolist() == [-1]
    assert look_up([], hashes_of(keys), keys).runs.tolist() == [-1]


def test_a_flood_of_keys_with_one_hash_is_told_apart() -> None:
    """Without a walk from key to key, which would take minutes of each batch."""
    keys = large(b"key %d" % number for number in range(20_000))
    values = pa.array(range(20_000), pa.int64())
    hashes = np.full(20_000, 7, np.uint64)
    run = Run.of(hashes, keys, values, np.ones(20_000, np.uint8))
    asked = pa.concat_arrays([keys, large(b"absent %d" % number for number in range(1_000))])

    found = look_up([run], np.full(21_000, 7, np.uint64), asked)

    assert run.values.take(pa.array(found.rows[:20_000])).equals(values)
    assert (found.rows[20_000:] == -1).all()
