"""Ranges of many partitions that are read side by side, on an Apache Kafka broker: they hold what each holds by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from random import Random

import pytest

from beam_exactly_once import Record
from beam_exactly_once.errors import DataLoss
from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.kafka.log import ConfluentLog
from beam_exactly_once.offsets import OffsetRange
from services.streams.topics import Topic

NewTopic = Callable[..., Topic]
PARTITIONS = 6


@pytest.fixture
def log(bootstrap_servers: str) -> Iterator[ConfluentLog]:
    with closing(ConfluentLog(KafkaSettings(bootstrap_servers, no_progress_timeout_s=60.0))) as log:
        yield log


def read(log: ConfluentLog, ranges: list[OffsetRange]) -> list[Record]:
    records: list[Record] = []
    for one in ranges:
        position = one.start
        while position < one.stop:
            chunk = log.next_chunk(one.topic_partition, position, one.stop, 7)
            assert (chunk.topic, chunk.partition, chunk.start) == (one.topic, one.partition, position)
            records += chunk.records()
            position = chunk.stop
        assert position == one.stop
    return records


def expected(log: ConfluentLog, topic: Topic, ranges: list[OffsetRange]) -> None:
    ids = {topic.name: log.describe([topic.name])[topic.name].topic_id}
    log.expect(ranges, ids)


def fill(topic: Topic, random_: Random) -> None:
    """Plain records, committed and aborted transactions, which begin and end partitions too."""
    for partition in range(PARTITIONS):
        for number in range(3):
            values = [b"%d-%d-%d" % (partition, number, count) for count in range(random_.randint(1, 6))]
            send = random_.choice([topic.send_committed, topic.send_aborted, topic.send])
            send(values, partition, **({"headers": [("of", b"x")]} if send == topic.send else {}))


@pytest.mark.parametrize("seed", [1])
def test_ranges_side_by_side_hold_what_each_holds_by_itself(log: ConfluentLog, new_topic: NewTopic, seed: int) -> None:
    random_ = Random(seed)
    topic = new_topic(partitions=PARTITIONS)
    fill(topic, random_)
    for _ in range(4):  # on one client
        bounds = log.bounds([topic[partition] for partition in range(PARTITIONS)])
        ranges = []
        for place, one in bounds.items():
            start = random_.randrange(one.latest)
            ranges.append(OffsetRange(place.topic, place.partition, start, random_.randint(start + 1, one.latest)))
        random_.shuffle(ranges)
        alone = read(log, ranges)
        assert log.rest()
        expected(log, topic, ranges)
        assert read(log, ranges) == alone
        assert log._fetcher is None  # nothing was left to a client of its own
        assert log.rest()


def test_a_kept_client_gives_nothing_of_a_topic_that_is_gone(log: ConfluentLog, new_topic: NewTopic) -> None:
    topic = new_topic(partitions=PARTITIONS)
    ranges = [OffsetRange(topic.name, partition, 0, 2) for partition in range(PARTITIONS)]
    for name in (b"old", b"new"):
        topic.spread({partition: [name] * 4 for partition in range(PARTITIONS)})
        expected(log, topic, ranges)
        assert [record.value for record in read(log, ranges)] == [name] * 2 * PARTITIONS
        assert log.rest()
        topic.make_anew()


def test_a_range_whose_offsets_are_gone_is_data_loss_beside_others(log: ConfluentLog, new_topic: NewTopic) -> None:
    topic = new_topic(partitions=2)
    topic.spread({0: [b"a"] * 4, 1: [b"b"] * 4})
    topic.delete_below(2, partition=1)
    ranges = [OffsetRange(topic.name, partition, 0, 4) for partition in range(2)]
    expected(log, topic, ranges)
    assert [record.value for record in read(log, ranges[:1])] == [b"a"] * 4
    with pytest.raises(DataLoss, match="no longer holds offset 0"):
        read(log, ranges[1:])
    assert not log.rest()
