"""No search for garbage while many small values are made that stay."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from beam_exactly_once.per_process import renew_in_children


class _Pauses:
    """How many blocks of this process are inside: the first one switches the collector off, the last one on again."""

    def __init__(self) -> None:
        self._begin()
        renew_in_children(self._renew)

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._was_on = gc.isenabled()
                gc.disable()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            if self._inside:  # not in a child that was forked inside
                self._inside -= 1
                if not self._inside and self._was_on:
                    gc.enable()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._inside, self._was_on = 0, False

    def _renew(self) -> None:
        """In a forked child, which has none of the threads that were inside."""
        was_on = self._was_on and self._inside > 0
        self._begin()
        if was_on:
            gc.enable()


_PAUSES = _Pauses()


@contextmanager
def no_collection() -> Iterator[None]:
    """Python looks for cycles whenever some hundred containers were made, and now and then through all that there are.

    A batch makes a hundred thousand, none of which is in a cycle: to look for one takes five times as long as to make them. For
    plain values and accumulators; not for ``fn`` of ``UpdateStateByKey``, which may make cycles. Threads may overlap.
    """
    _PAUSES.enter()
    try:
        yield
    finally:
        _PAUSES.leave()
