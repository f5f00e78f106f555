"""Time, passed in. Nothing else in this library reads a clock.

No decision of the protocol rests on time: clocks pace triggers and bound waits.
"""

from __future__ import annotations

import datetime
import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What the library needs of time."""

    def utc_now(self) -> datetime.datetime:
        """The wall clock, in UTC, for people to read."""
        ...

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary point; never goes back."""
        ...

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait until ``event`` is set or ``timeout_s`` seconds have passed; say whether it is set."""
        ...


def now_ms(clock: Clock) -> int:
    """The wall clock as it is stored: milliseconds since 1970 UTC."""
    return int(clock.utc_now().timestamp() * 1000)


def moment_text(at_ms: int) -> str:
    """A stored moment for people to read, in UTC."""
    moment = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.timezone.utc)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


class SystemClock:
    """The machine's own clock."""

    def utc_now(self) -> datetime.datetime:
        """As the operating system tells it."""
        return datetime.datetime.now(datetime.timezone.utc)

    def monotonic_s(self) -> float:
        """As the operating system tells it."""
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait for real."""
        return event.wait(timeout_s)


SYSTEM_CLOCK: Clock = SystemClock()
"""The default of arguments that take a clock."""
