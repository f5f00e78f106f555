"""Reads of a store that do not wait for each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 16
"""Reads at a time: a request to a store is mostly waiting."""

Key = TypeVar("Key")
Found = TypeVar("Found")


def side_by_side(
    read: Callable[[Key], Found], keys: Iterable[Key], at_once: int = AT_ONCE
) -> Iterator[tuple[Key, Found]]:
    """Each key with what ``read`` finds, in the order of the keys; what it raises comes when it is the key's turn.

    Args:
        read: called in threads; in this one if ``at_once`` is 1.
        keys: taken as far as they are needed.
        at_once: so many are read, or wait to be taken.
    """
    if at_once == 1:
        yield from ((key, read(key)) for key in keys)
        return
    asked: deque[tuple[Key, Future[Found]]] = deque()
    with ThreadPoolExecutor(at_once, "store-read") as pool:
        try:
            for key in keys:
                asked.append((key, pool.submit(read, key)))
                if len(asked) == at_once:
                    first, answer = asked.popleft()
                    yield first, answer.result()
            while asked:
                first, answer = asked.popleft()
                yield first, answer.result()
        finally:
            for _, answer in asked:
                answer.cancel()
