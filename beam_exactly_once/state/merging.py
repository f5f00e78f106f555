"""Many runs into one: of each key, or key and subkey, the newest row stays. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.hashing import offsets_of
from beam_exactly_once.state.ordering import order_of
from beam_exactly_once.state.run import END_OF_HASHES, TOMBSTONE, Run, empty_values
from beam_exactly_once.state.types.arrow_state import joined

ROWS_AT_ONCE = 1 << 18
"""Beside the runs and the result, what is in memory are copies of about so many rows."""


def merged(
    runs_newest_first: Sequence[Run],
    *,
    drop_tombstones: bool = False,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Run:
    """One run that says what these say together.

    Args:
        runs_newest_first: at least one; values of several versions get the fields of all of them.
        drop_tombstones: leave out what is deleted. Only right if no older run remains: an older row would come back.
        rows_at_once: how many rows are copied at once, unless more have one hash.
    """
    plain = [replace(run, by_expiry=None) for run in runs_newest_first]
    pieces = _pieces(plain, max(1, rows_at_once // len(plain)))
    whole = _joined([_merged_at_once(piece, drop_tombstones) for piece in pieces])
    return Run.of_sorted(whole.hashes, whole.keys, whole.subkeys, whole.values, whole.expiry_ms, whole.versions)


def _pieces(runs: Sequence[Run], rows_of_each: int) -> Iterator[list[Run]]:
    """The same runs, one range of hashes after the other."""
    sampled = np.unique(np.concatenate([run.hashes[rows_of_each::rows_of_each] for run in runs]))
    cuts = [0, *sampled.tolist(), END_OF_HASHES]
    for first_hash, end_hash in pairwise(cuts):
        yield [run.slice(first_hash, end_hash) for run in runs]


def _merged_at_once(runs_newest_first: Sequence[Run], drop_tombstones: bool) -> Run:
    every = _joined(runs_newest_first)
    order, repeats = order_of(every.hashes, every.keys, every.subkeys)
    stays = order[~repeats]  # of rows that are one, the newest comes first
    if drop_tombstones:
        stays = stays[every.versions[stays] != TOMBSTONE]
    at = pa.array(stays)
    return Run(
        every.hashes[stays],
        every.keys.take(at),
        _taken(every.subkeys, at),
        every.values.take(at),
        every.expiry_ms[stays],
        every.versions[stays],
        None,
    )


def _taken(subkeys: pa.LargeBinaryArray, at: pa.Array) -> pa.LargeBinaryArray:
    """Most keys have one row, and no subkey."""
    return subkeys.take(at) if offsets_of(subkeys)[-1] else empty_values(len(at))


def _joined(runs: Sequence[Run]) -> Run:
    """All rows, one run behind the other."""
    if len(runs) == 1:
        return runs[0]
    return Run(
        np.concatenate([run.hashes for run in runs]),
        pa.concat_arrays([run.keys for run in runs]),
        pa.concat_arrays([run.subkeys for run in runs]),
        joined([run.values for run in runs]),
        np.concatenate([run.expiry_ms for run in runs]),
        np.concatenate([run.versions for run in runs]),
        None,
    )
