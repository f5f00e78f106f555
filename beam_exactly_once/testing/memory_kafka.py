"""Kafka in memory: topics whose records are given, behind the same protocol as the real client."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from beam_exactly_once.errors import DataLoss, UnknownTopic
from beam_exactly_once.kafka import Chunk, KafkaSettings, Record
from beam_exactly_once.logs import Log
from beam_exactly_once.logs.opening import LogSettings, override_logs
from beam_exactly_once.logs.records import check_range
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.topics import TopicDescription


class MemoryKafka:
    """A cluster in this process. Every client that is opened inside :meth:`serving` reads from it.

    Args:
        topics: number of partitions of each topic.
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._records: dict[TopicPartition, list[Record]] = {}
        self._bounds: dict[TopicPartition, LogBounds] = {}
        self._open_from: dict[TopicPartition, int] = {}
        """Where transactions begin that are not over, by partition."""
        self._ids: dict[str, str] = {}
        self._created: Counter[str] = Counter()
        self._committed: dict[str, dict[TopicPartition, int]] = {}
        """By group."""
        for topic, partitions in topics.items():
            self.add_partitions(topic, partitions)

    def add_partitions(self, topic: str, partitions: int) -> None:
        """Let the topic have that many partitions."""
        if topic not in self._ids:
            self._created[topic] += 1
            # The same in every process: what a checkpoint remembers may be served by another one's cluster.
            self._ids[topic] = f"{topic}#{self._created[topic]}"
        for partition in range(partitions):
            self._records.setdefault(TopicPartition(topic, partition), [])
            self._bounds.setdefault(TopicPartition(topic, partition), LogBounds(0, 0))

    def append(self, records: Iterable[Record]) -> None:
        """Append to the topic and partition that each record names; its ``offset`` is set to the log's end."""
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            bounds = self._bounds[place]
            self._records[place].append(record._replace(offset=bounds.latest))
            self._bounds[place] = LogBounds(bounds.earliest, bounds.latest + 1)

    def skip(self, topic: str, partition: int, offsets: int) -> None:
        """Leave a gap at the log's end, as control records and aborted transactions do."""
        place = TopicPartition(topic, partition)
        bounds = self._bounds[place]
        self._bounds[place] = LogBounds(bounds.earliest, bounds.latest + offsets)

    def begin_transaction(self, topic: str, partition: int) -> None:
        """Let a transaction be open: until it ends, ``read_committed`` is shown nothing that is appended from now on."""
        place = TopicPartition(topic, partition)
        self._open_from.setdefault(place, self._bounds[place].latest)

    def end_transaction(self, topic: str, partition: int) -> None:
        """Commit it."""
        del self._open_from[TopicPartition(topic, partition)]

    def compact(self, topic: str, partition: int, keep: Iterable[int]) -> None:
        """Remove every record of a partition but those at the offsets ``keep``; the log's bounds stay."""
        kept = set(keep)
        place = TopicPartition(topic, partition)
        self._records[place] = [record for record in self._records[place] if record.offset in kept]

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        """Let the log begin at ``before_offset``, as retention does."""
        place = TopicPartition(topic, partition)
        self._records[place] = [record for record in self._records[place] if record.offset >= before_offset]
        self._bounds[place] = LogBounds(before_offset, max(before_offset, self._bounds[place].latest))

    def delete_topic(self, topic: str) -> None:
        """Delete the topic. When :meth:`add_partitions` creates it again, it has another id."""
        del self._ids[topic]
        for place in self.partitions_of(topic):
            del self._records[place], self._bounds[place]
            for committed in self._committed.values():
                committed.pop(place, None)

    def ids(self) -> dict[str, str]:
        """The id of each topic."""
        return dict(self._ids)

    def commit(self, group_id: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Let a consumer group go on there."""
        self._committed.setdefault(group_id, {}).update(offsets)

    def committed(self, group_id: str) -> dict[TopicPartition, int]:
        """Where a consumer group goes on."""
        return dict(self._committed.get(group_id, {}))

    def bounds_of(self, place: TopicPartition) -> LogBounds:
        """What a partition holds."""
        return self._bounds[place]

    def committed_bounds_of(self, place: TopicPartition) -> LogBounds:
        """What a partition shows to ``read_committed``."""
        bounds = self._bounds[place]
        return LogBounds(bounds.earliest, min(bounds.latest, self._open_from.get(place, bounds.latest)))

    def partitions_of(self, topic: str) -> list[TopicPartition]:
        """Partitions of a topic; empty when it does not exist."""
        return sorted(place for place in self._bounds if place.topic == topic)

    def records_of(self, place: TopicPartition, start: int, stop: int, max_records: int) -> list[Record]:
        """Records at offsets in ``[start, stop)``, the first ``max_records`` of them."""
        records = self._records[place]
        first = bisect.bisect_left(records, start, key=lambda record: record.offset)
        last = bisect.bisect_left(records, stop, key=lambda record: record.offset)
        return records[first : min(last, first + max_records)]

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Let every Kafka client that is opened inside the block read from here, wherever it should."""
        with override_logs(
            lambda settings: self.log(settings) if isinstance(settings, KafkaSettings) else settings.open()
        ):
            yield

    def log(self, settings: LogSettings) -> Log:
        """A client of this cluster, whatever log the settings name."""
        return _MemoryLog(self, settings)


class _MemoryLog:
    """A client of :class:`MemoryKafka`."""

    def __init__(self, cluster: MemoryKafka, settings: LogSettings) -> None:
        self._cluster = cluster
        self._headers = not isinstance(settings, KafkaSettings) or settings.headers
        self._is_committed = settings.isolation_level == "read_committed"

    def topics(self) -> list[str]:
        return sorted(self._cluster.ids())

    def describe(self, topics: Sequence[str], *, patient: bool = True) -> dict[str, TopicDescription]:
        ids = self._cluster.ids()
        for topic in set(topics):
            if topic not in ids:
                raise UnknownTopic(f"topic {topic!r} does not exist in MemoryKafka; give it in topics={{…}}.")
        return {
            topic: TopicDescription(ids[topic], tuple(one.partition for one in self._cluster.partitions_of(topic)))
            for topic in sorted(set(topics))
        }

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, LogBounds]:
        return {place: self._bounds_of(place) for place in partitions}

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self.bounds(partitions)
        return {place: self._cluster.bounds_of(place).latest for place in partitions}

    def offsets_for_time(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        found = {}
        for place in partitions:
            bounds = self._bounds_of(place)
            records = self._cluster.records_of(place, bounds.earliest, bounds.latest, bounds.latest)
            found[place] = next((one.offset for one in records if one.timestamp_ms >= timestamp_ms), bounds.latest)
        return found

    def committed_offsets(self, group_id: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        committed = self._cluster.committed(group_id)
        return {place: committed[place] for place in partitions if place in committed}

    def commit_offsets(self, group_id: str, offsets: Mapping[TopicPartition, int]) -> None:
        self._cluster.commit(group_id, offsets)

    def next_chunk(self, topic_partition: TopicPartition, position: int, stop: int, max_records: int = 1000) -> Chunk:
        check_range(position, stop, max_records)
        bounds = self._bounds_of(topic_partition)
        if not bounds.earliest <= position < bounds.latest:
            raise DataLoss(
                f"partition {topic_partition} holds [{bounds.earliest}, {bounds.latest}), not offset {position}."
            )
        records = self._cluster.records_of(topic_partition, position, stop, max_records)
        if not self._headers:
            records = [record._replace(headers=()) for record in records]
        chunk_stop = records[-1].offset + 1 if len(records) == max_records else min(stop, bounds.latest)
        if not records:
            return Chunk.empty(topic_partition.topic, topic_partition.partition, position, chunk_stop)
        return Chunk.from_records(records, position, chunk_stop)

    def close(self) -> None:
        pass

    def _bounds_of(self, place: TopicPartition) -> LogBounds:
        if place not in self._cluster.partitions_of(place.topic):
            raise UnknownTopic(f"partition {place} does not exist in MemoryKafka; give it in topics={{…}}.")
        return self._cluster.committed_bounds_of(place) if self._is_committed else self._cluster.bounds_of(place)
