"""Which topics a source reads: by name, by partition, or by pattern."""

from __future__ import annotations

import abc
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from beam_exactly_once.arguments import names
from beam_exactly_once.errors import ConfigurationError, UnknownTopic
from beam_exactly_once.logs import Log
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.topics import TopicDescription, partitions_of

INTERNAL_PREFIX = "__"


class TopicSelection(abc.ABC):
    """What a source reads; made by :func:`selection_of`."""

    __slots__ = ()

    @property
    def discovers(self) -> bool:
        """Whether topics that appear later are read, too."""
        return False

    @abc.abstractmethod
    def describe(self, log: Log, *, patient: bool = True) -> dict[str, TopicDescription]:
        """The selected topics as Kafka has them now.

        Args:
            log: of the cluster.
            patient: whether a topic that is missing is waited for, as while brokers change; at a start it is an error at once.

        Raises:
            UnknownTopic: one of the named topics does not exist; or, at a start, the pattern matches none.
        """

    @abc.abstractmethod
    def reads(self, topic: str) -> bool:
        """Whether a topic of this name is read, at least some of it."""

    def partitions_in(self, topics: Mapping[str, TopicDescription]) -> list[TopicPartition]:
        """The partitions that are read of these topics, sorted unless the user named them."""
        return partitions_of(topics)

    def is_read(self, partition: TopicPartition) -> bool:
        """Whether a partition is read that belongs to a topic which is, or was."""
        return True

    def gone(self, missing: Iterable[str]) -> frozenset[str]:
        """Of topics that were read and are not found any more, those that this selection should find."""
        return frozenset()


@dataclass(frozen=True, slots=True)
class NamedTopics(TopicSelection):
    """All partitions of these topics."""

    topics: tuple[str, ...]

    def describe(self, log: Log, *, patient: bool = True) -> dict[str, TopicDescription]:
        """See :class:`TopicSelection`."""
        return log.describe(self.topics, patient=patient)

    def reads(self, topic: str) -> bool:
        """Whether it was named."""
        return topic in self.topics

    def __str__(self) -> str:
        return f"topics={list(self.topics)}"


@dataclass(frozen=True, slots=True)
class NamedPartitions(TopicSelection):
    """Exactly these partitions."""

    partitions: tuple[TopicPartition, ...]

    def describe(self, log: Log, *, patient: bool = True) -> dict[str, TopicDescription]:
        """See :class:`TopicSelection`."""
        return log.describe(sorted({one.topic for one in self.partitions}), patient=patient)

    def reads(self, topic: str) -> bool:
        """Whether a partition of it was named."""
        return any(one.topic == topic for one in self.partitions)

    def partitions_in(self, topics: Mapping[str, TopicDescription]) -> list[TopicPartition]:
        """Those that were named."""
        return list(self.partitions)

    def is_read(self, partition: TopicPartition) -> bool:
        """Whether it was named."""
        return partition in self.partitions

    def __str__(self) -> str:
        return f"topics={_by_topic(self.partitions)}"


@dataclass(frozen=True, slots=True)
class TopicPattern(TopicSelection):
    """The topics whose whole name matches a regular expression. Internal topics (``__…``) match only a pattern that itself begins
    with ``__``.

    Raises:
        ConfigurationError: it is not a regular expression.
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except (re.error, TypeError) as error:
            raise ConfigurationError(
                f"{self} is not a regular expression: {error}. To match any text write '.*'."
            ) from None

    @property
    def discovers(self) -> bool:
        """It does."""
        return True

    def describe(self, log: Log, *, patient: bool = True) -> dict[str, TopicDescription]:
        """See :class:`TopicSelection`."""
        visible = log.topics()
        names = self.matching(visible)
        if not names and not patient:
            raise UnknownTopic(self._no_match_message(visible))
        return log.describe(names)

    def reads(self, topic: str) -> bool:
        """Whether it matches."""
        return bool(self.matching([topic]))

    def gone(self, missing: Iterable[str]) -> frozenset[str]:
        """Those that match."""
        return frozenset(self.matching(missing))

    def matching(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those that match, sorted."""
        internal_too = self.pattern.lstrip("^").startswith(INTERNAL_PREFIX)
        matches = re.compile(self.pattern).fullmatch
        return tuple(
            sorted(name for name in names if (internal_too or not name.startswith(INTERNAL_PREFIX)) and matches(name))
        )

    def _no_match_message(self, visible: Sequence[str]) -> str:
        users = [name for name in visible if not name.startswith(INTERNAL_PREFIX)]
        shown = f", such as {', '.join(users[:3])}" if users else ""
        return (
            f"{self} matches none of the {len(users)} topics that Kafka shows us{shown}. The pattern must match the whole name; "
            "correct it, or create a topic, or check what we may see"
        )

    def __str__(self) -> str:
        return f"topic_pattern={self.pattern!r}"


def selection_of(
    topics: Sequence[str] | Mapping[str, Sequence[int]] = (), pattern: str | None = None
) -> TopicSelection:
    """What a user asks for, by exactly one of two.

    Args:
        topics: names; or the partitions to read of each, as ``{"orders": [0, 1]}``.
        pattern: see :class:`TopicPattern`.

    Raises:
        ConfigurationError: none or both are given, the topics are not names, or the pattern is not a regular expression.
    """
    if bool(topics) == (pattern is not None):
        raise ConfigurationError(
            f"topics={topics!r}, topic_pattern={pattern!r}: give exactly one of them to ReadFromKafka, as topics=['orders'], "
            "topics={'orders': [0, 1]} or topic_pattern='orders-.*'."
        )
    if pattern is not None:
        return TopicPattern(pattern)
    if isinstance(topics, Mapping):
        return NamedPartitions(tuple(_partitions(topics)))
    return NamedTopics(names("topics", topics, of="topics"))


def _partitions(topics: Mapping[str, Sequence[int]]) -> Iterator[TopicPartition]:
    for topic in names("topics", tuple(topics), of="topics"):
        partitions = topics[topic]
        is_list = isinstance(partitions, Sequence) and bool(partitions) and len(set(partitions)) == len(partitions)
        if not is_list or not all(type(one) is int and one >= 0 for one in partitions):
            raise ConfigurationError(
                f"topics={{{topic!r}: {partitions!r}}} must list different partitions by their numbers, as {{{topic!r}: [0, 1]}}."
            )
        yield from (TopicPartition(topic, one) for one in partitions)


def _by_topic(partitions: Sequence[TopicPartition]) -> dict[str, list[int]]:
    topics: dict[str, list[int]] = {}
    for one in partitions:
        topics.setdefault(one.topic, []).append(one.partition)
    return topics
