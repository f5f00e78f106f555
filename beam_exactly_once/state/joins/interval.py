"""``Interval``: which rows of the other side a row matches, and how long one may still come. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.state.hashing import Numbers

LEFT, RIGHT = 0, 1
Sides: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
"""Of rows: :data:`LEFT` or :data:`RIGHT`."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A row of the right side matches one of the left that happened at ``t`` if it happened in ``[t - before, t + after]``."""

    before_ms: int
    after_ms: int

    def first_match_ms(self, sides: Sides, times_ms: Numbers) -> Numbers:
        """The earliest time at which a row of the other side matches each of these."""
        return times_ms - np.where(sides == LEFT, self.before_ms, self.after_ms)

    def last_match_ms(self, sides: Sides, times_ms: Numbers) -> Numbers:
        """The latest one."""
        return times_ms + np.where(sides == LEFT, self.after_ms, self.before_ms)

    def to_json(self) -> Json:
        """As a definition holds it."""
        return {"before_ms": self.before_ms, "after_ms": self.after_ms}
