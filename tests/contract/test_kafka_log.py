"""The Kafka log over the embedded broker: exact ranges, bounds, and what each fault is called."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from types import SimpleNamespace

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
from beam_exactly_once.kafka import (
    Chunk,
    EmbeddedBroker,
    KafkaLog,
    KafkaSettings,
    Record,
    asking,
    open_kafka_log,
    override_logs,
)
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.secrets import secret_from_env
from beam_exactly_once.topics import ids_of, partitions_of

ORDERS = [TopicPartition("orders", partition) for partition in range(3)]
SIZE = 700  # offsets of each partition of orders


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    """One broker whose topic ``orders`` no test changes."""
    with EmbeddedBroker({"orders": 3, "orders_eu": 1, "empty": 1}) as broker:
        for partition in range(3):
            produce(broker, "orders", partition, [b"%d-%d" % (partition, offset) for offset in range(SIZE)])
        yield broker


@pytest.fixture
def log(broker: EmbeddedBroker) -> Iterator[KafkaLog]:
    with closing(open_kafka_log(settings(broker))) as log:
        yield log


def settings(broker: EmbeddedBroker, no_progress_timeout_s: float = 30) -> KafkaSettings:
    return KafkaSettings(broker.bootstrap_servers, timeout_s=10, no_progress_timeout_s=no_progress_timeout_s)


def produce(broker: EmbeddedBroker, topic: str, partition: int, values: Sequence[bytes | None]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0, "batch.num.messages": 50})
    for value in values:
        producer.produce(topic, value=value, partition=partition)
    assert producer.flush(10) == 0
    producer.close()


def read(log: KafkaLog, place: TopicPartition, start: int, stop: int, max_records: int = 1000) -> list[Record]:
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
    return [b"%d-%d" % (partition, offset) for offset in range(start, stop)]


def test_topics_are_described_with_their_ids(log: KafkaLog) -> None:
    described = log.describe(["orders_eu", "orders", "orders"])
    assert partitions_of(described) == [*ORDERS, TopicPartition("orders_eu", 0)]
    assert len(set(ids_of(described).values())) == 2
    assert log.describe(["orders"]) == {"orders": described["orders"]}
    assert log.describe([]) == {}
    assert log.topics() == ["empty", "orders", "orders_eu"]


def test_bounds_of_all_partitions_come_in_one_answer(log: KafkaLog) -> None:
    assert log.bounds([*ORDERS, TopicPartition("empty", 0)]) == {
        **dict.fromkeys(ORDERS, LogBounds(0, SIZE)),
        TopicPartition("empty", 0): LogBounds(0, 0),
    }
    assert log.bounds([]) == {}


def test_a_time_after_the_last_record_is_the_end_of_the_log(log: KafkaLog) -> None:
    # The embedded broker finds no time at all; the scripted broker's tests have the other case.
    assert log.offsets_for_time(ORDERS[:2], 1) == {ORDERS[0]: SIZE, ORDERS[1]: SIZE}


@pytest.mark.parametrize(
    ("start", "stop", "max_records"),
    [(0, SIZE, 1000), (0, SIZE, 64), (0, 1, 1000), (SIZE - 1, SIZE, 1000), (17, 17 + 333, 100), (5, 6, 1)],
)
def test_a_range_is_read_exactly(log: KafkaLog, start: int, stop: int, max_records: int) -> None:
    records = read(log, ORDERS[1], start, stop, max_records)

    assert [(record.offset, record.value) for record in records] == [
        (offset, b"1-%d" % offset) for offset in range(start, stop)
    ]
    assert {(record.topic, record.partition, record.timestamp_type) for record in records} == {("orders", 1, 1)}


@pytest.mark.parametrize("seed", range(4))
def test_contiguous_ranges_of_any_sizes_give_each_record_once(log: KafkaLog, seed: int) -> None:
    cuts = sorted({0, SIZE, *random.Random(seed).sample(range(SIZE), 12)})
    found = [record.value for a, b in zip(cuts, cuts[1:]) for record in read(log, ORDERS[0], a, b)]  # noqa: B905, RUF007

    assert found == values(0, 0, SIZE)


@pytest.mark.parametrize("seed", range(4))
def test_ranges_anywhere_in_any_order_are_read_exactly(log: KafkaLog, seed: int) -> None:
    numbers = random.Random(seed)
    for _ in range(12):
        partition = numbers.randrange(3)
        start = numbers.randrange(SIZE)
        stop = numbers.randint(start + 1, SIZE)
        records = read(log, ORDERS[partition], start, stop, numbers.choice([1000, 150]))
        assert [record.value for record in records] == values(partition, start, stop)


def test_reading_goes_on_where_new_records_arrive(broker: EmbeddedBroker, log: KafkaLog) -> None:
    broker.create_topic("growing", 1)
    growing = TopicPartition("growing", 0)
    expected: list[bytes] = []
    for step in range(5):
        new = [b"%d/%d" % (step, number) for number in range(step + 1)]
        produce(broker, "growing", 0, new)
        found = read(log, growing, len(expected), len(expected) + len(new))
        expected.extend(new)
        assert [record.value for record in found] == new


def test_every_byte_of_a_record_comes_through(broker: EmbeddedBroker, log: KafkaLog) -> None:
    broker.create_topic("bytes", 1)
    expected = [
        Record("bytes", 0, 0, 1_700_000_000_000, 1, None, None, ()),
        Record("bytes", 0, 1, 1_700_000_000_001, 1, b"", b"", (("name", b""), ("name", None))),
        Record("bytes", 0, 2, 1_700_000_000_002, 1, b"\xff\x00", bytes(range(256)), (("é", b"\xff\xfe"),)),
        Record("bytes", 0, 3, 1_700_000_000_003, 1, b"k", b"x" * 300_000, ()),
    ]
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    for record in expected:
        producer.produce(
            "bytes",
            key=record.key,
            value=record.value,
            partition=0,
            timestamp=record.timestamp_ms,
            headers=list(record.headers),
        )
    producer.flush(10)
    producer.close()
    bytes_partition = TopicPartition("bytes", 0)

    assert read(log, bytes_partition, 0, 4) == expected
    chunk = log.next_chunk(bytes_partition, 0, 4)
    assert [row["value"] for row in chunk.to_arrow().to_pylist()] == [record.value for record in expected[: len(chunk)]]


@pytest.mark.parametrize(("position", "stop", "max_records"), [(-1, 5, 10), (5, 5, 10), (6, 5, 10), (0, 5, 0)])
def test_a_range_that_is_none_is_refused(log: KafkaLog, position: int, stop: int, max_records: int) -> None:
    with pytest.raises(ValueError, match="position < stop"):
        log.next_chunk(ORDERS[0], position, stop, max_records)


def test_offsets_that_retention_took_are_a_loss(broker: EmbeddedBroker, log: KafkaLog) -> None:
    broker.create_topic("aged", 1)
    aged = TopicPartition("aged", 0)
    produce(broker, "aged", 0, values(0, 0, 100))
    broker.delete_records("aged", 0, 40)

    assert log.bounds([aged]) == {aged: LogBounds(40, 100)}
    with pytest.raises(DataLoss, match=r"aged-0 no longer holds offset 39: its log is \[40, 100\), retention"):
        log.next_chunk(aged, 39, 100)
    # The same log goes on with what is there.
    assert [record.value for record in read(log, aged, 40, 100)] == values(0, 40, 100)


def test_retention_that_overtakes_a_reader_is_a_loss(broker: EmbeddedBroker, log: KafkaLog) -> None:
    broker.create_topic("overtaken", 1)
    overtaken = TopicPartition("overtaken", 0)
    produce(broker, "overtaken", 0, values(0, 0, 100))
    first = read(log, overtaken, 0, 10)
    broker.delete_records("overtaken", 0, 100)

    assert [record.value for record in first] == values(0, 0, 10)
    with closing(open_kafka_log(settings(broker))) as other_log, pytest.raises(DataLoss, match="offset 10"):
        other_log.next_chunk(overtaken, 10, 100)


def test_a_position_above_the_end_is_a_loss(log: KafkaLog) -> None:
    with pytest.raises(DataLoss, match=rf"orders-2 no longer holds offset 5000: its log is \[0, {SIZE}\).*cut back"):
        log.next_chunk(ORDERS[2], 5000, 5001)


def test_a_plan_above_the_end_is_a_loss_once_nothing_comes_any_more(broker: EmbeddedBroker) -> None:
    with closing(open_kafka_log(settings(broker, no_progress_timeout_s=0.3))) as log:
        assert [record.value for record in read(log, ORDERS[0], 0, SIZE)] == values(0, 0, SIZE)
        with pytest.raises(DataLoss, match=rf"offset {SIZE + 4}: its log is \[0, {SIZE}\)"):
            log.next_chunk(ORDERS[0], SIZE, SIZE + 5)


def test_a_topic_that_does_not_exist_is_named_with_its_neighbours(log: KafkaLog) -> None:
    with pytest.raises(UnknownTopic, match=r"no topic order, or.*did you mean orders or orders_eu"):
        log.describe(["orders", "order"], patient=False)
    with pytest.raises(UnknownTopic, match=r"no topic zzz.*create it"):
        log.describe(["zzz"], patient=False)
    # To ask does not create it.
    with pytest.raises(UnknownTopic, match="no topic zzz"):
        log.describe(["zzz"], patient=False)


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

    class Unsettled(AdminClient):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            clients.append(self)

        def list_offsets(
            self, specs: dict[ClientTopicPartition, object], **more: object
        ) -> dict[object, Future[object]]:
            if len(clients) > 1:
                return super().list_offsets(specs, **more)
            made_up: Future[object] = Future()
            made_up.set_result(SimpleNamespace(offset=OFFSET_INVALID))
            return dict.fromkeys(specs, made_up)

    monkeypatch.setattr(asking, "AdminClient", Unsettled)
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
        produce(broker, "orders", 0, values(0, 0, 50))
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


def test_a_log_can_be_closed_twice_and_unused(broker: EmbeddedBroker) -> None:
    log = open_kafka_log(settings(broker))
    log.close()
    log.close()


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
