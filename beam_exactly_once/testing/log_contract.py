"""The contract of logs, as tests: for a Kafka cluster and its stand-in in memory here, and for a log of your own.

Needs pytest. Put a subclass into a test module and say what is under test::

    class TestMyLog(LogContract):
        @pytest.fixture
        def cluster(self):
            return MyCluster()
"""

from __future__ import annotations

import abc
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise

import pytest

from beam_exactly_once.errors import DataLoss, UnknownTopic
from beam_exactly_once.kafka import Record
from beam_exactly_once.logs import Log
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.topics import ids_of, partitions_of

SIZE = 700
"""Records of a partition that is read in many ways."""
ORDERS = [TopicPartition("orders", partition) for partition in range(3)]


class LogUnderTest(abc.ABC):
    """A cluster without topics, as its users see it."""

    timestamp_type = 1
    """That of the records that come back: 1, what their producer said; 2, when the log took them."""

    @abc.abstractmethod
    def create_topic(self, topic: str, partitions: int) -> None:
        """Create a topic without records."""

    @abc.abstractmethod
    def append(self, records: Sequence[Record]) -> None:
        """Append each record to its topic and partition. Their offsets say nothing."""

    @abc.abstractmethod
    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        """Let a partition begin at ``before_offset``, as retention does."""

    @abc.abstractmethod
    def open_log(self) -> Log:
        """A new reader of the cluster."""


def read(log: Log, place: TopicPartition, start: int, stop: int, max_records: int = 1000) -> list[Record]:
    """Read ``[start, stop)`` chunk by chunk, checking what every chunk promises."""
    records: list[Record] = []
    position = start
    while position < stop:
        chunk = log.next_chunk(place, position, stop, max_records)
        assert (chunk.topic, chunk.partition, chunk.start) == (place.topic, place.partition, position)
        assert position < chunk.stop <= stop
        assert len(chunk) <= max_records
        records.extend(chunk.records())
        position = chunk.stop
    offsets = [record.offset for record in records]
    assert offsets == sorted(set(offsets))
    return records


def values(partition: int, start: int, stop: int) -> list[bytes]:
    """What :func:`numbered` records hold at these offsets."""
    return [b"%d-%d" % (partition, offset) for offset in range(start, stop)]


def numbered(topic: str, partition: int, size: int) -> list[Record]:
    """Records for an empty partition; each holds its partition and offset."""
    return [Record(topic, partition, value=value) for value in values(partition, 0, size)]


