"""``SessionEach``: sessions of a key, which grow and merge while rows come. Pure, but for functions.

A row alone is a session from its time to a gap behind it. Sessions that overlap are one. It is a row of state under the time of
its first row, and expires where it ends: a gap behind its last row.

The idea, and where sessions end, are those of Beam's ``Sessions``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.rows.event_times import By
from beam_exactly_once.state.hashing import Numbers
from beam_exactly_once.state.run import Run
from beam_exactly_once.state.updates import CombineEach, as_it_is
from beam_exactly_once.state.windows.operator import CombineInWindows, Emit
from beam_exactly_once.state.windows.window_keys import ends_of
from beam_exactly_once.state.windows.windows import Falls


@dataclass(frozen=True)
class SessionEach(CombineInWindows):
    """``AggregateByWindow`` with sessions."""

    combine: CombineEach
    gap_ms: int
    by: By
    emit: Emit = field(default="final", init=False)
    """Alone: what was given of a session that merges into another would stay beside it."""
    adds_up: bool = field(default=False, init=False)

    lifted = staticmethod(as_it_is)

    @property
    def definition(self) -> Json:
        """As a checkpoint holds it."""
        return {"gap_ms": self.gap_ms}

    def falls(self, times_ms: Numbers, closed_ms: int | None, latest_ms: int) -> tuple[Falls, Numbers]:
        """Each row by its time. Late are those from the future; of others the worker knows that has the sessions of their key."""
        is_late = times_ms > latest_ms
        rows = np.flatnonzero(~is_late)
        return Falls(rows, times_ms[rows]), np.flatnonzero(is_late)

    def spans_of(self, run: Run) -> tuple[Numbers, Numbers]:
        """Keys have the times of first rows."""
        return ends_of(run.keys), run.expiry_ms


class Part(NamedTuple):
    """A session that is remembered, or a row."""

    first_ms: int
    last_ms: int
    is_stored: bool
    content: Any
    """What is remembered, or the values of rows of one time."""


class Session(NamedTuple):
    """Parts that overlap."""

    first_ms: int
    last_ms: int
    parts: list[Part]


def sessions_of(parts: Iterable[Part], gap_ms: int) -> Iterator[Session]:
    """The sessions that these make together."""
    found: list[Part] = []
    last_ms = 0
    for part in sorted(parts, key=_first_ms):
        if found and part.first_ms >= last_ms + gap_ms:
            yield Session(found[0].first_ms, last_ms, found)
            found = []
        last_ms = max(last_ms, part.last_ms) if found else part.last_ms
        found.append(part)
    if found:
        yield Session(found[0].first_ms, last_ms, found)


def _first_ms(part: Part) -> int:
    return part.first_ms
