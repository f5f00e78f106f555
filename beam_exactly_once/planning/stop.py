"""Where a read in an ordinary pipeline ends. Pure."""

from __future__ import annotations

import abc
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.planning.given import Offsets, milliseconds, moment_of, offsets_by_partition
from beam_exactly_once.planning.ranges import listed
from beam_exactly_once.planning.start import AtOffsets, AtTimestamp, LogsNow, Start, check_explicit_offsets

StopValue: TypeAlias = Literal["latest"] | datetime.datetime | Offsets
"""What a user writes: ``"latest"``, a moment with its time zone, or ``{"orders": {0: 23}}``."""


class Stop(abc.ABC):
    """Where a read ends."""

    __slots__ = ()

    @abc.abstractmethod
    def stop_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """The first offset of each partition that is not read.

        Raises:
            ConfigurationError, DataLoss: as :meth:`Start.first_offsets` does, for offsets that were given.
        """


def stop_of(value: StopValue) -> Stop:
    """The stop that a user's value says.

    Raises:
        ConfigurationError: it says none.
    """
    if value == "latest":
        return UpToLatest()
    if isinstance(value, datetime.datetime):
        return UpToTimestamp(milliseconds("stop", value))
    if isinstance(value, Mapping):
        return UpToOffsets(offsets_by_partition("stop", value))
    raise ConfigurationError(
        f"stop={value!r} is not known; use 'latest', a datetime with a time zone, or offsets, such as {{'orders': {{0: 23}}}}."
    )


@dataclass(frozen=True, slots=True)
class UpToLatest(Stop):
    """What is there when the pipeline runs."""

    def stop_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Of each partition, the latest."""
        return now.latest


@dataclass(frozen=True, slots=True)
class UpToTimestamp(Stop):
    """Up to each partition's first record at or after a moment."""

    timestamp_ms: int

    def stop_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Where the log has the first record of that time, within the bounds."""
        return now.at(self.timestamp_ms)


@dataclass(frozen=True, slots=True)
class UpToOffsets(Stop):
    """Up to the given offset of each partition; partitions that are not mentioned up to their latest."""

    offsets: Mapping[TopicPartition, int] = field(hash=False)

    def stop_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Those that were given, and the latest of all others."""
        check_explicit_offsets("stop", self.offsets, now)
        return {**now.latest, **self.offsets}


def refuse_reversed(start: Start, stop: Stop) -> None:
    """Refuse a start behind its stop, where both are moments, or offsets of one partition: it would read nothing and end well.

    Raises:
        ConfigurationError: there is one.
    """
    if isinstance(start, AtTimestamp) and isinstance(stop, UpToTimestamp) and start.timestamp_ms > stop.timestamp_ms:
        raise ConfigurationError(
            f"start={moment_of(start.timestamp_ms)} lies behind stop={moment_of(stop.timestamp_ms)}: nothing would be read. "
            "Correct one of them."
        )
    if isinstance(start, AtOffsets) and isinstance(stop, UpToOffsets):
        reversed_ones = [
            f"partition {one}: start offset {offset}, stop offset {stop.offsets[one]}"
            for one, offset in sorted(start.offsets.items())
            if offset > stop.offsets.get(one, offset)
        ]
        if reversed_ones:
            raise ConfigurationError(
                f"start offsets behind the stop offsets: {listed(reversed_ones)}. Nothing of them would be read. Correct one of "
                "both, or leave the partitions out of the source's topics."
            )


def passed_over(
    starts: Mapping[TopicPartition, int], stops: Mapping[TopicPartition, int], now: LogsNow
) -> Sequence[str]:
    """What a read passes over although there are records, as sentences.

    Those are partitions with a start behind their stop, which only the logs decide; and all, if nothing at all is read.

    Args:
        starts: of each partition.
        stops: the same.
        now: the logs that both were asked of.
    """
    is_read = any(starts[one] < stops[one] for one in now.partitions)
    return [
        f"partition {one}: start offset {starts[one]}, stop offset {stops[one]}, and the log holds [{log.earliest}, {log.latest})"
        for one, log in ((one, now.bounds[one]) for one in sorted(now.partitions))
        if log.earliest < log.latest and (starts[one] > stops[one] or not is_read)
    ]
