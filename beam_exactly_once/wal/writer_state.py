"""Where a writer stands, for whoever looks after it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

MARKS = 64
"""So finely a writer remembers when it wrote the offsets of the id window."""


@dataclass(frozen=True, slots=True)
class WriterState:
    """Where a writer stands.

    ``waits_s`` is how long the segment under way has waited for the store, 0 without one; ``put_s`` how long all before it did.
    ``window_s`` is how old the oldest offset of the id window is; None while nothing has left it. ``clock_behind_s`` is how far
    the clock was behind that of earlier writers when this one claimed.
    """

    end: int
    ids: int
    window_s: float | None
    segments: int
    pending_bytes: int
    waits_s: float
    put_s: float
    clock_behind_s: float


class WindowAge:
    """When the offsets of the id window were written, roughly.

    Args:
        size: of the window, in offsets.
    """

    def __init__(self, size: int) -> None:
        self._step = max(1, size // MARKS)
        self._marks: deque[tuple[int, float]] = deque(maxlen=2 * MARKS)

    def note(self, base: int, now_s: float) -> None:
        """A segment was written that begins there."""
        if not self._marks or base - self._marks[-1][0] >= self._step:
            self._marks.append((base, now_s))

    def age_s(self, start: int, now_s: float) -> float | None:
        """How long ago the offset was written at which the window starts; None: it was before this writer."""
        while len(self._marks) > 1 and self._marks[1][0] <= start:
            self._marks.popleft()
        is_known = bool(self._marks) and self._marks[0][0] <= start
        return now_s - self._marks[0][1] if is_known else None
