"""The Kafka log over logs that only a scripted broker can hold: transactions, compaction, corruption."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import Message
from confluent_kafka import TopicPartition as ClientTopicPartition

from beam_exactly_once.clock import SystemClock
from beam_exactly_once.errors import DataLoss, ReadStalled, UnfitRow
from beam_exactly_once.kafka import KafkaSettings, open_kafka_log
from beam_exactly_once.kafka.client_errors import ClientErrors
from beam_exactly_once.kafka.fetching import RangeFetcher
from beam_exactly_once.kafka.inbox import MessageInbox
from beam_exactly_once.logs import Log
from beam_exactly_once.offsets import LogBounds, TopicPartition
from support.servers.scripted_broker import ScriptedBroker
from support.servers.scripted_log import ScriptedLog, ScriptedRecord


def values(count: int) -> list[bytes | None]:
    return [b"value %d" % number for number in range(count)]


def transactions() -> ScriptedLog:
    """Committed and aborted ones, interleaved, and plain records; ends in an aborted one."""
    log = ScriptedLog().append(values(5), producer_id=1).commit(1)  # 0-4, marker 5
    log.append(values(5), producer_id=2).abort(2)  # 6-10, marker 11
    log.append(values(3)).append(values(2), producer_id=1).append(values(4), producer_id=2).append(values(1))
    log.append(values(2), producer_id=1).abort(1).append(values(2), producer_id=2).commit(2)
    return log.append(values(6), producer_id=3).abort(3)


def compacted() -> ScriptedLog:
    """Begins above zero; holes at the start, in the middle and at the end; an empty batch at the tail."""
    log = ScriptedLog(start_offset=100).skip(7).append(values(10), keep=[3, 4, 9])
    log.append(values(10), keep=[]).append(values(5)).skip(20).append(values(8), keep=[0])
    return log.append(values(3), producer_id=1, keep=[1]).commit(1).append(values(10), keep=[])


def only_markers() -> ScriptedLog:
    """Nothing visible at all."""
    log = ScriptedLog()
    for producer_id in range(1, 12):
        log.append(values(3), producer_id=producer_id).abort(producer_id)
    return log


def open_transaction() -> ScriptedLog:
    """Ends in a transaction that nobody has decided yet."""
    log = ScriptedLog().append(values(10)).append(values(4), producer_id=1).commit(1)
    return log.append(values(3), producer_id=2).append(values(5))


def headers_and_times() -> ScriptedLog:
    log = ScriptedLog(start_offset=3).append(values(4), first_timestamp_ms=1_000)
    log.append([None, b"", b"x"], first_timestamp_ms=2_000, headers=(("trace", b"\xff"), ("none", None)))
    return log.append(values(150), first_timestamp_ms=3_000)


NASTY = {
    "transactions": transactions,
    "compacted": compacted,
    "only_markers": only_markers,
    "open_transaction": open_transaction,
    "headers_and_times": headers_and_times,
}


@pytest.fixture(scope="module")
def logs() -> dict[str, ScriptedLog]:
    return {name: make() for name, make in NASTY.items()}


@pytest.fixture(scope="module")
def broker(logs: dict[str, ScriptedLog]) -> Iterator[ScriptedBroker]:
    with ScriptedBroker({name: [log] for name, log in logs.items()}) as broker:
        yield broker


@pytest.fixture
def reader(broker: ScriptedBroker) -> Iterator[Log]:
    with closing(open_kafka_log(settings(broker))) as reader:
        yield reader


def settings(broker: ScriptedBroker, **changes: object) -> KafkaSettings:
    return KafkaSettings(
        broker.bootstrap_servers,
        **{"timeout_s": 10, "no_progress_timeout_s": 20, **changes},  # type: ignore[arg-type]
    )


def read(reader: Log, topic: str, start: int, stop: int, max_records: int = 1000) -> list[ScriptedRecord]:
    records: list[ScriptedRecord] = []
    position = start
    while position < stop:
        chunk = reader.next_chunk(TopicPartition(topic, 0), position, stop, max_records)
        assert chunk.start == position < chunk.stop <= stop
        records.extend(
            ScriptedRecord(record.offset, record.value, record.key, record.timestamp_ms, record.headers)
            for record in chunk.records()
        )
        position = chunk.stop
    return records


@pytest.mark.usefixtures("each_reader")
@pytest.mark.parametrize("isolation_level", ["read_committed", "read_uncommitted"])
@pytest.mark.parametrize("topic", NASTY)
def test_a_whole_log_is_read_as_its_isolation_level_shows_it(
    broker: ScriptedBroker, logs: dict[str, ScriptedLog], topic: str, isolation_level: str
) -> None:
    committed = isolation_level == "read_committed"
    place, log = TopicPartition(topic, 0), logs[topic]
    with closing(open_kafka_log(settings(broker, isolation_level=isolation_level))) as reader:
        bounds = reader.bounds([place])[place]
        assert bounds == LogBounds(log.start_offset, log.last_stable_offset if committed else log.high_watermark)
        assert reader.ends([place]) == {place: log.high_watermark}
        found = read(reader, topic, bounds.earliest, bounds.latest)

    assert found == log.visible(read_committed=committed)


@pytest.mark.parametrize("topic", NASTY)
def test_every_range_from_every_offset_is_read_exactly(reader: Log, logs: dict[str, ScriptedLog], topic: str) -> None:
    log = logs[topic]
    step = 3 if log.last_stable_offset > 40 else 1
    for start in range(log.start_offset, min(log.last_stable_offset, log.start_offset + 70), step):
        stop = min(start + 1 + (start * 7) % 23, log.last_stable_offset)
        assert read(reader, topic, start, stop) == log.visible(start, stop)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("topic", NASTY)
def test_contiguous_ranges_lose_nothing_at_their_seams(
    reader: Log, logs: dict[str, ScriptedLog], topic: str, seed: int
) -> None:
    # The reader meets the first record above a range's stop, or the end of the log, before the next range begins.
    log, numbers = logs[topic], random.Random(seed)
    inside = range(log.start_offset + 1, log.last_stable_offset)
    cuts = [log.start_offset, *sorted(numbers.sample(inside, 9)), log.last_stable_offset]
    found: list[ScriptedRecord] = []
    for index in range(len(cuts) - 1):
        part = read(reader, topic, cuts[index], cuts[index + 1], numbers.choice([1, 3, 1000]))
        assert part == log.visible(cuts[index], cuts[index + 1])
        found.extend(part)

    assert found == log.visible()


def test_a_contiguous_reader_does_not_start_anew(broker: ScriptedBroker, logs: dict[str, ScriptedLog]) -> None:
    place, log = TopicPartition("compacted", 0), logs["compacted"]
    with closing(open_kafka_log(settings(broker, config={"fetch.wait.max.ms": 1_000}))) as reader:
        read(reader, "compacted", log.start_offset, log.start_offset + 1)
        fetches = len(broker.waits_ms)
        for start in range(log.start_offset + 1, log.last_stable_offset):
            reader.next_chunk(place, start, start + 1)

    # At most the one after which the long poll at the end of the log waits.
    assert len(broker.waits_ms) - fetches <= 2


def test_a_gap_that_fills_a_whole_range_is_an_empty_chunk(reader: Log, logs: dict[str, ScriptedLog]) -> None:
    assert logs["only_markers"].visible() == []
    assert read(reader, "only_markers", 0, logs["only_markers"].high_watermark) == []
    assert read(reader, "compacted", 100, 107) == []
    assert read(reader, "compacted", 107, 111) == logs["compacted"].visible(107, 111)


def test_an_open_transaction_is_read_once_it_is_decided() -> None:
    log = ScriptedLog().append(values(3)).append(values(4), producer_id=1).append(values(2))
    place = TopicPartition("orders", 0)
    with ScriptedBroker({"orders": [log]}) as broker, closing(open_kafka_log(settings(broker))) as reader:
        assert reader.bounds([place])[place] == LogBounds(0, 3)
        before = read(reader, "orders", 0, 3)
        log.commit(1)
        assert reader.bounds([place])[place] == LogBounds(0, 10)
        after = read(reader, "orders", 3, 10)

    assert [record.offset for record in before] == [0, 1, 2]
    assert [record.offset for record in after] == [3, 4, 5, 6, 7, 8]


def test_times_are_found_and_a_later_one_is_the_end(reader: Log, logs: dict[str, ScriptedLog]) -> None:
    place = TopicPartition("headers_and_times", 0)
    end = logs["headers_and_times"].last_stable_offset

    found = {time: reader.offsets_for_time([place], time)[place] for time in (0, 1_000, 1_002, 1_500, 3_000, 9_999)}
    assert found == {0: 3, 1_000: 3, 1_002: 5, 1_500: 7, 3_000: 10, 9_999: end}


def test_many_visits_to_a_hole_are_not_an_error(reader: Log, logs: dict[str, ScriptedLog]) -> None:
    # Each answer without a record doubles the client's fetch size; from the eleventh on it complains.
    log = logs["compacted"]
    stop = log.last_stable_offset
    for _ in range(15):
        assert read(reader, "compacted", stop - 10, stop) == []
        assert read(reader, "headers_and_times", 3, 4) == logs["headers_and_times"].visible(3, 4)


def test_a_reader_below_the_logs_start_is_a_loss(reader: Log) -> None:
    with pytest.raises(DataLoss, match=r"compacted-0 no longer holds offset 99: its log is \[100, "):
        reader.next_chunk(TopicPartition("compacted", 0), 99, 110)


@pytest.mark.usefixtures("each_reader")
@pytest.mark.parametrize(
    ("claimed", "complaint"),
    [
        (5_000, "delivered offset 5000 of a log that ends at 11"),
        (2, "delivered offset 2 after 9"),
        (9, "delivered offset 9 after 9"),
    ],
)
def test_a_batch_that_lies_about_its_offset_is_never_handed_out(claimed: int, complaint: str) -> None:
    log = ScriptedLog().append(values(10)).append(values(1), wire_offset=claimed)
    with (
        ScriptedBroker({"orders": [log]}) as broker,
        closing(open_kafka_log(settings(broker, no_progress_timeout_s=2))) as reader,
    ):
        assert read(reader, "orders", 0, 10) == log.visible(0, 10)
        with pytest.raises(DataLoss, match=f"orders-0 is corrupt at offset 10: .*{complaint}"):
            reader.next_chunk(TopicPartition("orders", 0), 10, 11)


@pytest.mark.usefixtures("each_reader")
def test_offsets_that_go_back_are_never_handed_out() -> None:
    log = ScriptedLog().append(values(1), wire_offset=15).append(values(9)).append(values(20))
    with (
        ScriptedBroker({"orders": [log]}) as broker,
        closing(open_kafka_log(settings(broker))) as reader,
        pytest.raises(DataLoss, match=r"orders-0 is corrupt at offset .*: Kafka delivered offset 1 after 15"),
    ):
        read(reader, "orders", 0, 30)


def test_what_lies_in_remote_storage_is_waited_for_and_the_rest_is_not() -> None:
    remote = ScriptedLog(remote_below=300, remote_ms=400).append(values(200)).append(values(200)).append(values(50))
    local = ScriptedLog().append(values(20))
    places = [TopicPartition("orders", 0), TopicPartition("orders", 1)]
    with (
        ScriptedBroker({"orders": [remote, local]}) as broker,
        closing(open_kafka_log(settings(broker))) as reader,
    ):
        found = [read(reader, "orders", 0, 250), read(reader, "orders", 250, 450)]
        waits = broker.waits_ms[-1]
        elsewhere = reader.next_chunk(places[1], 0, 20)

        assert found == [remote.visible(0, 250), remote.visible(250, 450)]
        assert waits >= 400
        assert [record.offset for record in elsewhere.records()] == list(range(20))
        assert broker.waits_ms[-1] < 400


def test_a_wait_of_the_users_own_stays_as_it_is() -> None:
    log = ScriptedLog(remote_below=3, remote_ms=400).append(values(3))
    with (
        ScriptedBroker({"orders": [log]}) as broker,
        closing(
            open_kafka_log(settings(broker, config={"fetch.wait.max.ms": 20}, no_progress_timeout_s=2.5))
        ) as reader,
        pytest.raises(ReadStalled, match=r"orders-0 delivered neither .* fetch\.wait\.max\.ms"),
    ):
        reader.next_chunk(TopicPartition("orders", 0), 0, 3)

    assert set(broker.waits_ms) == {20}


def test_a_quota_that_lets_nothing_pass_is_named() -> None:
    log = ScriptedLog().append(values(3))
    with (
        ScriptedBroker({"orders": [log]}, throttle_ms=200) as broker,
        closing(open_kafka_log(settings(broker, no_progress_timeout_s=1.5))) as reader,
        pytest.raises(ReadStalled, match=r"orders-0 delivered neither .* a quota of this client .*consumer_byte_rate"),
    ):
        reader.next_chunk(TopicPartition("orders", 0), 0, 3)


@pytest.mark.usefixtures("each_reader")
def test_a_header_whose_name_is_not_utf_8_names_its_record_and_can_be_left_out() -> None:
    log = (
        ScriptedLog().append(values(2)).append(values(1), headers=(("fine", b"1"), ("\udcff", b"2"))).append(values(2))
    )
    place = TopicPartition("orders", 0)
    with ScriptedBroker({"orders": [log]}) as broker:
        with closing(open_kafka_log(settings(broker))) as reader:
            for _ in range(2):  # a record that was not handed out is not passed over
                with pytest.raises(UnfitRow, match=r"orders-0 at offset 2 .* not UTF-8.*headers=False"):
                    read(reader, "orders", 0, 5)
            assert read(reader, "orders", 3, 5) == log.visible(3, 5)
        with closing(open_kafka_log(settings(broker, headers=False))) as reader:
            chunk = reader.next_chunk(place, 2, 3)

    assert [(record.value, record.headers) for record in chunk.records()] == [(b"value 0", ())]


class SlowToForget:
    """A consumer that, for a while after ``assign()``, still gives its old position and has nothing ready."""

    def __init__(self, old_position: int) -> None:
        self._position = old_position
        self._ready: list[Message] = []
        self._empty_answers = 4

    def list_topics(self, topic: str, timeout: float) -> None:
        pass

    def unassign(self) -> None:
        pass

    def assign(self, places: list[ClientTopicPartition]) -> None:
        start = places[0].offset
        self._ready = [Message(topic="orders", partition=0, offset=start + n, value=b"%d" % n) for n in range(5)]

    def position(self, places: list[ClientTopicPartition]) -> list[ClientTopicPartition]:
        return [ClientTopicPartition("orders", 0, self._position)]

    def consume(self, count: int, timeout: float) -> list[Message]:
        if self._empty_answers:
            self._empty_answers -= 1
            return []
        taken, self._ready = self._ready[:count], self._ready[count:]
        self._position = taken[-1].offset() + 1
        return taken


def test_the_position_of_an_earlier_assignment_is_not_believed() -> None:
    consumer = SlowToForget(old_position=43)
    inbox = MessageInbox(consumer, wants_headers=True)  # type: ignore[arg-type]
    fetcher = RangeFetcher(consumer, inbox, ClientErrors(), SystemClock(), KafkaSettings("nowhere:1"))  # type: ignore[arg-type]
    chunk = fetcher.next_chunk(TopicPartition("orders", 0), 40, 45, 1000)

    assert [record.offset for record in chunk.records()] == [40, 41, 42, 43, 44]
