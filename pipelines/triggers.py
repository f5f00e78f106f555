"""When batches run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from beam_exactly_once.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class AvailableNow:
    """Read all that is there when the stream starts, in as many batches as the limits ask for, then stop."""


@dataclass(frozen=True, slots=True)
class ProcessingTime:
    """A batch every ``seconds``, as long as there is something to read, until SIGTERM.

    Batches start on a fixed beat; one that takes longer is followed at once. Zero means as fast as possible.

    Args:
        seconds: from the start of one batch to the start of the next.
        batches_max: stop after that many batches; None means never.
    """

    seconds: float
    batches_max: int | None = None

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise ConfigurationError(f"ProcessingTime(seconds={self.seconds}) must not be negative.")


Trigger: TypeAlias = AvailableNow | ProcessingTime
