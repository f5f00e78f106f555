"""Clients that are kept from one batch to the next, in processes that stay.

    with keeping_clients():                              # around a driver whose workers are in its process
        with borrowed(key, ReceiptsTopic, clock) as receipts: …    # the one that the batch before left, or a new one

A client has one user at a time: taken, it is gone, and put back only by who had no trouble with it. Where several processes run
a stream, only readers are kept: another worker may have the next batch, and would find a client that writes in its way.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol, TypeVar

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.per_process import renew_in_children

MAX_KEPT = 32
AGE_MAX_S = 60.0
"""A client idle for longer may have lost its connections or hold an old password. Opening it again costs little by comparison."""


class Closable(Protocol):
    """What can be kept."""

    def close(self) -> None:
        """End the connections. Never fails."""
        ...


_Client = TypeVar("_Client", bound=Closable)

_lock = threading.Lock()
_drivers = 0
_workers = 0
_kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
"""When a client was put here, and the client; the oldest first."""


def _renew() -> object:
    global _lock, _drivers, _workers, _kept
    inherited = _kept
    _lock, _drivers, _workers, _kept = threading.Lock(), 0, 0, OrderedDict()
    return inherited


renew_in_children(_renew)


@contextlib.contextmanager
def keeping_clients(*, readers_only: bool = False) -> Iterator[None]:
    """Let this process keep clients until the block ends. Nests; the last one out closes them.

    Args:
        readers_only: other processes run the same stream.
    """
    _count(not readers_only, readers_only)
    try:
        yield
    finally:
        _count(-(not readers_only), -readers_only)
        with _lock:
            left = [] if _drivers or _workers else [_kept.popitem()[1][1] for _ in range(len(_kept))]
        for client in left:
            client.close()


def _count(drivers: int, workers: int) -> None:
    global _drivers, _workers
    with _lock:
        _drivers, _workers = _drivers + drivers, _workers + workers


def is_keeping(*, reader: bool = False) -> bool:
    """Whether :func:`keep` would keep anything, or a client that only reads."""
    return _drivers > 0 or (reader and _workers > 0)


def take(key: Hashable, clock: Clock = SYSTEM_CLOCK) -> Any | None:
    """The client that was kept by this name, for the caller alone; None if there is none that is fresh enough."""
    with _lock:
        kept_s, client = _kept.pop(key, (0.0, None))
    if client is not None and clock.monotonic_s() - kept_s > AGE_MAX_S:
        client.close()
        return None
    return client


def keep(key: Hashable, client: Closable, clock: Clock = SYSTEM_CLOCK, *, reader: bool = False) -> None:
    """Leave a client for who takes it next, or close it.

    Args:
        key: its name.
        client: the client.
        clock: bounds how long it is kept.
        reader: it only reads, so that it is in the way of no other process's client.
    """
    unwanted: list[Any] = []
    with _lock:
        if key in _kept:
            unwanted.append(_kept.pop(key)[1])
        if is_keeping(reader=reader):
            _kept[key] = clock.monotonic_s(), client
        else:
            unwanted.append(client)
        while len(_kept) > MAX_KEPT:
            unwanted.append(_kept.popitem(last=False)[1][1])
    for one in unwanted:
        one.close()


@contextlib.contextmanager
def borrowed(key: Hashable, open_client: Callable[[], _Client], clock: Clock = SYSTEM_CLOCK) -> Iterator[_Client]:
    """The client that was kept by this name, or a new one; kept again, unless the block fails."""
    client: _Client = take(key, clock) or open_client()
    try:
        yield client
    except BaseException:
        client.close()
        raise
    keep(key, client, clock)
