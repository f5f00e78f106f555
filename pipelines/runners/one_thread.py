"""One thread that calls functions, one after the other.

What a step has set up may work in that thread alone. Nobody waits for such a thread at the end of the process: a step that does
not return must not keep a stream from its end.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class OneThread:
    """A thread that lives until :meth:`end`.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(name=name, target=self._run, daemon=True).start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Call a function behind those that wait; its result is that of the future."""
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    def end(self) -> None:
        """Let the thread go when it has called what waits."""
        self._calls.put(None)

    def _run(self) -> None:
        while (waiting := self._calls.get()) is not None:
            future, call = waiting
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            del waiting, future, call


class Here(OneThread):
    """The thread of whoever calls."""

    def __init__(self) -> None:
        pass

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Call a function now. An exception that is to end the thread passes."""
        future: Future[Any] = Future()
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)
        return future

    def end(self) -> None:
        """It goes on."""


HERE = Here()
