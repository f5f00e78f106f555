"""A write-ahead log as readers see it: a :class:`~beam_exactly_once.logs.Log` with one topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from beam_exactly_once.errors import DataLoss, UnknownTopic
from beam_exactly_once.logs import Chunk, Columns
from beam_exactly_once.logs.records import Headers, bytes_of, check_range
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.topics import TopicDescription
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.read_ahead import ReadAhead
from beam_exactly_once.wal.readers import WalReader
from beam_exactly_once.wal.segments import Segment, SegmentHeader

ARRIVAL_TIME = 2
"""The type of a record's timestamp: when the log took it."""
MAX_CHUNK_BYTES = 16 << 20
"""A chunk takes no further segment beyond it."""


class WalLog:
    """The log at a location. Nothing is asked before it is used.

    Offsets are read by the chain of segments: each says where the next one begins. Listings only find the first of a range.

    Args:
        store: the location.
        topic: what the log is called in records, plans and errors.
        reads_ahead: fetch the next segments of a range, in threads, while one is read. For stores behind a network.
    """

    def __init__(self, store: ObjectStore, topic: str, *, reads_ahead: bool = False) -> None:
        self._store = store
        self._topic = topic
        self._reads_ahead = reads_ahead
        self._ahead: ReadAhead | None = None
        self._location: WalLocation | None = None
        self._is_described = False
        self._newest: dict[int, SegmentHeader] = {}
        self._read: tuple[int, Segment] | None = None
        """Partition and segment that were read last."""
        self._next: TopicPartition | None = None
        self._next_offset = -1

    def topics(self) -> list[str]:
        """See :meth:`Log.topics`."""
        try:
            self._look()
        except UnknownTopic:
            return []
        return [self._topic]

    def describe(self, topics: Sequence[str], *, patient: bool = True) -> dict[str, TopicDescription]:
        """See :meth:`Log.describe`; a log has one topic, whose id is that of the log."""
        if not topics:
            return {}
        location = self._look()
        for topic in topics:
            if topic != self._topic:
                raise UnknownTopic(f"the log at {self._store.uri} has no topic {topic}; it is called {self._topic}")
        self._is_described = True
        return {self._topic: TopicDescription(location.log_id, tuple(location.partitions()))}

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, LogBounds]:
        """See :meth:`Log.bounds`. The end is always one of a segment, so a range never ends in what may still change.

        Of the log that is there now: a reader that waits for more must see that it was made anew. Who plans has just asked for
        a description, which serves for the bounds behind it.
        """
        if not self._is_described:
            self._look()
        self._is_described = False
        return {place: self._bounds_of(place) for place in partitions}

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See :meth:`Log.ends`. Nothing that is in a segment is hidden."""
        return {place: bounds.latest for place, bounds in self.bounds(partitions).items()}

    def offsets_for_time(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        """See :meth:`Log.offsets_for_time`."""
        return {place: self._offset_for_time(place, timestamp_ms) for place in partitions}

    def next_chunk(self, topic_partition: TopicPartition, position: int, stop: int, max_records: int = 1000) -> Chunk:
        """See :meth:`Log.next_chunk`."""
        check_range(position, stop, max_records)
        if (self._next, self._next_offset) != (topic_partition, position):
            self._check_begin(topic_partition, position)
        columns = Columns([], [], [], [], [], None)
        headers: list[Headers] = []
        size_bytes, end = 0, position
        while end < stop and len(columns.offsets) < max_records and size_bytes < MAX_CHUNK_BYTES:
            segment = self._segment_with(topic_partition, end, stop)
            taken_to = min(segment.header.stop, stop, end + max_records - len(columns.offsets))
            if not segment.header.is_claim:
                part = slice(end - segment.header.base, taken_to - segment.header.base)
                columns.offsets.extend(range(end, taken_to))
                columns.timestamps_ms.extend(segment.arrived_ms[part])
                columns.keys.extend(segment.keys[part])
                columns.values.extend(segment.values[part])
                headers.extend(segment.headers[part] if segment.headers else [()] * (taken_to - end))
                size_bytes += bytes_of(segment.values[part])
            end = taken_to
        self._next, self._next_offset = topic_partition, end
        columns.timestamp_types.extend([ARRIVAL_TIME] * len(columns.offsets))
        has_headers = any(headers)
        columns = columns._replace(headers=headers if has_headers else None)
        return Chunk(topic_partition.topic, topic_partition.partition, position, end, columns)

    def hold(self, stream_id: str, source: str) -> dict[TopicPartition, int]:
        """See :meth:`HeldLog.hold`. It is a hold of the log that is there now, and of none that takes its place."""
        location = self._look()
        reader = WalReader(location, stream_id, source)
        reader.hold()
        least = reader.first_offsets(location.partitions())
        return {TopicPartition(self._topic, partition): offset for partition, offset in least.items()}

    def let_go(self, stream_id: str, source: str, batch_id: int, next_offsets: Mapping[TopicPartition, int]) -> None:
        """See :meth:`HeldLog.let_go`."""
        reader = WalReader(self._located(), stream_id, source)
        reader.finished(batch_id, {one.partition: offset for one, offset in next_offsets.items()})

    def close(self) -> None:
        """See :meth:`Log.close`. Stores keep their own clients."""
        if self._ahead is not None:
            self._ahead.close()

    # -- where things are ----------------------------------------------------------------------------------------------

    def _look(self) -> WalLocation:
        """The log that is there now. One that was made anew is another one, and nothing is remembered of the old."""
        found = WalLocation.on(self._store)
        if self._location is None or self._location.log_id != found.log_id:
            self.close()
            self._location, self._newest, self._read, self._next = found, {}, None, None
            self._ahead = ReadAhead(found) if self._reads_ahead else None
        return self._location

    def _located(self) -> WalLocation:
        return self._location or self._look()

    def _bounds_of(self, place: TopicPartition) -> LogBounds:
        location = self._located()
        floor = location.floor(place.partition)  # first: what is newest later is never below it
        newest = self._newest_of(place)
        return LogBounds(floor, 0 if newest is None else newest.stop)

    def _newest_of(self, place: TopicPartition) -> SegmentHeader | None:
        location = self._located()
        base = location.newest_base(place.partition)
        known = self._newest.get(place.partition)
        if base is not None and (known is None or known.base != base):
            known = location.header(place.partition, base) or location.newest(place.partition)
        if known is not None:
            self._newest[place.partition] = known
        elif place.topic != self._topic or place.partition not in location.partitions():
            raise UnknownTopic(f"the log at {self._store.uri} has no partition {place}; its writer has not started yet")
        return known

    def _check_begin(self, place: TopicPartition, position: int) -> None:
        """Below its floor a partition may hold what was put late: it is no part of the log."""
        if position < self._located().floor(place.partition):
            self._lost(place, position)

    def _segment_with(self, place: TopicPartition, offset: int, stop: int) -> Segment:
        """The segment that holds an offset; what follows it up to ``stop`` will be asked for, too."""
        if self._read is not None:
            partition, segment = self._read
            if partition == place.partition and segment.header.base <= offset < segment.header.stop:
                return segment
        location = self._located()
        found = (self._ahead or location).segment(place.partition, offset)  # in most cases it begins there
        if found is None:
            base = location.base_at(place.partition, offset)
            found = None if base is None else location.segment(place.partition, base)
        if found is None or not found.header.base <= offset < found.header.stop:
            self._lost(place, offset)
        self._read = place.partition, found
        if self._ahead is not None and found.header.stop < stop:
            self._ahead.go_on(place.partition, found.header, stop)
        return found

    def _lost(self, place: TopicPartition, offset: int) -> NoReturn:
        bounds = self._bounds_of(place)
        raise DataLoss(
            f"partition {place} of the log at {self._store.uri} holds [{bounds.earliest}, {bounds.latest}), not offset {offset}"
        )

    def _offset_for_time(self, place: TopicPartition, timestamp_ms: int) -> int:
        """Halving: up to each segment's end the latest arrival time is known, and never goes back."""
        bounds = self._bounds_of(place)
        low, high = bounds.earliest, bounds.latest
        while low < high:
            header = self._located().header_at(place.partition, (low + high) // 2)
            if header is None or not header.base <= (low + high) // 2 < header.stop:
                self._lost(place, (low + high) // 2)
            if header.rising_ms < timestamp_ms:
                low = header.stop
            else:
                high = max(header.base, low)
        if low == bounds.latest:
            return low
        found = self._segment_with(place, low, low + 1)
        numbered = enumerate(found.arrived_ms, start=found.header.base)
        return next((offset for offset, at_ms in numbered if offset >= low and at_ms >= timestamp_ms), low)
