"""``Windows``: spans of event time, and into which of them a row falls. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.state.hashing import Numbers


class Falls(NamedTuple):
    """Rows and the windows that they fall into: one entry for each pair of them."""

    rows: Numbers
    """Which of the rows."""
    ends_ms: Numbers
    """Where the window ends."""


@dataclass(frozen=True, slots=True)
class Windows:
    """All spans ``[start, start + size)`` whose start is a multiple of the period, moved by the offset.

    With the size as period they lie side by side; with a shorter one they overlap, and a row falls into several.
    """

    size_ms: int
    period_ms: int
    offset_ms: int = 0

    def of(self, times_ms: Numbers) -> Falls:
        """The windows of each row, those of a row beside each other, the last one first.

        Args:
            times_ms: when each row happened.
        """
        rows = np.arange(len(times_ms))
        last_starts = times_ms - (times_ms - self.offset_ms) % self.period_ms
        if self.period_ms == self.size_ms:
            return Falls(rows, last_starts + self.size_ms)
        most = -(-self.size_ms // self.period_ms)
        starts = last_starts[:, None] - np.arange(most) * self.period_ms
        holds = starts + self.size_ms > times_ms[:, None]  # not where periods do not fill a window
        return Falls(np.repeat(rows, most)[holds.ravel()], starts[holds] + self.size_ms)

    def to_json(self) -> Json:
        """As a definition holds it."""
        return {"size_ms": self.size_ms, "period_ms": self.period_ms, "offset_ms": self.offset_ms}
