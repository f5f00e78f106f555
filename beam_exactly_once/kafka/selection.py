"""Which topics a source reads: by name, by partition, or by pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from beam_exactly_once.errors import ConfigurationError, UnknownTopic
from beam_exactly_once.kafka.log import KafkaLog
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.topics import TopicDescription

INTERNAL_PREFIX = "__"


@dataclass(frozen=True)
class TopicSelection:
    """Exactly one of three.

    Args:
        topics: all partitions of these.
        partitions: exactly these.
        pattern: a regular expression of Python that the *whole* name of a topic must match. Internal topics (``__…``)
            match only a pattern that itself begins with ``__``.

    Raises:
        ConfigurationError: none or several are given, or the pattern is no regular expression.
    """

    topics: tuple[str, ...] = ()
    partitions: tuple[TopicPartition, ...] = ()
    pattern: str | None = None

    def __post_init__(self) -> None:
        if [bool(self.topics), bool(self.partitions), self.pattern is not None].count(True) != 1:
            raise ConfigurationError(
                "give exactly one of topics=[…], partitions=[TopicPartition(…), …] and topic_pattern='…' to ReadFromKafka."
            )
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ConfigurationError(
                    f"topic_pattern={self.pattern!r} is no regular expression: {error}. To match any text write '.*'."
                ) from None

    def describe(self, log: KafkaLog) -> dict[str, TopicDescription]:
        """The selected topics, at a start: what is missing is an error at once.

        Raises:
            UnknownTopic: one of the named topics does not exist, or the pattern matches none.
        """
        if self.pattern is None:
            return log.describe(self.names, patient=False)
        visible = log.topics()
        names = self.matching(visible)
        if not names:
            raise UnknownTopic(self.no_match_message(visible))
        return log.describe(names)

    def no_match_message(self, visible: Sequence[str]) -> str:
        """What to say when the pattern matches none of the visible topics."""
        users = [name for name in visible if not name.startswith(INTERNAL_PREFIX)]
        shown = f", such as {', '.join(users[:3])}" if users else ""
        return (
            f"topic_pattern={self.pattern!r} matches none of the {len(users)} topics that Kafka shows us{shown}. The "
            "pattern must match the whole name; correct it, or create a topic, or check what we may see"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The topics that are named; none with a pattern."""
        return self.topics or tuple(sorted({one.topic for one in self.partitions}))

    def matching(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those that the pattern matches, sorted."""
        if self.pattern is None:
            return ()
        internal_too = self.pattern.lstrip("^").startswith(INTERNAL_PREFIX)
        matches = re.compile(self.pattern).fullmatch
        return tuple(
            sorted(name for name in names if (internal_too or not name.startswith(INTERNAL_PREFIX)) and matches(name))
        )
