"""When batches run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from beam_exactly_once.arguments import seconds, true_or_false


@dataclass(frozen=True, slots=True)
class AvailableNow:
    """Read all that is there when the stream starts, in as many batches as the limits ask for, then stop.

    Timeouts that are due when it starts are called; one that is set again is due at the next start. What waits for the watermark
    stays open for the next start: windows, rows of joins, timeouts by event time. The log says which operators have some.

    Args:
        drain: when all is read, end the time of the sources, so that everything that is open closes: for data that is complete.
            There is no way back. What is read at a later start is late, and counted as such.

    Raises:
        ConfigurationError: it is no bool.
    """

    drain: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        true_or_false("drain", self.drain)


@dataclass(frozen=True, slots=True)
class ProcessingTime:
    """A batch every ``interval_s`` seconds, as long as there is something to read or a timeout is due, until SIGTERM.

    Batches start on a fixed beat; one that takes longer is followed at once. Zero means as fast as possible.

    Args:
        interval_s: seconds from the start of one batch to the start of the next.

    Raises:
        ConfigurationError: it is not such a number.
    """

    interval_s: float

    def __post_init__(self) -> None:
        seconds("interval_s", self.interval_s, zero=True)


Trigger: TypeAlias = AvailableNow | ProcessingTime
