"""A request to end a transaction that reaches the broker late: librdkafka's protocol alone does not stop it (KIP-890)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from services.launch.holding_proxy import HoldingProxy
from services.launch.kafka_broker import Kafka
from services.streams.copies import Copy, assert_exactly_once, at, delivered, numbers_of, records_of, started
from services.streams.topics import settle, wait_until

pytestmark = pytest.mark.runs_on("DirectRunner")


@pytest.fixture(scope="module")
def proxy() -> Iterator[HoldingProxy]:
    proxy = HoldingProxy()
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def kafka(bootstrap_servers: str, proxy: HoldingProxy) -> Iterator[Kafka]:
    """A broker behind the proxy, where a real Kafka is asked for."""
    with Kafka(properties={"advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy.port}"}) as kafka:
        proxy.broker_port = int(kafka.bootstrap_servers.rpartition(":")[2])
        yield kafka


@pytest.fixture
def copy(kafka: Kafka, tmp_path: Path) -> Copy:
    name = f"orders-{secrets.token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    settle(admin.create_topics([NewTopic(name, 3, 1)]))
    return Copy(kafka.bootstrap_servers, name, str(tmp_path / "checkpoint"), {"shards": 1})


@pytest.mark.parametrize("direct", [False, True])
def test_the_late_commit_of_a_killed_driver(copy: Copy, proxy: HoldingProxy, direct: bool) -> None:
    """It arrives while the next driver has a transaction of the same id open, half of which it would make visible."""
    copy.options["direct"] = direct
    proxy.hold_next_end()
    with started(copy, 4) as driver:
        wait_until(lambda: proxy.holds)
        driver.kill()
    answers: list[int] = []

    def late(transaction: Any) -> None:
        delivered(transaction)
        answers.append(proxy.release())
        assert records_of(copy.bootstrap_servers, copy.topic) == []

    with at("commit", 1, late, before=True):
        copy.run(8)
    assert answers == [KafkaError.PRODUCER_FENCED] or answers == [KafkaError.INVALID_PRODUCER_EPOCH]
    assert_exactly_once(copy, 8)


def test_what_would_happen_to_a_producer_of_several_transactions(copy: Copy, proxy: HoldingProxy) -> None:
    """The danger is real: within one epoch, a late commit ends the transaction that follows, which was to be aborted."""
    producer = Producer(
        {"bootstrap.servers": copy.bootstrap_servers, "transactional.id": copy.topic, "socket.timeout.ms": 1000}
    )
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(copy.topic, b"1")
    proxy.hold_next_end()
    producer.commit_transaction()  # the client asks again by itself, on a new connection
    assert proxy.holds
    producer.begin_transaction()
    producer.produce(copy.topic, b"2")
    producer.flush()
    assert proxy.release() == 0
    wait_until(lambda: numbers_of(records_of(copy.bootstrap_servers, copy.topic)) == [1, 2])
