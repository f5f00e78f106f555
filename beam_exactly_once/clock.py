"""Time, passed in. Nothing else in this library reads a clock.

No decision of the protocol rests on time: clocks pace triggers and bound waits.
"""

from __future__ import annotations

import datetime
import threading
import time
from typing import Protocol

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The first and last millisecond of the years that a date can have."""


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
    """A stored moment for people to read, in UTC; of one beyond the years that a date can have, the nearest."""
    moment = _EPOCH + datetime.timedelta(milliseconds=min(max(at_ms, _FIRST_MS), _LAST_MS))
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
