"""Where a stream begins that has no checkpoint yet, and any other read. Pure."""

from __future__ import annotations

import abc
import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn, TypeAlias

from beam_exactly_once.errors import ConfigurationError, DataLoss
from beam_exactly_once.logs import GroupsLog, Log
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.planning.given import Offsets, milliseconds, offsets_by_partition
from beam_exactly_once.planning.ranges import listed


def _no_groups(group_id: str, partitions: Sequence[TopicPartition]) -> NoReturn:
    raise ConfigurationError(f"start=FromGroup({group_id!r}) needs consumer groups, which this log does not have.")


@dataclass(frozen=True, slots=True)
class LogsNow:
    """What a start or a stop may ask of the logs that a source reads."""

    partitions: Sequence[TopicPartition]
    """All that the source reads."""
    bounds: Mapping[TopicPartition, LogBounds]
    """Of each of them."""
    offsets_for_time: Callable[[Sequence[TopicPartition], int], Mapping[TopicPartition, int]]
    """``Log.offsets_for_time``; called only for a moment."""
    committed_offsets: Callable[[str, Sequence[TopicPartition]], Mapping[TopicPartition, int]] = _no_groups
    """``GroupsLog.committed_offsets``; called only for a group."""

    @classmethod
    def of(
        cls, log: Log, partitions: Sequence[TopicPartition], bounds: Mapping[TopicPartition, LogBounds] | None = None
    ) -> LogsNow:
        """Ask ``log``; for the bounds too, unless they are known."""
        of_groups = log.committed_offsets if isinstance(log, GroupsLog) else _no_groups
        return cls(partitions, bounds or log.bounds(partitions), log.offsets_for_time, of_groups)

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
            DataLoss: an explicit offset, or that of a group, lies below the partition's earliest.
            ConfigurationError: one lies above the partition's latest, or in a partition that is not read; or a group has
                committed nothing in any of them.
        """


@dataclass(frozen=True, slots=True)
class FromGroup(Start):
    """``start=`` at what a consumer group of Kafka has committed: to take over from another consumer.

    The group is read once, and neither joined nor changed. A partition in which it has committed nothing is read from its
    earliest offset, so that nothing is passed over.

    Args:
        group_id: of the group.
        otherwise: where to begin if the group has committed nothing in any of the partitions, as one that is new, or misspelt:
            ``"earliest"`` or ``"latest"``; None: that is an error.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    group_id: str
    otherwise: Literal["earliest", "latest"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.group_id, str) or not self.group_id:
            raise ConfigurationError(
                f"FromGroup({self.group_id!r}) must name a consumer group, as FromGroup('billing')."
            )
        if self.otherwise not in ("earliest", "latest", None):
            raise ConfigurationError(
                f"FromGroup({self.group_id!r}, otherwise={self.otherwise!r}) must say 'earliest', 'latest' or None."
            )

    def first_offsets(self, now: LogsNow) -> dict[TopicPartition, int]:
        """Those of the group, and the earliest of the partitions that it says nothing of."""
        committed = now.committed_offsets(self.group_id, now.partitions)
        if committed or not now.partitions:
            return AtOffsets(committed).first_offsets(now)
        if self.otherwise is None:
            raise ConfigurationError(
                f"the consumer group {self.group_id!r} of start= has committed nothing in the {len(now.partitions)} partitions "
                "that are read. Correct its name, or say where to begin then: FromGroup(…, otherwise='earliest')."
            )
        return now.earliest if self.otherwise == "earliest" else now.latest


StartValue: TypeAlias = Literal["earliest", "latest"] | datetime.datetime | Offsets | FromGroup
"""What a user writes: ``"earliest"``, ``"latest"``, a moment with its time zone, ``{"orders": {0: 17}}``, or a group."""


def start_of(value: StartValue) -> Start:
    """The start that a user's value says.

    Raises:
        ConfigurationError: it says none.
    """
    if isinstance(value, FromGroup):
        return value
    if value == "earliest":
        return FromEarliest()
    if value == "latest":
        return FromLatest()
    if isinstance(value, datetime.datetime):
        return AtTimestamp(milliseconds("start", value))
    if isinstance(value, Mapping):
        return AtOffsets(offsets_by_partition("start", value))
    raise ConfigurationError(
        f"start={value!r} is not known; use 'earliest', 'latest', a datetime with a time zone, offsets, such as "
        "{'orders': {0: 17}}, or FromGroup('billing')."
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
