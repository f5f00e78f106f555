"""Which rows of a run match the rows of a batch. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.hashing import Numbers
from beam_exactly_once.state.joins.interval import LEFT, RIGHT, Interval
from beam_exactly_once.state.joins.subkeys import encoded, places_in, places_of, sides_of, times_of
from beam_exactly_once.state.run import Run


class Matches(NamedTuple):
    """Pairs of rows."""

    arrived: Numbers
    """Rows of the batch."""
    rows: Numbers
    """Those of the run that match them, one each."""


def matches(arrived: Run, run: Run, interval: Interval, *, most: int) -> Iterator[Matches]:
    """The pairs of rows of a batch and rows of a run, so many at a time.

    A run has all rows of a key in the order of side and time, so those that match a row are beside each other: they are found
    by binary search, and no others are read.

    Args:
        arrived: the rows of the batch.
        run: earlier rows; or ``arrived`` itself, whose pairs are then given once.
        interval: when rows match.
        most: pairs at a time.
    """
    places = places_in(arrived.subkeys)
    rows = np.arange(len(arrived)) if run is not arrived else np.flatnonzero(sides_of(places) == LEFT)
    if not len(rows):
        return
    sides, times_ms, at = sides_of(places[rows]), times_of(places[rows]), pa.array(rows)
    others = np.where(sides == LEFT, RIGHT, LEFT)
    starts, stops = run.range_of(arrived.hashes[rows], arrived.keys.take(at))
    first = places_of(others, interval.first_match_ms(sides, times_ms))
    behind = places_of(others, interval.last_match_ms(sides, times_ms) + 1)
    starts = run.first_not_below(starts, stops, encoded(first))
    stops = run.first_not_below(starts, stops, encoded(behind))
    ends = np.cumsum(stops - starts)
    total = int(ends[-1])
    for begin in range(0, total, most):
        pairs = np.arange(begin, min(begin + most, total))
        of = np.searchsorted(ends, pairs, "right")
        places_behind: Numbers = pairs - ends[of]
        yield Matches(rows[of], stops[of] + places_behind)