class LogContract:
    """What a log owes a reader of exact ranges."""

    @pytest.fixture
    def cluster(self) -> LogUnderTest:
        """A cluster without topics. Yours to say."""
        raise NotImplementedError("say by a fixture cluster what is under test")

    @pytest.fixture
    def log(self, cluster: LogUnderTest) -> Iterator[Log]:
        """A reader of topics ``orders``, ``orders_eu`` and ``empty``."""
        cluster.create_topic("orders", len(ORDERS))
        cluster.create_topic("orders_eu", 1)
        cluster.create_topic("empty", 1)
        for partition in range(len(ORDERS)):
            cluster.append(numbered("orders", partition, SIZE))
        with closing(cluster.open_log()) as log:
            yield log

    # -- topics and bounds -----------------------------------------------------------------------------------------

    def test_topics_are_described_with_their_ids(self, log: Log) -> None:
        described = log.describe(["orders_eu", "orders", "orders"])
        assert partitions_of(described) == [*ORDERS, TopicPartition("orders_eu", 0)]
        assert len(set(ids_of(described).values())) == 2
        assert log.describe(["orders"]) == {"orders": described["orders"]}
        assert log.describe([]) == {}
        assert log.topics() == ["empty", "orders", "orders_eu"]

    def test_bounds_of_all_partitions_come_in_one_answer(self, log: Log) -> None:
        empty = TopicPartition("empty", 0)
        assert log.bounds([*ORDERS, empty]) == {**dict.fromkeys(ORDERS, LogBounds(0, SIZE)), empty: LogBounds(0, 0)}
        assert log.bounds([]) == {}

    def test_without_open_transactions_all_that_a_log_holds_is_shown(self, log: Log) -> None:
        empty = TopicPartition("empty", 0)
        assert log.ends([*ORDERS, empty]) == {**dict.fromkeys(ORDERS, SIZE), empty: 0}
        assert log.ends([]) == {}

    def test_what_does_not_exist_is_named(self, log: Log) -> None:
        with pytest.raises(UnknownTopic, match="zzz"):
            log.describe(["orders", "zzz"], patient=False)
        with pytest.raises(UnknownTopic, match="zzz"):  # to ask did not create it
            log.describe(["zzz"], patient=False)
        with pytest.raises(UnknownTopic, match="orders-7"):
            log.bounds([TopicPartition("orders", 7)])
        with pytest.raises(UnknownTopic, match="orders-7"):
            log.ends([TopicPartition("orders", 7)])

    # -- ranges ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("start", "stop", "max_records"),
        [(0, SIZE, 1000), (0, SIZE, 64), (0, 1, 1000), (SIZE - 1, SIZE, 1000), (17, 17 + 333, 100), (5, 6, 1)],
    )
    def test_a_range_is_read_exactly(self, log: Log, start: int, stop: int, max_records: int) -> None:
        records = read(log, ORDERS[1], start, stop, max_records)

        assert [(record.offset, record.value) for record in records] == [
            (offset, b"1-%d" % offset) for offset in range(start, stop)
        ]
        assert {(record.topic, record.partition) for record in records} == {("orders", 1)}

    @pytest.mark.parametrize("seed", range(4))
    def test_contiguous_ranges_of_any_sizes_give_each_record_once(self, log: Log, seed: int) -> None:
        cuts = sorted({0, SIZE, *random.Random(seed).sample(range(SIZE), 12)})
        found = [one.value for start, stop in pairwise(cuts) for one in read(log, ORDERS[0], start, stop)]
        assert found == values(0, 0, SIZE)

    @pytest.mark.parametrize("seed", range(4))
    def test_ranges_anywhere_in_any_order_are_read_exactly(self, log: Log, seed: int) -> None:
        numbers = random.Random(seed)
        for _ in range(12):
            partition = numbers.randrange(3)
            start = numbers.randrange(SIZE)
            stop = numbers.randint(start + 1, SIZE)
            records = read(log, ORDERS[partition], start, stop, numbers.choice([1000, 150]))
            assert [record.value for record in records] == values(partition, start, stop)

    @pytest.mark.parametrize(("position", "stop", "max_records"), [(-1, 5, 10), (5, 5, 10), (6, 5, 10), (0, 5, 0)])
    def test_an_impossible_range_is_refused(self, log: Log, position: int, stop: int, max_records: int) -> None:
        with pytest.raises(ValueError, match="position < stop"):
            log.next_chunk(ORDERS[0], position, stop, max_records)

    def test_reading_goes_on_where_new_records_arrive(self, cluster: LogUnderTest, log: Log) -> None:
        cluster.create_topic("growing", 1)
        growing = TopicPartition("growing", 0)
        expected: list[bytes] = []
        for step in range(5):
            new = [b"%d/%d" % (step, number) for number in range(step + 1)]
            cluster.append([Record("growing", value=value) for value in new])
            found = read(log, growing, len(expected), len(expected) + len(new))
            expected.extend(new)
            assert [record.value for record in found] == new

    def test_every_byte_of_a_record_comes_through(self, cluster: LogUnderTest, log: Log) -> None:
        cluster.create_topic("bytes", 1)
        expected = [
            Record("bytes", 0, 0, 1_700_000_000_000, 1, None, None, ()),
            Record("bytes", 0, 1, 1_700_000_000_001, 1, b"", b"", (("name", b""), ("name", None))),
            Record("bytes", 0, 2, 1_700_000_000_002, 1, b"\xff\x00", bytes(range(256)), (("é", b"\xff\xfe"),)),
            Record("bytes", 0, 3, 1_700_000_000_003, 1, b"k", b"x" * 300_000, ()),
        ]
        cluster.append(expected)
        place = TopicPartition("bytes", 0)

        expected = [one._replace(timestamp_type=cluster.timestamp_type) for one in expected]
        assert read(log, place, 0, 4) == expected
        chunk = log.next_chunk(place, 0, 4)
        in_columns = [row["value"] for row in chunk.to_arrow().to_pylist()]
        assert in_columns == [record.value for record in expected[: len(chunk)]]

    # -- what is gone ----------------------------------------------------------------------------------------------

    def test_offsets_that_retention_took_are_a_loss(self, cluster: LogUnderTest, log: Log) -> None:
        cluster.create_topic("aged", 1)
        aged = TopicPartition("aged", 0)
        cluster.append(numbered("aged", 0, 100))
        cluster.delete_records("aged", 0, 40)

        assert log.bounds([aged]) == {aged: LogBounds(40, 100)}
        with pytest.raises(DataLoss, match=r"aged-0 .*\b39\b"):
            log.next_chunk(aged, 39, 100)
        # The same reader goes on with what is there.
        assert [record.value for record in read(log, aged, 40, 100)] == values(0, 40, 100)

    def test_a_position_above_the_end_is_a_loss(self, log: Log) -> None:
        with pytest.raises(DataLoss, match=r"orders-2 .*\b5000\b"):
            log.next_chunk(ORDERS[2], 5000, 5001)

    def test_a_reader_can_be_closed_twice_and_unused(self, cluster: LogUnderTest) -> None:
        log = cluster.open_log()
        log.close()
        log.close()
