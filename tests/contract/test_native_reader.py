"""The native reader: the same records as by messages, byte by byte; and what it refuses instead of crashing."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from types import ModuleType

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka import TopicPartition as ClientTopicPartition

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import Chunk, EmbeddedBroker, KafkaSettings, native, open_kafka_log
from beam_exactly_once.kafka.inbox import Event
from beam_exactly_once.kafka.native import READER_VARIABLE, NativeInbox, open_reader, version_fault
from beam_exactly_once.logs import RECORD_SCHEMA
from beam_exactly_once.offsets import TopicPartition
from support.servers.scripted_broker import ScriptedBroker
from support.servers.scripted_log import ScriptedLog

SEEDS = range(3)
SIZE = 700


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({f"seed{seed}": 1 for seed in SEEDS}) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0, "linger.ms": 20})
        for seed in SEEDS:
            chance = random.Random(seed)
            for number in range(SIZE):
                producer.produce(
                    f"seed{seed}",
                    key=text_of(chance, 40),
                    value=text_of(chance, chance.choice([0, 1, 100, 3_000])),
                    timestamp=chance.choice([1, 1_700_000_000_000 + number]),
                    headers=[
                        (chance.choice(["", "a", "größe"]), text_of(chance, 9))
                        for _ in range(chance.choice([0, 0, 1, 9]))
                    ],
                )
        assert producer.flush(20) == 0
        yield broker


def text_of(chance: random.Random, size: int) -> bytes | None:
    return None if chance.random() < 0.1 else chance.randbytes(chance.randint(0, size))


def chunks_by(
    reader: str, broker: EmbeddedBroker, place: TopicPartition, cuts: list[int], max_records: int
) -> list[Chunk]:
    chunks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(READER_VARIABLE, reader)
        with closing(open_kafka_log(KafkaSettings(broker.bootstrap_servers, headers=max_records != 7))) as log:
            for position, stop in pairwise(cuts):
                while position < stop:
                    chunks.append(log.next_chunk(place, position, stop, max_records))
                    position = chunks[-1].stop
    return chunks


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("max_records", [1000, 7])
@pytest.mark.parametrize("seed", SEEDS)
def test_both_readers_give_the_same_records(broker: EmbeddedBroker, seed: int, max_records: int) -> None:
    place = TopicPartition(f"seed{seed}", 0)
    cuts = sorted({0, SIZE, *random.Random(seed).sample(range(SIZE), 5)})
    by_messages, natively = (chunks_by(reader, broker, place, cuts, max_records) for reader in ("python", "native"))

    assert [record for chunk in natively for record in chunk.records()] == [
        record for chunk in by_messages for record in chunk.records()
    ]
    for chunk in natively:
        batch = chunk.to_arrow()
        batch.validate(full=True)
        assert batch.schema == RECORD_SCHEMA
        assert pickle.loads(pickle.dumps(chunk)) == chunk
        assert chunk.bytes == sum(len(one.key or b"") + len(one.value or b"") for one in chunk.records())
        middle = (chunk.start + chunk.stop) // 2
        assert list(chunk.cut(middle).records()) == [one for one in chunk.records() if one.offset < middle]


def test_a_value_larger_than_a_chunk_comes_whole(extension: ModuleType) -> None:
    large = bytes(17 << 20)
    log = ScriptedLog().append([b"before", large, b"after"])
    config = {"fetch.message.max.bytes": 32 << 20, "receive.message.max.bytes": 64 << 20}
    with ScriptedBroker({"orders": [log]}) as broker:
        settings = KafkaSettings(broker.bootstrap_servers, config=config)
        with closing(open_kafka_log(settings)) as reader:
            first = reader.next_chunk(TopicPartition("orders", 0), 0, 3)
            second = reader.next_chunk(TopicPartition("orders", 0), first.stop, 3)
    assert [one.value for chunk in (first, second) for one in chunk.records()] == [b"before", large, b"after"]


def opened(extension: ModuleType, broker: EmbeddedBroker, heard: list[str]) -> tuple[Consumer, NativeInbox]:
    def open_client(make: object, settings: KafkaSettings) -> Consumer:
        config = {**settings.client_config(), "error_cb": lambda error: heard.append(error.name())}
        return make(config)  # type: ignore[operator, no-any-return]

    consumer, inbox = open_reader(open_client, KafkaSettings(broker.bootstrap_servers))
    assert isinstance(inbox, NativeInbox)
    return consumer, inbox


def test_a_reader_whose_client_is_closed_says_so(extension: ModuleType, broker: EmbeddedBroker) -> None:
    consumer, inbox = opened(extension, broker, [])
    inbox.open(TopicPartition("seed0", 0))
    consumer.close()
    with pytest.raises(RuntimeError, match="client is closed"):
        inbox.take(0, 5, 0, 5, 0)
    with pytest.raises(RuntimeError, match="client is closed"):
        inbox.open(TopicPartition("seed0", 0))


def test_a_child_process_is_refused_instead_of_waiting_for_ever(extension: ModuleType, broker: EmbeddedBroker) -> None:
    consumer, inbox = opened(extension, broker, [])
    inbox.open(TopicPartition("seed0", 0))
    inbox.begin()
    child = os.fork()
    if child == 0:
        try:
            inbox._partition.take(0, 5, 0, 5, 1, 0)
        except RuntimeError as error:
            inbox.close()
            os._exit(0 if "another process" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    inbox.close()
    consumer.close()


@pytest.mark.parametrize(
    "numbers",
    [(-1, 5, 0, 5, 1, 0), (0, 5, 0, -5, 1, 0), (0, 5, 0, 5, -1, 0), (0, 5, 0, 5, 1, -1), (2**63, 5, 0, 5, 1, 0)],
)
def test_hostile_numbers_are_refused(extension: ModuleType, broker: EmbeddedBroker, numbers: tuple[int, ...]) -> None:
    consumer, inbox = opened(extension, broker, [])
    inbox.open(TopicPartition("seed0", 0))
    with pytest.raises((ValueError, OverflowError)):
        inbox._partition.take(*numbers)
    assert inbox._partition.take(0, 2**62, 0, 2**62, 2**62, 0)[0] >= 0
    inbox.close()
    consumer.close()


def test_errors_of_a_partition_reach_the_clients_callback(extension: ModuleType, broker: EmbeddedBroker) -> None:
    heard: list[str] = []
    consumer, inbox = opened(extension, broker, heard)
    place = TopicPartition("seed0", 9)
    inbox.open(place)
    consumer.assign([ClientTopicPartition(place.topic, place.partition, 0)])
    inbox.begin()
    for _ in range(100):
        assert inbox.take(0, 5, 0, 5, 0.1) == (0, None)
        if heard:
            break
    assert heard == ["_UNKNOWN_PARTITION"]
    inbox.close()
    consumer.close()


def test_a_fatal_error_is_an_event(extension: ModuleType) -> None:
    error = native._error(KafkaError.FENCED_INSTANCE_ID, b"gone\xff", True)
    assert error.fatal()
    assert Event(error, -1).error.str() == "gone\ufffd"


def test_versions_of_another_abi_are_refused() -> None:
    assert [version_fault(one) is None for one in (0x020F00FF, 0x021000FF, 0x02FFFFFF, 0x030000FF)] == [
        False,
        True,
        True,
        False,
    ]


def test_a_library_that_is_not_there_is_refused(extension: ModuleType) -> None:
    with pytest.raises(ImportError, match="not loaded"):
        extension.load("/nowhere/librdkafka.so")


def test_what_is_asked_for_and_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_load", lambda: (None, "no compiler"))
    monkeypatch.setenv(READER_VARIABLE, "native")
    with pytest.raises(ConfigurationError, match=r"READER=native.*no compiler.*'auto'"):
        native.reader()
    monkeypatch.setenv(READER_VARIABLE, "auto")
    assert native.reader() is None
    monkeypatch.setenv(READER_VARIABLE, "fast")
    with pytest.raises(ConfigurationError, match="READER"):
        native.reader()


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps what is freed")
@pytest.mark.usefixtures("extension")
def test_what_was_fetched_ahead_of_a_partition_goes_with_it() -> None:
    """Else a reader of many partitions holds up to 16 MiB of each, and as much again for what librdkafka notes of records."""
    partitions = 12
    with EmbeddedBroker({"orders": partitions}) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0, "linger.ms": 50})
        for partition in range(partitions):
            producer.produce_batch("orders", [{"value": bytes(300)}] * 12_000, partition=partition)
            assert producer.flush(20) == 0
        held = []
        with closing(open_kafka_log(KafkaSettings(broker.bootstrap_servers))) as log:
            for partition in range(partitions):
                place, position = TopicPartition("orders", partition), 0
                while position < 6_000:
                    position = log.next_chunk(place, position, 6_000).stop
                held.append(psutil.Process().memory_info().rss)
    assert held[-1] - held[2] < 20 << 20
