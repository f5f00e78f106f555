"""A thread whose error is its caller's."""

from __future__ import annotations

import threading
from collections.abc import Callable


class RaisingThread(threading.Thread):
    """Keeps what went wrong, and raises it where it is ended."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self.join(120)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
