"""Where a stream begins that has no checkpoint yet. Pure."""

from __future__ import annotations

import abc
import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from beam_exactly_once.errors import ConfigurationError, DataLoss
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.planning.given import Offsets, milliseconds, offsets_by_partition
from beam_exactly_once.planning.ranges import listed

StartValue: TypeAlias = Literal["earliest", "latest"] | datetime.datetime | Offsets
"""What a user writes: ``"earliest"``, ``"latest"``, a moment with its time zone, or ``{"orders": {0: 17}}``."""


@dataclass(frozen=True, slots=True)
class LogsNow:
    """What a start or a stop may ask of the logs that a source reads."""

    partitions: Sequence[TopicPartition]
    """All that the source reads."""
    bounds: Mapping[TopicPartition, LogBounds]
    """Of each of them."""
    offsets_for_time: Callable[[Sequence[TopicPartition], int], Mapping[TopicPartition, int]]
    """``Log.offsets_for_time``; called only for a moment."""

    @property
    def earliest(self) -> dict[TopicPartition, int]:
        """The first offset that each partition still has."""
        return {one: self.bounds[one].earliest for one in self.partitions}

    @property
    def latest(self) -> dict[TopicPartition, int]:
        """The first offset of each partition that no record has yet."""
        return {one: self.bounds[one].latest for one in self.partitions}

    def at(self, timestamp_ms: int) -> dict[TopicPartition, int]:
        """The first offset of that time in each partition; the latest where there is none."""
        found = self.offsets_for_time(self.partitions, timestamp_ms)
        # The log moves between the two requests, and an open transaction holds `latest` back: an offset outside
        # the bounds would look like data loss. Nearer than asked skips nothing.
        return {
            one: min(max(found[one], self.bounds[one].earliest), self.bounds[one].latest) for one in self.partitions
        }


class Start(abc.ABC):
    """Where a stream begins that has no checkpoint yet. Once it has one, the checkpoint alone decides."""

    __slots__ = ()

    @abc.abstractmethod
    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """The next offsets of a stream that has read nothing yet.

        Raises:
            DataLoss: an explicit offset lies below the partition's earliest.
            ConfigurationError: an explicit offset lies above the partition's latest, or in a partition that is not read.
        """


def start_of(value: StartValue) -> Start:
    """The start that a user's value says.

    Raises:
        ConfigurationError: it says none.
    """
    if value == "earliest":
        return FromEarliest()
    if value == "latest":
        return FromLatest()
    if isinstance(value, datetime.datetime):
        return AtTimestamp(milliseconds("start", value))
    if isinstance(value, Mapping):
        return AtOffsets(offsets_by_partition("start", value))
    raise ConfigurationError(
        f"start={value!r} is not known; use 'earliest', 'latest', a datetime with a time zone, or offsets, such as "
        "{'orders': {0: 17}}."
    )


@dataclass(frozen=True, slots=True)
class FromEarliest(Start):
    """From the first offset that the log still has."""

    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Of each partition, the earliest."""
        return now.earliest


@dataclass(frozen=True, slots=True)
class FromLatest(Start):
    """Only what arrives after the first plan."""

    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Of each partition, the latest."""
        return now.latest


@dataclass(frozen=True, slots=True)
class AtTimestamp(Start):
    """From each partition's first record at or after a moment; where there is none, from the latest offset."""

    timestamp_ms: int

    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Where the log has the first record of that time, within the bounds."""
        return now.at(self.timestamp_ms)


@dataclass(frozen=True, slots=True)
class AtOffsets(Start):
    """From the given offset of each partition; partitions that are not mentioned from their earliest."""

    offsets: Mapping[TopicPartition, int] = field(hash=False)

    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Those that were given, and the earliest of all others."""
        check_explicit_offsets("start", self.offsets, now)
        return {**now.earliest, **self.offsets}


def check_explicit_offsets(argument: str, offsets: Mapping[TopicPartition, int], now: LogsNow) -> None:
    """Refuse offsets of ``argument`` that no log has, or not yet, or that nobody would look at.

    Raises:
        ConfigurationError: one lies above the partition's latest, or in a partition that is not read.
        DataLoss: one lies below the partition's earliest.
    """
    unread = [str(one) for one in sorted(set(offsets) - set(now.partitions))]
    if unread:
        raise ConfigurationError(
            f"the {argument} offsets name partitions that this source does not read: {listed(unread)}. "
            "Correct them, or the source's topics."
        )
    below, above = [], []
    for topic_partition, offset in sorted(offsets.items()):
        log = now.bounds[topic_partition]
        fault = (
            f"partition {topic_partition}: {argument} offset {offset}, but the log holds [{log.earliest}, {log.latest})"
        )
        if offset < log.earliest:
            below.append(fault)
        elif offset > log.latest:
            above.append(fault)
    if above:
        raise ConfigurationError(
            f"{argument} offsets above the end of the log: {listed(above)}. Give offsets up to it, or use {argument}='latest'."
        )
    if below:
        end = "earliest" if argument == "start" else "latest"
        raise DataLoss(
            f"the log no longer has the {argument} offsets asked for: {listed(below)}. Give offsets that it has, or use "
            f"{argument}='{end}'."
        )
