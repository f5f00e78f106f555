"""Lanes on an imagined client that hands out runs of any partition in any order: what comes out is the log, or nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as ClientTopicPartition

from beam_exactly_once.clock import SystemClock
from beam_exactly_once.kafka import lanes as lanes_module
from beam_exactly_once.kafka.lanes import Lanes
from beam_exactly_once.offsets import OffsetRange, TopicPartition

IDS = {"orders": "id"}
Log = list[int]
"""The offsets of a partition that have a record; the log ends behind the last one, or at a gap."""


class ImaginedClient:
    """Gives each partition's records in order, the partitions in any. Told to be odd, it also gives what no log has."""

    def __init__(self, logs: dict[int, Log], ends: dict[int, int], random_: random.Random) -> None:
        self.logs, self.ends, self.random = logs, ends, random_
        self.positions: dict[int, int] = {}
        self.at_end: set[int] = set()
        self.odd: dict[int, str] = {}
        self.unassigned: list[int] = []
        self.is_closed = False
        self.queue: list[Message] = []
        self.counts: list[int] = []

    def assign(self, places: Sequence[ClientTopicPartition]) -> None:
        self.positions = {place.partition: place.offset for place in places}
        self.at_end = set()
        self.queue = []

    def unassign(self) -> None:
        self.unassigned += self.positions
        self.positions = {}
        self.queue = []

    def incremental_unassign(self, places: Sequence[ClientTopicPartition]) -> None:
        for place in places:
            del self.positions[place.partition]  # an error if it is not assigned
            self.unassigned.append(place.partition)
            self.queue = [one for one in self.queue if one.partition() != place.partition]

    def get_watermark_offsets(self, place: ClientTopicPartition, cached: bool) -> tuple[int, int]:
        return 0, self.ends[place.partition]

    def list_topics(self, topic: str, timeout: float) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True

    def consume(self, count: int, timeout: float) -> list[Message]:
        speaking = [one for one in self.positions if self.odd.get(one) != "silent"]
        for partition in self.random.sample(speaking, self.random.randint(0, len(speaking))):
            self.queue += self._run(partition, self.random.randint(1, 5))
        if not timeout:
            self.counts.append(count)
        taken, self.queue = self.queue[:count], self.queue[count:]
        return taken

    def _run(self, partition: int, count: int) -> list[Message]:
        position = self.positions[partition]
        ready = [offset for offset in self.logs[partition] if offset >= position][:count]
        if ready:
            self.positions[partition] = ready[-1] + 1
            found = [message(partition, offset) for offset in ready]
        elif partition in self.at_end:
            return []
        else:
            self.at_end.add(partition)
            found = [event(partition, KafkaError._PARTITION_EOF, self.ends[partition])]
        odd = self.odd.get(partition)
        if odd == "error":
            found.append(event(partition, KafkaError._AUTO_OFFSET_RESET, position))
        elif odd == "back" and ready:
            found.append(message(partition, ready[0]))
        elif odd == "beyond" and ready:
            found.append(message(partition, self.ends[partition] + 1000))
        return found


def message(partition: int, offset: int) -> Message:
    return Message(topic="orders", partition=partition, offset=offset, value=b"%d-%d" % (partition, offset))


def event(partition: int, code: int, offset: int) -> Message:
    return Message(topic="orders", partition=partition, offset=offset, error=KafkaError(code))


def drawn(random_: random.Random, partitions: int) -> tuple[ImaginedClient, list[OffsetRange]]:
    """Logs with gaps, and a range of each."""
    logs, ends, ranges = {}, {}, []
    for partition in range(partitions):
        end = random_.randint(1, 60)
        logs[partition] = [offset for offset in range(end) if random_.random() < 0.7]
        ends[partition] = end
        start = random_.randrange(end)
        ranges.append(OffsetRange("orders", partition, start, random_.randint(start + 1, end)))
    random_.shuffle(ranges)
    return ImaginedClient(logs, ends, random_), ranges


def opened(client: ImaginedClient) -> Lanes:
    return Lanes(lambda: client, SystemClock(), wants_headers=True)  # type: ignore[arg-type, return-value]


def read(lanes: Lanes, one: OffsetRange, random_: random.Random) -> tuple[list[bytes | None], int]:
    """What a lane hands out of a range, and where it stops."""
    values: list[bytes | None] = []
    position = one.start
    while position < one.stop:
        chunk = lanes.next_chunk(one.topic_partition, position, one.stop, random_.randint(1, 9))
        if chunk is None:
            break
        assert position == chunk.start < chunk.stop <= one.stop
        values += [record.value for record in chunk.records()]
        position = chunk.stop
    return values, position


def held(client: ImaginedClient, one: OffsetRange, stop: int) -> list[bytes]:
    offsets = [offset for offset in client.logs[one.partition] if one.start <= offset < stop]
    return [b"%d-%d" % (one.partition, offset) for offset in offsets]


