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
from beam_exactly_once.state.shard import OpenSlice
from beam_exactly_once.state.state_list import StateList

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


def next_due(one: OpenSlice, upper_ms: int) -> int | None:
    """When the next timer of a slice is due, once all up to ``upper_ms`` have fired; None if there is none.

    Before the batch none was due earlier than the slice says. So what was passed over once is not looked at again, and a slice
    that the batch has left as it was is not opened.
    """
    base_ms = one.base.next_due_ms
    if base_ms is None or (one.delta is None and base_ms > upper_ms):
        return earliest(base_ms, None if one.delta is None else first_due([one.delta], upper_ms))
    return first_due(one.changed + one.runs, upper_ms, max(upper_ms, base_ms - 1))


def first_due(runs_newest_first: Sequence[Run], upper_ms: int, older_ms: int | None = None) -> int | None:
    """When the first row expires after ``upper_ms`` that nothing supersedes; None if there is none.

    Args:
        runs_newest_first: of one slice.
        upper_ms: see above.
        older_ms: no row but those of the newest run does so earlier; None if that is not known.
    """
    next_ms = NEVER
    older_ms = upper_ms if older_ms is None else older_ms
    for number, run in enumerate(runs_newest_first):
        if next_ms <= older_ms + 1:
            break  # no older one can be earlier
        for rows in run.expiring(older_ms if number else upper_ms):
            rows = rows[run.expiry_ms[rows] < next_ms]
            live = rows[(run.versions[rows] != TOMBSTONE) & ~superseded(run, rows, runs_newest_first[:number])]
            if len(live):
                next_ms = int(run.expiry_ms[live[0]])
            if len(live) or not len(rows):
                break
    return None if next_ms == NEVER else next_ms


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
