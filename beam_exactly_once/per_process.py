"""What one process opens once and shares: clients, pools of connections, answers of a server.

A connection that two processes hold is one session for its server: what one of them commits, the other one may have written.
So a forked child begins with none and opens its own. What it inherited it neither closes nor drops: closing a session ends it
for the parent, too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_inherited: list[object] = []


def renew_in_children(renew: Callable[[], object]) -> None:
    """Let each forked child call ``renew`` before it does anything else, and hold what that returns until it ends.

    ``renew`` puts new locks in the place of old ones, which a thread of the parent may have held at that moment.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _inherited.append(renew()))


class PerProcess(Generic[Key, Value]):
    """One value a key, opened at first use. For module-level names: it is never collected.

    Args:
        open_value: opens the value of a key. One runs at a time.
        max_kept: when there are more, the oldest is dropped, and closes when its last user has done with it.
    """

    def __init__(self, open_value: Callable[[Key], Value], max_kept: int | None = None) -> None:
        self._open_value = open_value
        self._max_kept = max_kept
        self._renew()
        renew_in_children(self._renew)

    def get(self, key: Key) -> Value:
        """The value of this process for ``key``. What opening it raises is not remembered."""
        found = self._values.get(key)
        if found is not None:
            return found
        with self._lock:
            found = self._values.get(key)
            if found is None:
                found = self._open_value(key)
                self._values[key] = found
                while self._max_kept is not None and len(self._values) > self._max_kept:
                    del self._values[next(iter(self._values))]
        return found

    def forget(self) -> None:
        """Open all values again when they are asked for."""
        with self._lock:
            self._values.clear()

    def __len__(self) -> int:
        return len(self._values)

    def _renew(self) -> object:
        inherited = getattr(self, "_values", None)
        self._lock = threading.Lock()
        self._values: dict[Key, Value] = {}
        return inherited
