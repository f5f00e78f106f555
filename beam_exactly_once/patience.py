"""Trying again: how often, how long, and with which pauses between tries.

The idea is that of tenacity and stamina. Those sleep by a clock of their own, which a simulation cannot turn.
"""

from __future__ import annotations

import math
import threading

from beam_exactly_once.clock import Clock
from beam_exactly_once.randomness import Random


class Patience:
    """How long one request is tried. What a failure means differs from place to place, so the loop is the caller's::

        patience = Patience(clock, timeout_s=60.0, first_pause_s=0.1)
        while True:
            try:
                return ask(patience.left_s)
            except NoAnswer:
                if patience.is_over:
                    raise
            patience.wait()

    Args:
        clock: tells time, and waits.
        timeout_s: no try begins later than that after the first one, which begins now.
        max_tries: no more tries than these.
        first_pause_s: the pause behind the first try. Each is twice the one before.
        max_pause_s: the longest pause; all are alike if it is left out.
        random_: shortens each pause by up to a half, so that many who failed together do not come back together.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        timeout_s: float = math.inf,
        max_tries: int | None = None,
        first_pause_s: float,
        max_pause_s: float | None = None,
        random_: Random | None = None,
    ) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._tries_left = max_tries
        self._pause_s = first_pause_s
        self._max_pause_s = first_pause_s if max_pause_s is None else max_pause_s
        self._random = random_
        self._began_s = clock.monotonic_s()

    @property
    def left_s(self) -> float:
        """Seconds until time is up; below 0 once it is."""
        return self._began_s + self._timeout_s - self._clock.monotonic_s()

    @property
    def next_s(self) -> float:
        """When the next try would begin: seconds from the begin of the first one."""
        return self._clock.monotonic_s() - self._began_s + self._pause_s

    @property
    def is_over(self) -> bool:
        """Whether the try that has failed was the last one."""
        return self._tries_left == 1 or self.next_s > self._timeout_s

    def wait(self, until: threading.Event | None = None) -> None:
        """The pause before the next try; ``until``, if it is set, ends it early."""
        share = 1.0 if self._random is None else self._random.uniform(0.5, 1.0)
        self._clock.wait(until or threading.Event(), self._pause_s * share)
        self._pause_s = min(2 * self._pause_s, self._max_pause_s)
        if self._tries_left is not None:
            self._tries_left -= 1
