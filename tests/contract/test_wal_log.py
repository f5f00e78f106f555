"""The log of a write-ahead log: the contract that Kafka's log keeps, and what is its own."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

import pytest

from beam_exactly_once.errors import CorruptObject, DataLoss, NewerFormat, UnknownTopic
from beam_exactly_once.logs import Chunk, Log, Record
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.object_store.local import LocalStore
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.testing import LogContract, LogUnderTest
from beam_exactly_once.topics import TopicDescription
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.log import WalLog
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter
from beam_exactly_once.wal.segments import SegmentHeader, encode_segment

WAL = TopicPartition("wal", 0)
SEGMENT_RECORDS = 20


class _Logs(LogUnderTest):
    """A folder of logs, one for each topic. Segments begin at 0, without a claim, as the offsets of the contract do."""

    timestamp_type = 2

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stores: dict[str, ObjectStore] = {}

    def create_topic(self, topic: str, partitions: int) -> None:
        self.stores[topic] = LocalStore(self._folder / topic)
        location = WalLocation.create(self.stores[topic])
        for partition in range(partitions):
            location.create_partition(partition)

    def append(self, records: Sequence[Record]) -> None:
        places = sorted({(one.topic, one.partition) for one in records})
        for topic, partition in places:
            own = [one for one in records if (one.topic, one.partition) == (topic, partition)]
            for first in range(0, len(own), SEGMENT_RECORDS):
                self._put(topic, partition, own[first : first + SEGMENT_RECORDS])

    def _put(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        location = WalLocation.on(self.stores[topic])
        newest = location.newest(partition)
        new = [NewRecord(one.value, one.timestamp_ms, key=one.key, headers=one.headers) for one in records]
        base = 0 if newest is None else newest.stop
        rising_ms = max(one.arrived_ms for one in new)
        header = SegmentHeader("records", partition, base, len(new), 0, rising_ms, id_window=0, ids_from=0)
        location.put_segment(partition, base, encode_segment(location.log_id, header, NewRecords.of(new)))

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        location = WalLocation.on(self.stores[topic])
        location.put_floor(partition, before_offset)
        location.delete_segments(partition, list(location.bases_below(partition, before_offset)))

    def open_log(self) -> Log:
        return _ManyLogs(self)


class _ManyLogs:
    """Asks the log of each topic; what is under test is :class:`WalLog`."""

    def __init__(self, cluster: _Logs) -> None:
        self._cluster = cluster
        self._logs: dict[str, WalLog] = {}

    def _log(self, topic: str) -> WalLog:
        store = self._cluster.stores.get(topic, MemoryStore(f"memory://{topic}-{secrets.token_hex(4)}"))
        return self._logs.setdefault(topic, WalLog(store, topic))

    def topics(self) -> list[str]:
        return sorted(topic for name in self._cluster.stores for topic in self._log(name).topics())

    def describe(self, topics: Sequence[str], *, patient: bool = True) -> dict[str, TopicDescription]:
        return {name: one for topic in topics for name, one in self._log(topic).describe([topic]).items()}

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, LogBounds]:
        return {place: self._log(place.topic).bounds([place])[place] for place in partitions}

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {place: self._log(place.topic).ends([place])[place] for place in partitions}

    def offsets_for_time(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        return {one: self._log(one.topic).offsets_for_time([one], timestamp_ms)[one] for one in partitions}

    def next_chunk(self, topic_partition: TopicPartition, position: int, stop: int, max_records: int = 1000) -> Chunk:
        return self._log(topic_partition.topic).next_chunk(topic_partition, position, stop, max_records)

    def close(self) -> None:
        for log in self._logs.values():
            log.close()


class TestWalLog(LogContract):
    @pytest.fixture
    def cluster(self, tmp_path: Path) -> LogUnderTest:
        return _Logs(tmp_path)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(f"memory://{secrets.token_hex(8)}")


@pytest.fixture
def location(store: MemoryStore) -> WalLocation:
    return WalLocation.create(store)


def claimed(location: WalLocation) -> PartitionWriter:
    writer = PartitionWriter(location, 0, owner="test", id_window=0)
    writer.claim()
    return writer


def put(writer: PartitionWriter, *values: bytes, at_ms: int = 1) -> None:
    writer.begin(NewRecords.of(NewRecord(value, at_ms) for value in values))
    writer.put()


def read(log: WalLog, start: int, stop: int) -> list[tuple[int, bytes | None]]:
    found = []
    while start < stop:
        chunk = log.next_chunk(WAL, start, stop)
        found += [(one.offset, one.value) for one in chunk.records()]
        start = chunk.stop
    return found


def test_claims_are_offsets_without_a_record(location: WalLocation) -> None:
    """Ranges begin and end on a claim, inside a segment, and over ten claims."""
    put(claimed(location), b"a", b"b")
    for _ in range(9):
        claimed(location)
    put(claimed(location), b"c")
    records = {1: b"a", 2: b"b", 13: b"c"}

    log = WalLog(location.store, "wal")
    assert log.bounds([WAL]) == {WAL: LogBounds(0, 14)}
    for start in range(14):
        for stop in range(start + 1, 15):
            expected = [(offset, value) for offset, value in records.items() if start <= offset < stop]
            assert read(log, start, min(stop, 14)) == expected


def test_a_log_of_claims_alone_is_read(location: WalLocation) -> None:
    for _ in range(3):
        claimed(location)

    log = WalLog(location.store, "wal")

    assert log.bounds([WAL]) == {WAL: LogBounds(0, 3)}
    assert read(log, 0, 3) == []


def test_a_time_is_found_by_what_clocks_said_at_the_time(location: WalLocation) -> None:
    """One of them was far ahead for a while. What follows keeps its own time, and is found from the first that is late enough."""
    writer = claimed(location)
    for number, at_ms in enumerate([10, 20, 4_000_000, 30, 40]):
        put(writer, b"%d" % number, b"%d'" % number, at_ms=at_ms)
        if number == 2:
            writer = claimed(location)
    log = WalLog(location.store, "wal")

    times = {at_ms: log.offsets_for_time([WAL], at_ms)[WAL] for at_ms in (0, 10, 11, 20, 21, 35, 4_000_001)}

    assert [record.timestamp_ms for record in log.next_chunk(WAL, 8, 12).records()] == [30, 30, 40, 40]
    assert times == {0: 0, 10: 1, 11: 3, 20: 3, 21: 5, 35: 5, 4_000_001: 12}


def test_a_place_without_a_log_is_named(store: MemoryStore) -> None:
    log = WalLog(store, "wal")

    assert log.topics() == []
    with pytest.raises(UnknownTopic, match=f"{store.uri} holds no write-ahead log"):
        log.describe(["wal"])


def test_a_log_that_was_made_anew_is_another_topic(location: WalLocation) -> None:
    put(claimed(location), b"old")
    log = WalLog(location.store, "wal")
    old_id = log.describe(["wal"])["wal"].topic_id
    assert read(log, 0, 2) == [(1, b"old")]
    location.store.delete([entry.key for entry in location.store.list()])
    put(claimed(WalLocation.create(location.store)), b"new")

    assert log.describe(["wal"])["wal"].topic_id != old_id
    assert read(log, 0, 2) == [(1, b"new")]


def test_a_description_serves_for_the_bounds_behind_it_and_no_others(
    location: WalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(claimed(location), b"old")
    log, on, looks = WalLog(location.store, "wal"), WalLocation.on, []
    monkeypatch.setattr(WalLocation, "on", lambda store: looks.append(store) or on(store))
    log.describe(["wal"])
    assert log.bounds([WAL])[WAL].latest == 2
    assert len(looks) == 1
    location.store.delete([entry.key for entry in location.store.list()])
    claimed(WalLocation.create(location.store))

    assert log.bounds([WAL])[WAL].latest == 1
    assert len(looks) == 2


def test_what_lies_below_the_floor_is_not_read(location: WalLocation) -> None:
    """A request that the store carried out late: it is no part of the log."""
    put(claimed(location), b"a", b"b")
    put(claimed(location), b"c")
    location.put_floor(0, 3)

    log = WalLog(location.store, "wal")

    assert log.bounds([WAL]) == {WAL: LogBounds(3, 5)}
    with pytest.raises(DataLoss, match=r"wal-0 .* holds \[3, 5\), not offset 1"):
        log.next_chunk(WAL, 1, 3)
    assert read(log, 3, 5) == [(4, b"c")]


@pytest.mark.parametrize("at", [0, 9, 14, 40, -1])
def test_a_segment_that_was_altered_is_named(location: WalLocation, at: int) -> None:
    put(claimed(location), b"a", b"b")
    key = location.names.segment(0, 1)
    body = bytearray(location.store.get(key) or b"")
    body[at] ^= 1
    location.store.delete([key])
    location.store.put_if_absent(key, bytes(body))

    with pytest.raises((CorruptObject, NewerFormat), match=r"\.seg "):
        read(WalLog(location.store, "wal"), 0, 3)


def test_a_segment_that_was_cut_is_named(location: WalLocation) -> None:
    put(claimed(location), b"a" * 100)
    key = location.names.segment(0, 1)
    body = location.store.get(key) or b""
    for size in (0, 7, 12, 16, 200, len(body) - 1):
        location.store.delete([key])
        location.store.put_if_absent(key, body[:size])
        with pytest.raises(CorruptObject, match=r"\.seg "):
            read(WalLog(location.store, "wal"), 0, 2)
