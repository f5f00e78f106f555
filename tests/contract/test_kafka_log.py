"""The Kafka log over the embedded broker: exact ranges, bounds, and what each fault is called."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, Producer
from confluent_kafka import TopicPartition as ClientTopicPartition
from confluent_kafka.admin import AdminClient

from beam_exactly_once.errors import (
    ConfigurationError,
    DataLoss,
    KafkaRefused,
    KafkaUnavailable,
    ReadStalled,
    UnknownTopic,
)
from beam_exactly_once.kafka import Chunk, EmbeddedBroker, KafkaSettings, Record, asking, open_kafka_log, override_logs
from beam_exactly_once.kafka import log as log_room
from beam_exactly_once.logs import GroupsLog, Log
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.secrets import secret_from_env
from beam_exactly_once.testing import LogContract, LogUnderTest, MemoryKafka
from beam_exactly_once.testing.log_contract import ORDERS, SIZE, numbered, read, values
from beam_exactly_once.topics import partitions_of


class _Embedded(LogUnderTest):
    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker

    def create_topic(self, topic: str, partitions: int) -> None:
        self._broker.create_topic(topic, partitions)

    def append(self, records: Sequence[Record]) -> None:
        produce(self._broker, records)

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        self._broker.delete_records(topic, partition, before_offset)

    def open_log(self) -> Log:
        return open_kafka_log(settings(self._broker))


@pytest.mark.usefixtures("each_reader")
class TestEmbeddedBroker(LogContract):
    @pytest.fixture
    def cluster(self) -> Iterator[LogUnderTest]:
        with EmbeddedBroker({}) as broker:
            yield _Embedded(broker)


class _InMemory(LogUnderTest):
    def __init__(self) -> None:
        self._kafka = MemoryKafka({})

    def create_topic(self, topic: str, partitions: int) -> None:
        self._kafka.add_partitions(topic, partitions)

    def append(self, records: Sequence[Record]) -> None:
        self._kafka.append(records)

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        self._kafka.delete_records(topic, partition, before_offset)

    def open_log(self) -> Log:
        with self._kafka.serving():
            return open_kafka_log(KafkaSettings("in-memory:9092"))


class TestMemoryKafka(LogContract):
    @pytest.fixture
    def cluster(self) -> LogUnderTest:
        return _InMemory()


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    """One broker whose topic ``orders`` no test changes."""
    with EmbeddedBroker({"orders": 3, "orders_eu": 1, "empty": 1}) as broker:
        for partition in range(3):
            produce(broker, numbered("orders", partition, SIZE))
        yield broker


@pytest.fixture
def log(broker: EmbeddedBroker) -> Iterator[Log]:
    with closing(open_kafka_log(settings(broker))) as log:
        yield log


def settings(broker: EmbeddedBroker, no_progress_timeout_s: float = 30) -> KafkaSettings:
    return KafkaSettings(broker.bootstrap_servers, timeout_s=10, no_progress_timeout_s=no_progress_timeout_s)


def produce(broker: EmbeddedBroker, records: Sequence[Record]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0, "batch.num.messages": 50})
    for one in records:
        producer.produce(
            one.topic,
            key=one.key,
            value=one.value,
            partition=one.partition,
            timestamp=one.timestamp_ms,
            headers=list(one.headers),
        )
    assert producer.flush(10) == 0
    producer.close()


def test_an_open_transaction_in_memory_hides_what_comes_behind_it() -> None:
    kafka, place = MemoryKafka({"orders": 1}), TopicPartition("orders", 0)
    with kafka.serving():
        committed, all_of_it = (
            open_kafka_log(KafkaSettings("in-memory:9092", isolation_level=level))  # type: ignore[arg-type]
            for level in ("read_committed", "read_uncommitted")
        )
    kafka.append(numbered("orders", 0, 3))
    kafka.begin_transaction("orders", 0)
    kafka.append(numbered("orders", 0, 4))
    assert [log.bounds([place])[place] for log in (committed, all_of_it)] == [LogBounds(0, 3), LogBounds(0, 7)]
    assert [log.ends([place]) for log in (committed, all_of_it)] == [{place: 7}] * 2
    assert len(read(all_of_it, place, 0, 7)) == 7
    with pytest.raises(DataLoss):
        committed.next_chunk(place, 3, 7)
    kafka.end_transaction("orders", 0)
    assert len(read(committed, place, 0, 7)) == 7


@pytest.mark.parametrize("is_in_memory", [False, True])
def test_a_group_stands_where_it_was_last_told(log: Log, is_in_memory: bool) -> None:
    with closing(MemoryKafka({}).log(KafkaSettings("in-memory:9092")) if is_in_memory else log) as groups:
        assert isinstance(groups, GroupsLog)
        group_id = "billing"
        assert groups.committed_offsets(group_id, ORDERS) == {}
        groups.commit_offsets(group_id, {ORDERS[0]: 3, ORDERS[1]: 0})
        groups.commit_offsets(group_id, {ORDERS[0]: 5})
        assert groups.committed_offsets(group_id, ORDERS) == {ORDERS[0]: 5, ORDERS[1]: 0}
        assert groups.committed_offsets(group_id, ORDERS[1:]) == {ORDERS[1]: 0}


def test_a_time_after_the_last_record_is_the_end_of_the_log(log: Log) -> None:
    # The embedded broker finds no time at all; the scripted broker's tests have the other case.
    assert log.offsets_for_time(ORDERS[:2], 1) == {ORDERS[0]: SIZE, ORDERS[1]: SIZE}


def test_offsets_that_retention_took_are_a_loss(broker: EmbeddedBroker, log: Log) -> None:
    broker.create_topic("aged", 1)
    aged = TopicPartition("aged", 0)
    produce(broker, numbered("aged", 0, 100))
    broker.delete_records("aged", 0, 40)

    assert log.bounds([aged]) == {aged: LogBounds(40, 100)}
    with pytest.raises(DataLoss, match=r"aged-0 no longer holds offset 39: its log is \[40, 100\), retention"):
        log.next_chunk(aged, 39, 100)
    # The same log goes on with what is there.
    assert [record.value for record in read(log, aged, 40, 100)] == values(0, 40, 100)


def test_retention_that_overtakes_a_reader_is_a_loss(broker: EmbeddedBroker, log: Log) -> None:
    broker.create_topic("overtaken", 1)
    overtaken = TopicPartition("overtaken", 0)
    produce(broker, numbered("overtaken", 0, 100))
    first = read(log, overtaken, 0, 10)
    broker.delete_records("overtaken", 0, 100)

    assert [record.value for record in first] == values(0, 0, 10)
    with closing(open_kafka_log(settings(broker))) as other_log, pytest.raises(DataLoss, match="offset 10"):
        other_log.next_chunk(overtaken, 10, 100)


def test_a_position_above_the_end_is_a_loss(log: Log) -> None:
    with pytest.raises(DataLoss, match=rf"orders-2 no longer holds offset 5000: its log is \[0, {SIZE}\).*cut back"):
        log.next_chunk(ORDERS[2], 5000, 5001)


def test_a_plan_above_the_end_is_a_loss_once_nothing_comes_any_more(broker: EmbeddedBroker) -> None:
    with closing(open_kafka_log(settings(broker))) as log:
        assert [record.value for record in read(log, ORDERS[0], 0, SIZE)] == values(0, 0, SIZE)
    with (
        closing(open_kafka_log(settings(broker, no_progress_timeout_s=0.3))) as log,
        pytest.raises(DataLoss, match=rf"offset {SIZE + 4}: its log is \[0, {SIZE}\)"),
    ):
        log.next_chunk(ORDERS[0], SIZE, SIZE + 5)


def test_a_topic_that_does_not_exist_is_named_with_its_neighbours(log: Log) -> None:
    with pytest.raises(UnknownTopic, match=r"no topic order, or.*did you mean orders or orders_eu"):
        log.describe(["orders", "order"], patient=False)
    with pytest.raises(UnknownTopic, match=r"no topic zzz.*create it"):
        log.describe(["zzz"], patient=False)
    # To ask does not create it.
    with pytest.raises(UnknownTopic, match="no topic zzz"):
        log.describe(["zzz"], patient=False)


@pytest.mark.usefixtures("each_reader")
def test_a_partition_that_does_not_exist_is_named(broker: EmbeddedBroker) -> None:
    with closing(open_kafka_log(settings(broker, no_progress_timeout_s=0.3))) as log:
        with pytest.raises(UnknownTopic, match="no partition orders-7"):
            log.bounds([TopicPartition("orders", 7)])
        with pytest.raises(UnknownTopic, match="no partition orders-7"):
            log.next_chunk(TopicPartition("orders", 7), 0, 5)


def test_a_cluster_that_does_not_answer_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PASSWORD", "hunter2")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        servers = f"127.0.0.1:{unused.getsockname()[1]}"
        nobody = KafkaSettings(
            servers,
            config={"sasl.password": secret_from_env("TEST_PASSWORD")},
            timeout_s=0.5,
            no_progress_timeout_s=0.5,
        )
        with closing(open_kafka_log(nobody)) as log:
            for ask in (lambda: log.topics(), lambda: log.describe(["orders"]), lambda: log.bounds(ORDERS[:1])):
                with pytest.raises(
                    KafkaUnavailable, match=rf"{servers} did not answer within 0\.5 s.*refused"
                ) as caught:
                    ask()
                assert "hunter2" not in str(caught.value)
            with pytest.raises(ReadStalled, match=r"orders-0 delivered neither.*offset 3.*last error"):
                log.next_chunk(ORDERS[0], 3, 5)


@pytest.mark.parametrize("asked", ["bounds", "time"])
def test_an_offset_that_is_none_is_asked_for_again_by_a_new_client(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """While a leader changes, the client may answer -1001; taken for "no record since", it would skip all that is there."""
    clients: list[AdminClient] = []

    class Counted(AdminClient):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            clients.append(self)

    ask = log_room._asked_offsets

    def unsettled(client: AdminClient, places: Sequence[TopicPartition], *more: Any) -> Future[Any]:
        if len(clients) > 1:
            return ask(client, places, *more)
        made_up: Future[Any] = Future()
        made_up.set_result(
            {ClientTopicPartition(one.topic, one.partition): SimpleNamespace(offset=OFFSET_INVALID) for one in places}
        )
        return made_up

    monkeypatch.setattr(log_room, "_asked_offsets", unsettled)
    monkeypatch.setattr(asking, "AdminClient", Counted)
    with closing(open_kafka_log(settings(broker))) as log:
        if asked == "bounds":
            assert log.bounds([ORDERS[0]]) == {ORDERS[0]: LogBounds(0, SIZE)}
        else:
            assert log.offsets_for_time([ORDERS[0]], 1) == {ORDERS[0]: SIZE}
    assert len(clients) == 2


def test_passing_fetch_errors_are_waited_out(broker: EmbeddedBroker) -> None:
    broker.push_fetch_errors([KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART])
    with closing(open_kafka_log(settings(broker))) as log:
        assert [record.value for record in read(log, ORDERS[0], 0, SIZE)] == values(0, 0, SIZE)


def test_an_out_of_range_answer_is_not_believed_while_the_log_holds_the_offset(broker: EmbeddedBroker) -> None:
    broker.push_fetch_errors([KafkaError.OFFSET_OUT_OF_RANGE])
    with closing(open_kafka_log(settings(broker))) as log:
        assert [record.value for record in read(log, ORDERS[0], 5, SIZE)] == values(0, 5, SIZE)


@pytest.mark.usefixtures("each_reader")
def test_a_refused_topic_is_not_waited_for(broker: EmbeddedBroker) -> None:
    broker.push_fetch_errors([KafkaError.TOPIC_AUTHORIZATION_FAILED])
    with closing(open_kafka_log(settings(broker))) as log:
        with pytest.raises(
            KafkaRefused, match=r"not let this client read partition orders-0.*TOPIC_AUTHORIZATION_FAILED"
        ):
            log.next_chunk(ORDERS[0], 0, SIZE)
        assert [record.value for record in read(log, ORDERS[0], 0, SIZE)] == values(0, 0, SIZE)


def test_a_broker_that_comes_back_is_read_on() -> None:
    with EmbeddedBroker({"orders": 1}) as broker:
        produce(broker, numbered("orders", 0, 50))
        with closing(open_kafka_log(settings(broker))) as log:
            assert [record.value for record in read(log, ORDERS[0], 0, 20)] == values(0, 0, 20)
            broker.set_down()
            comes_back = threading.Timer(0.2, broker.set_up)
            comes_back.start()
            found = [record.value for record in read(log, ORDERS[0], 30, 50)]  # not in the order of the cached reader
            comes_back.join()
            assert found == values(0, 30, 50)


def test_a_configuration_that_the_client_does_not_know_is_the_authors(broker: EmbeddedBroker) -> None:
    wrong = KafkaSettings(broker.bootstrap_servers, config={"no.such.property": "x"})
    with closing(open_kafka_log(wrong)) as log:
        with pytest.raises(ConfigurationError, match=r"no\.such\.property"):
            log.describe(["orders"])
        with pytest.raises(ConfigurationError, match=r"no\.such\.property"):
            log.next_chunk(ORDERS[0], 0, 1)


def test_logs_can_be_replaced_and_come_back(broker: EmbeddedBroker) -> None:
    class OneChunk:
        def next_chunk(self, place: TopicPartition, position: int, stop: int, max_records: int = 1000) -> Chunk:
            return Chunk.empty(place.topic, place.partition, position, stop)

    with override_logs(lambda _: OneChunk()):  # type: ignore[arg-type, return-value]
        with override_logs(lambda _: None):  # type: ignore[arg-type, return-value]
            assert open_kafka_log(settings(broker)) is None
        assert open_kafka_log(settings(broker)).next_chunk(ORDERS[0], 1, 2) == Chunk.empty("orders", 0, 1, 2)
    with closing(open_kafka_log(settings(broker))) as log:
        assert partitions_of(log.describe(["orders"])) == ORDERS


def test_a_closed_embedded_broker_says_so() -> None:
    broker = EmbeddedBroker({})
    broker.close()
    broker.close()
    with pytest.raises(RuntimeError, match="is closed"):
        broker.create_topic("orders", 1)
