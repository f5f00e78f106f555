"""Timers of an operator: which rows of a slice are due, and before which time none is. Pure.

A timer is the ``expiry_ms`` of a row. Behind each batch no live row expires at or before the bound up to which the batch fired:
the rows that did are superseded, so that only those between two bounds are looked at, and each is due once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.hashing import Numbers
from beam_exactly_once.state.ordering import Flags
from beam_exactly_once.state.run import NEVER, TOMBSTONE, Run
from beam_exactly_once.state.state_list import StateList

ROWS_AHEAD = 1024
"""So many timers of each run are looked at for the next one that is not superseded."""
STEP_MS = 1000
"""Timers make a batch without anything to read at most so often."""


class Due(NamedTuple):
    """Rows of one run whose timers fire."""

    run: Run
    rows: Numbers


def due_rows(runs_newest_first: Sequence[Run], lower_ms: int | None, upper_ms: int) -> list[Due]:
    """The rows that expire after ``lower_ms`` and no later than ``upper_ms``, and that no newer run supersedes.

    Args:
        runs_newest_first: of one slice: what the batch itself has changed, then the sections.
        lower_ms: up to where timers have fired; None if none has.
        upper_ms: up to where they fire now.
    """
    lower_ms = -NEVER if lower_ms is None else lower_ms
    found = []
    for number, run in enumerate(runs_newest_first):
        rows = np.sort(run.due(lower_ms, upper_ms))  # in the order of hashes, which finds them quickest
        rows = rows[~superseded(run, rows, runs_newest_first[:number])]
        if len(rows):
            found.append(Due(run, rows))
    return found


def next_due(runs_newest_first: Sequence[Run], upper_ms: int) -> int | None:
    """No timer of these runs is due before it, once all up to ``upper_ms`` have fired; None if there is none.

    It is exact, unless the next timers of a run are many that are superseded: then it is early, and never late.
    """
    times = []
    for number, run in enumerate(runs_newest_first):
        rows = run.next_to_expire(upper_ms, ROWS_AHEAD)
        live = rows[(run.versions[rows] != TOMBSTONE) & ~superseded(run, rows, runs_newest_first[:number])]
        if len(live):
            times.append(int(run.expiry_ms[live[0]]))
        elif len(rows) == ROWS_AHEAD:
            times.append(int(run.expiry_ms[rows[-1]]))
    return min(times, default=None)


def earliest(*times_ms: int | None) -> int | None:
    """The first of these times; None if there is none."""
    return min((one for one in times_ms if one is not None), default=None)


def bound_of(planned_at_ms: int, fired_ms: int | None) -> int:
    """The time of a batch, up to which it fires: when it was planned; never before that of the batch before, which clocks may be.

    Args:
        planned_at_ms: as the plan says, so that a replay has the same.
        fired_ms: the bound of the batch before, as its marker says; None before the first one.
    """
    return planned_at_ms if fired_ms is None else max(planned_at_ms, fired_ms)


def is_batch_due(states: Iterable[StateList], now_ms: int, until_ms: int | None) -> bool:
    """Whether timers ask for a batch that has nothing to read.

    Each operator is asked whether a batch with its own bound would fire anything: else such batches had no end.

    Args:
        states: of the newest marker.
        now_ms: when the batch would be planned.
        until_ms: no timer that is due later asks for a batch, so that a stream ends whose timers are set again and again. None:
            there is no end, and timers wait for the end of their :data:`STEP_MS`, to be fired together.
    """
    for state in states:
        due_ms, bound_ms = state.next_due_ms, bound_of(now_ms, state.fired_ms)
        if due_ms is not None and until_ms is None:
            due_ms = -(-due_ms // STEP_MS) * STEP_MS
        if due_ms is not None and due_ms <= (bound_ms if until_ms is None else min(bound_ms, until_ms)):
            return True
    return False


def superseded(run: Run, rows: Numbers, newer: Iterable[Run]) -> Flags:
    """Which of the rows of a run are replaced by those of newer ones."""
    is_superseded = np.zeros(len(rows), np.bool_)
    if len(rows):
        at = pa.array(rows)
        hashes, keys, subkeys = run.hashes[rows], run.keys.take(at), run.subkeys.take(at)
        for one in newer:
            is_superseded |= one.holds(hashes, keys, subkeys)
    return is_superseded
