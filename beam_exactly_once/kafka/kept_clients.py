"""Clients that are kept from one batch to the next, where one process runs all batches of a stream.

    with keeping_clients():                              # around a driver whose workers are in its process
        with borrowed(key, ReceiptsTopic, …) as receipts: …    # the one that the batch before left, or a new one

A client has one user at a time: taken, it is gone, and put back only by who had no trouble with it. Elsewhere none is kept:
another worker may have the next batch, and would find a client of this one in its way.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol, TypeVar

from beam_exactly_once.clock import Clock, SystemClock

MAX_KEPT = 32
AGE_MAX_S = 60.0
"""Who waited longer may have lost its connections or hold an old password, and to be opened anew costs little by then."""


class Closable(Protocol):
    """What can be kept."""

    def close(self) -> None:
        """End the connections. Never fails."""
        ...


_Client = TypeVar("_Client", bound=Closable)

_clock: Clock = SystemClock()
_lock = threading.Lock()
_drivers = 0
_kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
"""When a client was put here, and the client; the oldest first."""


@contextlib.contextmanager
def keeping_clients() -> Iterator[None]:
    """Let this process keep clients until the block ends. Nests; the last one out closes them."""
    global _drivers
    with _lock:
        _drivers += 1
    try:
        yield
    finally:
        with _lock:
            _drivers -= 1
            left = [] if _drivers else [_kept.popitem()[1][1] for _ in range(len(_kept))]
        for client in left:
            client.close()


def is_keeping() -> bool:
    """Whether :func:`keep` would keep anything."""
    return _drivers > 0


def take(key: Hashable) -> Any | None:
    """The client that was kept by this name, for the caller alone; None if there is none that is fresh enough."""
    with _lock:
        kept_s, client = _kept.pop(key, (0.0, None))
    if client is not None and _clock.monotonic_s() - kept_s > AGE_MAX_S:
        client.close()
        return None
    return client


def keep(key: Hashable, client: Closable) -> None:
    """Leave a client for who takes it next, or close it."""
    unwanted: list[Any] = []
    with _lock:
        if key in _kept:
            unwanted.append(_kept.pop(key)[1])
        _kept[key] = _clock.monotonic_s(), client
        while len(_kept) > (MAX_KEPT if _drivers else 0):
            unwanted.append(_kept.popitem(last=False)[1][1])
    for one in unwanted:
        one.close()


@contextlib.contextmanager
def borrowed(key: Hashable, open_client: Callable[[], _Client]) -> Iterator[_Client]:
    """The client that was kept by this name, or a new one; kept again, unless the block fails."""
    client: _Client = take(key) or open_client()
    try:
        yield client
    except BaseException:
        client.close()
        raise
    keep(key, client)
