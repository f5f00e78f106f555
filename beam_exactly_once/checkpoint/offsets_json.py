"""Ranges and offsets as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from beam_exactly_once.offsets import OffsetRange, TopicPartition
from beam_exactly_once.topics import ReplacedTopic

Json: TypeAlias = dict[str, Any]


def ranges_to_json(ranges: Iterable[OffsetRange]) -> Json:
    """``{topic: {partition: [[start, stop], …]}}``: compact, for a thousand partitions."""
    stored: Json = {}
    for one in sorted(ranges):
        stored.setdefault(one.topic, {}).setdefault(str(one.partition), []).append([one.start, one.stop])
    return stored


def ranges_from_json(stored: Json) -> tuple[OffsetRange, ...]:
    """The inverse of :func:`ranges_to_json`, sorted."""
    return tuple(
        sorted(
            OffsetRange(topic, int(partition), int(start), int(stop))
            for topic, partitions in stored.items()
            for partition, bounds in partitions.items()
            for start, stop in bounds
        )
    )


def next_offsets_to_json(next_offsets: Mapping[TopicPartition, int]) -> Json:
    """``{topic: {partition: next offset}}``."""
    stored: Json = {}
    for topic_partition, next_offset in sorted(next_offsets.items()):
        stored.setdefault(topic_partition.topic, {})[str(topic_partition.partition)] = next_offset
    return stored


def next_offsets_from_json(stored: Json) -> dict[TopicPartition, int]:
    """The inverse of :func:`next_offsets_to_json`."""
    return {
        TopicPartition(topic, int(partition)): int(next_offset)
        for topic, partitions in stored.items()
        for partition, next_offset in partitions.items()
    }


def range_to_json(one: OffsetRange) -> list[Any]:
    """``[topic, partition, start, stop]``."""
    return [one.topic, one.partition, one.start, one.stop]


def range_from_json(stored: list[Any]) -> OffsetRange:
    """The inverse of :func:`range_to_json`."""
    topic, partition, start, stop = stored
    return OffsetRange(str(topic), int(partition), int(start), int(stop))


def replaced_to_json(old: ReplacedTopic) -> Json:
    """A topic that was recreated, as it was read before."""
    next_offsets = {str(partition): offset for partition, offset in sorted(old.next_offsets.items())}
    return {"topic_id": old.topic_id, "next_offsets": next_offsets}


def replaced_from_json(stored: Json) -> ReplacedTopic:
    """The inverse of :func:`replaced_to_json`."""
    return ReplacedTopic(
        str(stored["topic_id"]),
        {int(partition): int(offset) for partition, offset in stored["next_offsets"].items()},
    )
