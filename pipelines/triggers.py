"""When batches run."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TypeAlias

from beam_exactly_once.arguments import seconds, true_or_false, whole_number
from beam_exactly_once.errors import ConfigurationError


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


@dataclass(frozen=True, slots=True)
class Continuous:
    """One unbounded pipeline that plans a batch every ``interval_s`` seconds by itself, until SIGTERM.

    Nothing is submitted and nothing started for a batch, so it takes less than with :class:`ProcessingTime` on the same runner.
    A driver watches the pipeline, and submits it anew when it fails, vanishes or falls silent. It runs on PrismRunner and on a
    Flink cluster; the checkpoint is the same as with the other triggers, which may take its place at every start.

    Args:
        interval_s: seconds from the start of one batch to the start of the next; zero means as fast as possible.
        max_batches_in_flight: how many batches may be on their way. Only 1 yet.
        max_batches_of_job: after so many batches the pipeline is submitted anew, when they are published. None leaves that to
            the runner: 10,000 on Flink, which keeps up to 2 KB of each, and no limit on Prism, which keeps nothing.

    Raises:
        ConfigurationError: one is not such a number.
    """

    interval_s: float = 1.0
    _: KW_ONLY
    max_batches_in_flight: int = 1
    max_batches_of_job: int | None = None

    def __post_init__(self) -> None:
        seconds("interval_s", self.interval_s, zero=True)
        whole_number("max_batches_in_flight", self.max_batches_in_flight)
        whole_number("max_batches_of_job", self.max_batches_of_job, none="what the runner bears")
        if self.max_batches_in_flight != 1:
            raise ConfigurationError(
                f"max_batches_in_flight={self.max_batches_in_flight} is not possible yet: a batch begins when the one before is "
                "published. Leave it out, or pass 1."
            )


Trigger: TypeAlias = AvailableNow | ProcessingTime | Continuous
