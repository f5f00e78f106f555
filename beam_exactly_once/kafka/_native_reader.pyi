"""Of native_reader/, which is built where there is a compiler."""

from collections.abc import Callable
from typing import final

def load(path: str) -> int:
    """Find librdkafka's functions in the library at ``path``, loaded already, and in what it needs; gives librdkafka's version.

    Raises:
        ImportError: it is not loaded, or a function is missing.
    """

def newest_client(on_error: Callable[[int, bytes, int], None], /) -> object | None:
    """The client that this thread made last, if librdkafka loaded this file as a plugin for it, and it has no ``error_cb``; once.

    Args:
        on_error: is told of the client's errors instead, while what is returned lives: code, text, whether it is fatal.
    """

@final
class Partition:
    """The records of one partition of a client that reads no partition through its consumer. For one thread at a time."""

    def __new__(cls, client: object, topic: str, partition: int, wants_headers: bool, /) -> Partition:
        """To be opened before the client is assigned to the partition."""

    def take(
        self, seen: int, stop: int, trusted: int, max_records: int, max_bytes: int, wait_ms: int, /
    ) -> tuple[int, int, int, int, bytes]:
        """Take records in ``[seen, stop)`` into the columns, which hold at most so many; waits for the first one only.

        Returns:
            Where it stands now; why it stopped: 0 nothing is ready, 1 there is enough, 2 an event, 3 an offset that goes back or
            leaves a hole from ``trusted`` on, which stays in front; the offset of the event or record; the event's code and text.

        Raises:
            RuntimeError: the client is closed, of another process, or used by another thread.
        """

    def collect(self) -> tuple[object, int, int, int, int, int, int, list[tuple[int, int]]]:
        """End the columns: their owner; rows; headers; nulls among keys, values, values of headers; bytes; address and size of
        each buffer."""

    def state(self) -> tuple[int, int]:
        """Rows and bytes in the columns."""

    def close(self) -> None:
        """Give back what is pending."""