@pytest.mark.parametrize("seed", range(60))
def test_lanes_hand_out_the_log_whatever_comes_first(seed: int) -> None:
    random_ = random.Random(seed)
    client, ranges = drawn(random_, random_.randint(1, 8))
    lanes = opened(client)
    for _ in range(2):  # on one client
        lanes.open(ranges, IDS)
        for one in ranges:
            assert read(lanes, one, random_) == (held(client, one, one.stop), one.stop)
        assert lanes.rest()
        assert not client.positions


@pytest.mark.parametrize("seed", range(60))
def test_a_lane_that_is_told_what_cannot_be_hands_out_nothing_of_it(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "_PATIENCE_S", 0.0)
    random_ = random.Random(seed)
    client, ranges = drawn(random_, 6)
    client.odd = {one: random_.choice(["error", "back", "beyond", "silent"]) for one in random_.sample(range(6), 3)}
    lanes = opened(client)
    lanes.open(ranges, IDS)
    for one in ranges:
        values, stop = read(lanes, one, random_)
        assert values == held(client, one, stop)


@pytest.mark.parametrize("odd", ["error", "silent"])
def test_a_client_that_had_trouble_is_not_kept(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "_PATIENCE_S", 0.0)
    client = ImaginedClient({0: [0]}, {0: 1}, random.Random(0))
    client.odd = {0: odd}
    lanes = opened(client)
    lanes.open([OffsetRange("orders", 0, 0, 1)], IDS)
    while lanes.next_chunk(TopicPartition("orders", 0), 0, 1, 10) is not None:
        pass
    assert not lanes.rest()
    assert client.is_closed


def test_a_topic_with_another_id_gets_another_client() -> None:
    """What a client knows of a topic's leaders may be of the topic before it."""
    clients: list[ImaginedClient] = []

    def open_consumer() -> Consumer:
        clients.append(ImaginedClient({0: [0, 1]}, {0: 2}, random.Random(0)))
        return clients[-1]  # type: ignore[return-value]

    lanes = Lanes(open_consumer, SystemClock(), wants_headers=True)
    for id_ in ("one", "one", "two"):
        lanes.open([OffsetRange("orders", 0, 0, 2)], {"orders": id_})
        assert lanes.rest()
    assert [client.is_closed for client in clients] == [True, False]


def test_a_client_of_topics_without_ids_is_not_kept() -> None:
    client = ImaginedClient({0: [0]}, {0: 1}, random.Random(0))
    lanes = opened(client)
    lanes.open([OffsetRange("orders", 0, 0, 1)], {"orders": None})
    assert not lanes.rest()
    assert client.is_closed


def test_lanes_hold_so_many_bytes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are asked last are given up, and whoever asks is told to read them himself."""
    monkeypatch.setattr(lanes_module, "_MAX_HELD_BYTES", 20 * lanes_module._MESSAGE_BYTES)
    random_ = random.Random(1)
    client = ImaginedClient({one: list(range(30)) for one in range(10)}, dict.fromkeys(range(10), 30), random_)
    lanes = opened(client)
    ranges = [OffsetRange("orders", one, 0, 30) for one in range(10)]
    lanes.open(ranges, IDS)
    stops = []
    for one in ranges:
        values, stop = read(lanes, one, random_)
        assert values == held(client, one, stop)
        assert sum(lane.held_bytes for lane in lanes._lanes.values()) == lanes._held_bytes
        assert sum(lane.missing_offsets for lane in lanes._lanes.values()) == lanes._missing_offsets
        assert lanes._held_bytes <= 60 * lanes_module._MESSAGE_BYTES
        stops.append(stop)
    assert stops[0] == 30
    assert 0 in stops


def test_nothing_is_fetched_of_what_nobody_wants() -> None:
    client = ImaginedClient({0: list(range(100)), 1: list(range(60))}, {0: 100, 1: 60}, random.Random(0))
    lanes = opened(client)
    ranges = [OffsetRange("orders", 0, 0, 3), OffsetRange("orders", 1, 0, 60)]
    lanes.open(ranges, IDS)
    for one in ranges:
        assert read(lanes, one, random.Random(0)) == (held(client, one, one.stop), one.stop)
    # The one that has more in store as soon as that shows, the rest when all is there.
    assert client.unassigned == [0, 1]
    assert not client.positions
    # What is missing of both, and their ends; then less and less.
    assert client.counts[0] == 3 + 60 + 2
    assert client.counts == sorted(client.counts, reverse=True)


def test_a_client_that_does_not_assign_leaves_ranges_to_others() -> None:
    class Refusing(ImaginedClient):
        def assign(self, places: Sequence[ClientTopicPartition]) -> None:
            raise KafkaException(KafkaError(KafkaError._STATE))

    client = Refusing({0: [0]}, {0: 1}, random.Random(0))
    lanes = opened(client)
    lanes.open([OffsetRange("orders", 0, 0, 1)], IDS)
    assert lanes.next_chunk(TopicPartition("orders", 0), 0, 1, 10) is None
    assert client.is_closed
