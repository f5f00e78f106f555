"""An admin client that dies where it is closed, and nowhere else.

The client gives its answers in a thread of its own, and ends the process if it is destroyed in that thread. Python collects
garbage in any thread: a client that only a cycle holds, such as that of a failed future, its exception and the frames of
its traceback, may be collected in just this one. So nobody but this module holds a client.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka.admin import AdminClient

from beam_exactly_once.per_process import renew_in_children

_Answer = TypeVar("_Answer")

_clients: dict[int, AdminClient] = {}
_forgotten: list[int] = []
"""Numbers of clients whose owner was collected without closing them: they are destroyed when the next one is opened."""
_numbers = itertools.count()


def _renew() -> object:
    """A child has the client's memory without its threads: it could not even be destroyed there."""
    global _clients, _forgotten
    inherited = (_clients, _forgotten)
    _clients, _forgotten = {}, []
    return inherited


renew_in_children(_renew)


def _forget(number: int) -> None:
    _forgotten.append(number)


class OwnedAdmin:
    """Owns an admin client.

    Args:
        open_client: makes it.
    """

    def __init__(self, open_client: Callable[[], AdminClient]) -> None:
        while _forgotten:
            _clients.pop(_forgotten.pop(), None)
        self._number = next(_numbers)
        _clients[self._number] = open_client()
        self._forget = weakref.finalize(self, _forget, self._number)

    def ask(self, request: Callable[[AdminClient], _Answer]) -> _Answer:
        """What ``request`` makes of the client, which it must not keep."""
        return request(_clients[self._number])

    def close(self) -> None:
        """Destroy the client, in this thread. Twice does no harm."""
        self._forget.detach()
        _clients.pop(self._number, None)
