"""Moments and offsets as a user gives them to ``start=`` and ``stop=``: plain values, checked. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TypeAlias

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.offsets import TopicPartition

Offsets: TypeAlias = Mapping[str, Mapping[int, int]]
"""An offset for each partition of each topic: ``{"orders": {0: 17, 1: 23}}``."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def milliseconds(argument: str, moment: datetime.datetime) -> int:
    """A moment since 1970 UTC. Rounded up: a record of the millisecond before is not at or after the moment.

    Raises:
        ConfigurationError: it has no time zone, or lies before 1970.
    """
    if moment.utcoffset() is None:
        raise ConfigurationError(
            f"{argument}={moment.isoformat()} has no time zone; give one, such as tzinfo=datetime.timezone.utc."
        )
    since_1970 = -((_EPOCH - moment) // datetime.timedelta(milliseconds=1))
    if since_1970 < 0:
        raise ConfigurationError(f"{argument}={moment.isoformat()} lies before 1970; use 'earliest' for all there is.")
    return since_1970


def moment_of(timestamp_ms: int) -> str:
    """The text of such a moment, for messages."""
    last = datetime.datetime.max.replace(tzinfo=datetime.timezone.utc) - _EPOCH  # rounded up, it lies beyond
    return (_EPOCH + min(datetime.timedelta(milliseconds=timestamp_ms), last)).isoformat(timespec="milliseconds")


def offsets_by_partition(argument: str, offsets: Offsets) -> dict[TopicPartition, int]:
    """The same offsets, by partition.

    Raises:
        ConfigurationError: there are none, or the mapping is not of topics to partitions to offsets.
    """
    if not offsets:
        raise ConfigurationError(
            f"{argument}={{}} names no offset; give some, as {{'orders': {{0: 17}}}}, or leave it out."
        )
    given: dict[TopicPartition, int] = {}
    for topic, of_topic in offsets.items():
        if not isinstance(topic, str) or not isinstance(of_topic, Mapping):
            raise ConfigurationError(
                f"{argument} has {topic!r}: {of_topic!r}; give offsets by topic and partition, as {{'orders': {{0: 17}}}}."
            )
        for partition, offset in of_topic.items():
            if not is_count(partition) or not is_count(offset):
                raise ConfigurationError(
                    f"{argument}: partition {partition!r} of {topic} has the offset {offset!r}; both are whole numbers of at "
                    "least 0. For the ends of a log, leave the partition out."
                )
            given[TopicPartition(topic, partition)] = offset
    return given


def is_count(number: object) -> bool:
    """Whether it is a whole number from 0 on."""
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
