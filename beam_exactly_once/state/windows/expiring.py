"""Rows of state found by when they expire. Pure.

For rows of which no older version expires later: so the versions that are left out are of the past.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.hashing import Hashes, Numbers
from beam_exactly_once.state.merging import merged
from beam_exactly_once.state.run import NEVER, Run


def expiring(
    runs_newest_first: Sequence[Run],
    lower_ms: int,
    upper_ms: int,
    *,
    exactly_ms: Numbers | None = None,
    hashes: Hashes | None = None,
) -> list[Run]:
    """Of each run that has some the rows that expire after ``lower_ms`` and no later than ``upper_ms``.

    Args:
        runs_newest_first: to look into.
        lower_ms, upper_ms: see above.
        exactly_ms: only rows that expire at one of these times.
        hashes: only rows with one of these hashes.
    """
    parts = []
    for run in runs_newest_first:
        rows = np.sort(run.due(lower_ms, upper_ms))
        if exactly_ms is not None:
            rows = rows[np.isin(run.expiry_ms[rows], np.unique(exactly_ms))]
        if hashes is not None:
            rows = rows[np.isin(run.hashes[rows], hashes)]
        if len(rows):
            parts.append(run.rows_at(rows))
    return parts


def newest_of(runs_newest_first: Sequence[Run]) -> Run:
    """Of each key the newest row, of values that are bytes. Most often there is one run, or none."""
    if len(runs_newest_first) == 1:
        return runs_newest_first[0]
    return merged(runs_newest_first) if runs_newest_first else Run.empty(pa.large_binary())


def first_expiry(runs: Sequence[Run], behind_ms: int) -> int | None:
    """When the first row expires after this time, of whatever run; None if none does."""
    firsts = [next(run.expiring(min(behind_ms, NEVER - 1)), None) for run in runs]
    return min(
        (int(run.expiry_ms[rows[0]]) for run, rows in zip(runs, firsts, strict=True) if rows is not None), default=None
    )


def unexpired(runs_newest_first: Sequence[Run], hashes: Hashes, behind_ms: int) -> Run:
    """The newest row of each key with one of these hashes that expires after ``behind_ms``.

    Args:
        runs_newest_first: to look into, of values that are bytes; tombstones expire when what they delete would.
        hashes: different ones.
        behind_ms: see above.
    """
    parts = []
    for run in runs_newest_first:
        starts, stops = (np.searchsorted(run.hashes, hashes, side) for side in ("left", "right"))
        lengths = stops - starts
        rows = np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        rows = rows[run.expiry_ms[rows] > behind_ms]
        if len(rows):
            parts.append(run.rows_at(rows))
    return merged(parts, drop_tombstones=True) if parts else Run.empty(pa.large_binary())
