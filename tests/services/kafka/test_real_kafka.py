"""The Kafka log and streams on an Apache Kafka broker: real transactions, control records, retention, compaction."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from beam_exactly_once import Record, TopicPartition
from beam_exactly_once.errors import DataLoss, UnknownTopic
from beam_exactly_once.kafka import KafkaSettings, open_kafka_log
from beam_exactly_once.logs import Log
from beam_exactly_once.offsets import LogBounds
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.streams.file_stream import FileStream
from services.streams.topics import Topic, Transaction

NewTopic = Callable[..., Topic]
MIB = 1024 * 1024


@pytest.fixture
def log(bootstrap_servers: str) -> Iterator[Log]:
    settings = KafkaSettings(bootstrap_servers, no_progress_timeout_s=60.0)
    with closing(open_kafka_log(settings)) as log:
        yield log


def read(log: Log, place: TopicPartition, start: int, stop: int) -> list[Record]:
    """All of ``[start, stop)``; the chunks tile it."""
    records: list[Record] = []
    while start < stop:
        chunk = log.next_chunk(place, start, stop)
        assert chunk.start == start
        records += chunk.records()
        start = chunk.stop
    assert start == stop
    return records


def offsets(records: list[Record]) -> list[int]:
    return [record.offset for record in records]


def numbered(prefix: str, count: int) -> list[bytes]:
    return [f"{prefix}-{number}".encode() for number in range(count)]


@pytest.fixture
def stream(new_topic: NewTopic, tmp_path: Path) -> FileStream:
    return FileStream(new_topic(), tmp_path)


# -- transactions -------------------------------------------------------------------------------------------------


def transactions(topic: Topic) -> list[int]:
    """Fills partition 0; returns the offsets that are to be seen. Control records at 3, 9, 12, 17, 18."""
    topic.send_committed(numbered("committed", 3))  # 0-2, marker 3
    topic.send(numbered("plain", 2))  # 4, 5
    topic.send_aborted(numbered("aborted", 3))  # 6-8, marker 9
    topic.send_committed(numbered("again", 2))  # 10, 11, marker 12
    first, second = topic.begin(numbered("first", 2)), topic.begin(numbered("second", 2))  # 13, 14 and 15, 16
    topic.abort(first)  # 17
    topic.commit(second)  # 18
    return [0, 1, 2, 4, 5, 10, 11, 15, 16]


def test_exactly_the_committed_records_are_read(new_topic: NewTopic, log: Log) -> None:
    topic = new_topic()
    seen = transactions(topic)

    assert log.bounds([topic[0]]) == {topic[0]: LogBounds(0, 19)}
    records = read(log, topic[0], 0, 19)

    assert offsets(records) == seen
    assert Counter(record.value for record in records) == topic.committed


def test_any_range_may_begin_and_end_in_control_and_aborted_records(new_topic: NewTopic, log: Log) -> None:
    topic = new_topic()
    seen = transactions(topic)
    ranges = [(start, stop) for start in range(19) for stop in range(start + 1, 20)]
    Random(1).shuffle(ranges)

    for start, stop in ranges:
        assert offsets(read(log, topic[0], start, stop)) == [one for one in seen if start <= one < stop], (start, stop)


def test_single_offsets_in_order_need_no_new_start(new_topic: NewTopic, log: Log) -> None:
    topic = new_topic()
    seen = transactions(topic)

    found = [offset for start in range(19) for offset in offsets(read(log, topic[0], start, start + 1))]

    assert found == seen


def test_aborted_and_open_records_are_there_for_those_who_want_them(
    bootstrap_servers: str, new_topic: NewTopic
) -> None:
    topic = new_topic()
    transactions(topic)
    topic.begin(numbered("open", 2))

    with closing(open_kafka_log(KafkaSettings(bootstrap_servers, isolation_level="read_uncommitted"))) as log:
        assert log.bounds([topic[0]]) == {topic[0]: LogBounds(0, 21)}
        markers = {3, 9, 12, 17, 18}
        assert offsets(read(log, topic[0], 0, 21)) == [one for one in range(21) if one not in markers]


def test_the_log_ends_before_an_open_transaction(new_topic: NewTopic, log: Log) -> None:
    topic = new_topic()
    topic.send(numbered("before", 3))
    opened = topic.begin(numbered("open", 2))
    topic.send(numbered("after", 4))

    assert log.bounds([topic[0]]) == {topic[0]: LogBounds(0, 3)}
    assert log.ends([topic[0]]) == {topic[0]: 9}
    assert offsets(read(log, topic[0], 0, 3)) == [0, 1, 2]

    topic.commit(opened)
    assert log.bounds([topic[0]]) == {topic[0]: LogBounds(0, 10)}
    assert offsets(read(log, topic[0], 3, 10)) == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("seed", range(3))
def test_random_histories_cut_at_random_places(new_topic: NewTopic, log: Log, seed: int) -> None:
    """Transactions that overlap and end in any order; every tiling gives the committed values."""
    random, topic = Random(seed), new_topic()
    begun: list[Transaction] = []
    for number in range(25):
        values = [b"%d-%d" % (number, one) for one in range(random.randrange(1, 9))]
        act = random.choice(["send", "begin", "begin", "end", "end"])
        if act == "send":
            topic.send(values)
        elif act == "begin":
            begun.append(topic.begin(values))
        elif begun:
            random.choice([topic.commit, topic.abort])(begun.pop(random.randrange(len(begun))))
    for transaction in begun:
        topic.commit(transaction)
    latest = log.bounds([topic[0]])[topic[0]].latest

    for _ in range(10):
        edges = [0, *sorted(random.sample(range(1, latest), min(8, latest - 1))), latest]
        tiles = list(pairwise(edges))
        random.shuffle(tiles)
        records = [record for start, stop in tiles for record in read(log, topic[0], start, stop)]
        assert Counter(record.value for record in records) == topic.committed


@pytest.mark.runs_on("DirectRunner")
@pytest.mark.parametrize("max_batch_offsets", [3, 7, None])
def test_a_stream_gives_each_committed_value_once(stream: FileStream, max_batch_offsets: int | None) -> None:
    transactions(stream.topic)
    stream.run(max_batch_offsets=max_batch_offsets)
    assert stream.values() == stream.topic.committed
    assert len(stream.progress) == (1 if max_batch_offsets is None else -(-19 // max_batch_offsets))

    transactions(stream.topic)
    stream.run(max_batch_offsets=max_batch_offsets)
    assert stream.values() == stream.topic.committed
    assert sum(batch.records_read for batch in stream.progress) == stream.topic.committed.total()


@pytest.mark.runs_on("DirectRunner")
def test_a_stream_never_waits_for_an_open_transaction(stream: FileStream) -> None:
    topic = stream.topic
    topic.send(numbered("before", 5))
    aborted, committed = topic.begin(numbered("aborted", 5)), topic.begin(numbered("committed", 5))
    before = topic.committed.copy()
    topic.send(numbered("after", 5))

    stream.run(max_batch_offsets=2)
    assert stream.values() == before

    topic.abort(aborted)
    stream.run(max_batch_offsets=2)
    assert stream.values() == before, "the second transaction is open still"

    topic.commit(committed)
    stream.run(max_batch_offsets=2)
    assert stream.values() == topic.committed


@pytest.mark.runs_on("DirectRunner")
def test_batches_of_control_and_aborted_records_alone_move_on(stream: FileStream) -> None:
    for _ in range(12):
        stream.topic.send_aborted([b"never"])
    stream.run(max_batch_offsets=3)
    assert stream.values() == Counter()
    stream.topic.send([b"seen"])
    stream.run(max_batch_offsets=3)
    assert stream.values() == Counter([b"seen"])


# -- what Kafka no longer has -------------------------------------------------------------------------------------


def test_a_read_below_the_log_is_data_loss(new_topic: NewTopic, log: Log) -> None:
    topic = new_topic()
    topic.send(numbered("value", 20))
    topic.delete_below(10)

    assert log.bounds([topic[0]]) == {topic[0]: LogBounds(10, 20)}
    with pytest.raises(DataLoss, match=rf"{topic.name}-0 no longer holds offset 5: its log is \[10, 20\)"):
        read(log, topic[0], 5, 20)
    assert offsets(read(log, topic[0], 10, 20)) == list(range(10, 20))


def test_records_deleted_between_two_chunks_are_data_loss(new_topic: NewTopic, log: Log) -> None:
    topic = new_topic(max_message_bytes=2 * MIB)
    topic.send([bytes(64 * 1024)] * 400)
    chunk = log.next_chunk(topic[0], 0, 400, max_records=1)
    topic.delete_below(395)
    with pytest.raises(DataLoss, match="no longer holds offset"):
        read(log, topic[0], chunk.stop, 400)  # 16 MiB at most were fetched before
    assert offsets(read(log, topic[0], 395, 400)) == list(range(395, 400))


@pytest.mark.runs_on("DirectRunner")
def test_a_topic_recreated_is_data_loss(stream: FileStream) -> None:
    stream.topic.send(numbered("value", 10))
    stream.run()
    stream.topic.make_anew()
    stream.topic.send(numbered("other", 2))
    with pytest.raises(DataLoss, match="recreated"):
        stream.run()


@pytest.mark.runs_on("DirectRunner")
def test_a_stream_stops_where_records_are_lost(stream: FileStream) -> None:
    stream.topic.send(numbered("value", 10))
    stream.run()
    stream.topic.send(numbered("lost", 10))
    stream.topic.delete_below(15)

    with pytest.raises(DataLoss, match=rf"{stream.topic.name}-0"):
        stream.run()

    assert stream.values() == Counter(numbered("value", 10))


@pytest.mark.runs_on("DirectRunner")
def test_a_stream_may_go_on_and_record_what_is_lost_before_the_plan(stream: FileStream) -> None:
    stream.topic.send(numbered("value", 10))
    stream.run()
    stream.topic.send(numbered("new", 10))
    stream.topic.delete_below(15)

    stream.run(on_data_loss="skip")

    assert stream.values() == Counter(numbered("value", 10) + numbered("new", 10)[5:])
    assert [sum(batch.offsets_lost.values()) for batch in stream.progress] == [0, 5]


@pytest.mark.runs_on("DirectRunner")
@pytest.mark.parametrize("on_data_loss", ["fail", "skip"])
def test_records_deleted_between_plan_and_read(stream: FileStream, on_data_loss: Any) -> None:
    stream.topic.send(numbered("value", 10))
    planned = StoreCalls(KillPoint("put_if_absent", "offsets/", 1), lambda: stream.topic.delete_below(4))

    with watching(planned):
        if on_data_loss == "fail":
            with pytest.raises(DataLoss, match=rf"{stream.topic.name}-0 no longer holds offset 0"):
                stream.run()
            assert stream.values() == Counter()
        stream.run(on_data_loss="skip")  # the same plan

    assert stream.values() == Counter(numbered("value", 10)[4:])
    assert [(batch.records_read, sum(batch.offsets_lost.values())) for batch in stream.progress] == [(6, 4)]


def test_compaction_leaves_holes_that_are_passed(new_topic: NewTopic, log: Log) -> None:
    topic = new_topic(cleanup_policy="compact", segment_bytes=MIB, min_cleanable_dirty_ratio="0.01")
    for number in range(30):  # 5 fill a segment; the last segment stays open and is not compacted
        key = b"unique" if number == 7 else b"%d" % (number % 3)
        topic.send([bytes(200 * 1024)], key=key)
    left = topic.wait_compacted(max_records=9)
    assert left == [7, *range(22, 30)]

    latest = log.bounds([topic[0]])[topic[0]].latest
    records = read(log, topic[0], 0, latest)
    assert offsets(records) == left
    for start in range(0, latest, 4):
        found = offsets(read(log, topic[0], start, min(start + 4, latest)))
        assert found == [one for one in left if start <= one < start + 4]


# -- other --------------------------------------------------------------------------------------------------------


@pytest.mark.runs_on("DirectRunner")
def test_a_start_by_timestamp(stream: FileStream) -> None:
    stream.topic.send(numbered("old", 5), timestamp=1_000_000)
    stream.topic.send(numbered("new", 5), timestamp=2_000_000)
    stream.run(start=datetime.datetime.fromtimestamp(1_500, datetime.timezone.utc))
    assert stream.values() == Counter(numbered("new", 5))


def test_a_start_by_a_timestamp_after_all_records(new_topic: NewTopic, log: Log) -> None:
    topic = new_topic(2)
    topic.send(numbered("old", 5), timestamp=1_000_000)
    topic.send(numbered("new", 3), partition=1, timestamp=3_000_000)
    assert log.offsets_for_time([topic[0], topic[1]], 2_000_000) == {topic[0]: 5, topic[1]: 0}


@pytest.mark.runs_on("DirectRunner")
def test_partitions_added_between_batches_are_read_from_their_start(stream: FileStream) -> None:
    stream.topic.send(numbered("first", 5))
    stream.run(start="latest")
    stream.topic.grow(3)
    stream.topic.send(numbered("second", 5), partition=2)
    stream.topic.send(numbered("third", 5), partition=1)
    stream.run(start="latest")
    assert stream.values() == Counter(numbered("second", 5) + numbered("third", 5))


def test_an_unknown_topic_is_named(new_topic: NewTopic, log: Log) -> None:
    topic = new_topic()
    with pytest.raises(UnknownTopic, match=f"no topic {topic.name}s.*did you mean {topic.name}"):
        log.describe([f"{topic.name}s"], patient=False)
    with pytest.raises(UnknownTopic, match=f"partition {topic.name}-1"):
        log.bounds([TopicPartition(topic.name, 1)])


@pytest.mark.runs_on("DirectRunner")
@pytest.mark.parametrize("value_bytes", [MIB - 200, 5 * MIB])
def test_large_records(stream: FileStream, value_bytes: int) -> None:
    values = [Random(seed).randbytes(value_bytes) for seed in range(4)]
    stream.topic.send(values, headers=[("h", b"x")])
    stream.run(max_batch_offsets=3)
    assert stream.values() == Counter(values)


def test_keys_headers_and_nulls_come_back(new_topic: NewTopic, log: Log) -> None:
    topic = new_topic()
    topic.send([b"value"], key=b"\xff", headers=[("a", b"1"), ("a", None)], timestamp=1234)
    assert read(log, topic[0], 0, 1) == [
        Record(topic.name, 0, 0, 1234, 1, b"\xff", b"value", (("a", b"1"), ("a", None)))
    ]
