"""What a topic is: its id, and when a name means another topic than before. Pure.

Kafka gives every topic an id that never comes back. A topic that is deleted and recreated has its old name and another
id, and its offsets mean other records, however long its log is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from beam_exactly_once.offsets import LogBounds, NextOffsets, OffsetRange, TopicPartition

TopicIds: TypeAlias = Mapping[str, str]
"""Kafka's id of each topic, by its name, as Kafka's own tools print it. A topic that is not in it: its id is unknown."""

OnDataLoss: TypeAlias = Literal["fail", "skip"]
"""What becomes of offsets that the log no longer has and nobody read: an error, or they are passed over, on the record."""

_MAX_NAMED = 5
WAY_OUT = (
    'To go on, set on_data_loss="skip": what is lost is then put on record, and a topic that was recreated is read from '
    "its earliest offset. To start over, use a new checkpoint_location."
)


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as Kafka has it now. ``topic_id`` is None with brokers that give none."""

    topic_id: str | None
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReplacedTopic:
    """A topic that another one of the same name has replaced: its id, and the next offset of each of its partitions."""

    topic_id: str
    next_offsets: Mapping[int, int]


def ids_of(topics: Mapping[str, TopicDescription]) -> dict[str, str]:
    """The ids that are known."""
    return {name: topic.topic_id for name, topic in topics.items() if topic.topic_id is not None}


def partitions_of(topics: Mapping[str, TopicDescription]) -> list[TopicPartition]:
    """All partitions of these topics, sorted."""
    return sorted(TopicPartition(name, partition) for name, topic in topics.items() for partition in topic.partitions)


def changed_ids(expected: TopicIds, present: TopicIds) -> list[str]:
    """Topics whose present id is known and is not the expected one."""
    return sorted(name for name, topic_id in expected.items() if present.get(name, topic_id) != topic_id)


def replaced_topics(next_offsets: NextOffsets, topic_ids: TopicIds, present: TopicIds) -> dict[str, ReplacedTopic]:
    """The topics whose next offsets belong to an id that is not the present one."""
    return {
        name: ReplacedTopic(topic_ids[name], _of_topic(name, next_offsets)) for name in changed_ids(topic_ids, present)
    }


def unread_of(
    replaced: Mapping[str, ReplacedTopic], last_bounds: Mapping[TopicPartition, LogBounds]
) -> list[OffsetRange]:
    """What replaced topics are known to have held when they were last looked at, and nobody read."""
    unread = []
    for one, log in sorted(last_bounds.items()):
        old = replaced.get(one.topic)
        if old is not None and old.next_offsets.get(one.partition, log.earliest) < log.latest:
            start = old.next_offsets.get(one.partition, log.earliest)
            unread.append(OffsetRange(one.topic, one.partition, start, log.latest))
    return unread


def replaced_message(replaced: Mapping[str, ReplacedTopic], present: TopicIds) -> str:
    """What has become of topics that a stream has read."""
    return _listed(_stood(name, old, present[name]) for name, old in sorted(replaced.items()))


def _stood(name: str, old: ReplacedTopic, present_id: str) -> str:
    return (
        f"topic {name} was deleted and recreated: its id is {present_id}, but the stream has read the topic with id "
        f"{old.topic_id}, {_places(old.next_offsets)}. What that one still held is lost"
    )


def _places(next_offsets: Mapping[int, int]) -> str:
    return _listed((f"partition {partition} up to {offset}" for partition, offset in next_offsets.items()), ", ")


def _of_topic(name: str, next_offsets: NextOffsets) -> dict[int, int]:
    return {one.partition: offset for one, offset in sorted(next_offsets.items()) if one.topic == name}


def changed_message(expected: TopicIds, present: TopicIds) -> str:
    """Says to a reader that what it was to read belongs to topics that are gone, and the ways on."""
    changed = _listed(
        f"topic {name} was deleted and recreated: its id is {present[name]}, but the ranges to read are of the topic with "
        f"id {expected[name]}"
        for name in changed_ids(expected, present)
    )
    return f"{changed}. Nothing of this batch is committed. {WAY_OUT}"


def gone_message(gone: Iterable[str], next_offsets: NextOffsets, pattern: str) -> str:
    """What has become of topics that a stream has read by ``topic_pattern='orders.*'`` and no longer finds."""
    topics = _listed(f"topic {name}, read {_places(_of_topic(name, next_offsets))}" for name in sorted(gone))
    return (
        f"{pattern} no longer finds: {topics}. What Kafka had after that is lost, unless a topic is hidden "
        "from us only for a while. Its place is kept, also when the pattern leaves it out"
    )


def dropped_message(dropped: NextOffsets) -> str:
    """What becomes of partitions that a stream has read and that its source no longer names."""
    topics = _listed(
        f"topic {name}, read {_places(_of_topic(name, dropped))}" for name in sorted({one.topic for one in dropped})
    )
    return f"no longer reads {topics}. It goes on there should they be named again, if what follows is still there"


def _listed(sentences: Iterable[str], separator: str = "; ") -> str:
    found = list(sentences)
    more = [f"and {len(found) - _MAX_NAMED} more"] if len(found) > _MAX_NAMED else []
    return separator.join([*found[:_MAX_NAMED], *more])
