"""``WriteToKafka`` while its broker is away, and on brokers with access rules."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from beam_exactly_once import secret_from_env
from beam_exactly_once.errors import (
    BeamExactlyOnceError,
    ConfigurationError,
    Retryable,
    SinkUnavailable,
)
from beam_exactly_once.kafka.transactions import Transaction
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.launch.kafka_broker import Kafka
from services.launch.kafka_security import SecureKafka
from services.streams.copies import Copy, assert_exactly_once, at, delivered, numbers_of, records_of
from services.streams.topics import TIMEOUT_S, Topic, settle, wait_until

pytestmark = pytest.mark.runs_on("DirectRunner")
# How long the client looks for a broker that comes back.
LONG_S = 120.0


@pytest.fixture(scope="module")
def own_kafka(bootstrap_servers: str) -> Iterator[Kafka]:
    """A broker that may be ended, where a real Kafka is asked for."""
    with Kafka(properties={"transaction.max.timeout.ms": "180000"}) as kafka:
        yield kafka


@pytest.fixture
def own_copy(own_kafka: Kafka, tmp_path: Path) -> Copy:
    """On that broker."""
    name = f"orders-{secrets.token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap_servers})
    settle(admin.create_topics([NewTopic(name, 3, 1)]))
    options = {"timeout_s": LONG_S, "transaction_timeout_s": LONG_S, "shards": 1}
    return Copy(own_kafka.bootstrap_servers, name, str(tmp_path / "checkpoint"), options)


def test_an_outage_longer_than_the_transaction_timeout(copy: Copy, output: Topic) -> None:
    """The broker aborts; the receipt says that nothing was written; it is written again."""

    def outlive(transaction: Transaction) -> None:
        delivered(transaction)
        for partition in range(3):  # seen once nothing before them is open
            output.send([b"999"], partition=partition)
        wait_until(lambda: len(records_of(copy.bootstrap_servers, copy.topic)) == 3)

    with at("commit", 1, outlive, before=True), pytest.raises(Retryable, match="transaction_timeout_s=1"):
        copy.run(4, shards=1, transaction_timeout_s=1.0)
    copy.run(4)
    assert numbers_of(records_of(copy.bootstrap_servers, copy.topic)) == [0, 1, 2, 3, 999, 999, 999]


@pytest.mark.parametrize("step", ["begin_transaction", "produce", "commit"])
def test_a_broker_that_is_killed_and_comes_back(own_kafka: Kafka, own_copy: Copy, step: str) -> None:
    """The transaction waits for it, and nobody has to start anything again."""
    restarting = threading.Thread(target=own_kafka.start, args=(1,))

    def kill(transaction: Transaction) -> None:
        if step == "commit":
            delivered(transaction)
        own_kafka.kill(1)
        restarting.start()

    try:
        with at(step, 1, kill, before=step == "commit"):
            own_copy.run(12)
    finally:
        restarting.join()
    assert_exactly_once(own_copy, 12)


@pytest.mark.parametrize(("step", "message"), [("produce", "took no record"), ("commit", "could not commit")])
def test_a_broker_that_stays_away_for_longer_than_the_sink_waits(
    own_kafka: Kafka, own_copy: Copy, step: str, message: str
) -> None:
    def kill(transaction: Transaction) -> None:
        if step == "commit":
            delivered(transaction)
        own_kafka.kill(1)

    try:
        with at(step, 1, kill, before=step == "commit"), pytest.raises(SinkUnavailable, match=message):
            own_copy.run(8, timeout_s=10.0)
    finally:
        own_kafka.start(1)
    own_copy.run(12)
    assert_exactly_once(own_copy, 12)


def test_a_broker_that_allows_no_such_timeout_says_so(own_copy: Copy) -> None:
    with pytest.raises(ConfigurationError, match=r"allows no transaction_timeout_s=300.* Lower transaction_timeout_s"):
        own_copy.run(4, transaction_timeout_s=300.0)


def test_each_missing_permission_is_named_until_none_is(
    secure_kafka: SecureKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRITER_PASSWORD", secure_kafka.passwords["writer"])
    admin = AdminClient({"bootstrap.servers": secure_kafka.bootstrap_servers})
    settle(admin.create_topics([NewTopic("orders", 3, 1)]))
    config = {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(secure_kafka.authority),
        "sasl.mechanisms": "PLAIN",
        "sasl.username": "writer",
        "sasl.password": secret_from_env("WRITER_PASSWORD"),
    }
    copy = Copy(secure_kafka.addresses("TRUSTED"), "orders", str(tmp_path / "checkpoint"), {"client_config": config})
    prefix = "beam-exactly-once."

    def allow(kind: ResourceType, name: str, *operations: AclOperation) -> None:
        pattern = ResourcePatternType.PREFIXED if name == prefix else ResourcePatternType.LITERAL
        for operation in operations:
            rule = (kind, name, pattern, "User:writer", "*", operation, AclPermissionType.ALLOW)
            settle(admin.create_acls([AclBinding(*rule)]))
            wait_until(lambda rule=rule: len(admin.describe_acls(AclBindingFilter(*rule)).result(TIMEOUT_S)) == 1)

    def refusal(count: int = 4) -> str:
        with pytest.raises(BeamExactlyOnceError) as caught:
            copy.run(count)
        assert not isinstance(caught.value, Retryable)
        assert secure_kafka.passwords["writer"] not in str(caught.value)
        return str(caught.value)

    assert "topic orders" in refusal()
    allow(ResourceType.TOPIC, "orders", AclOperation.DESCRIBE)
    assert "kafka-acls.sh" in refusal()
    allow(ResourceType.TOPIC, "orders", AclOperation.WRITE)
    assert f"topic {copy.receipts_topic}" in refusal()
    allow(ResourceType.TOPIC, prefix, AclOperation.DESCRIBE)
    assert f"kafka-topics.sh --create --topic {copy.receipts_topic} --partitions 2 --replication-factor 1" in refusal()
    settle(admin.create_topics([NewTopic(copy.receipts_topic, 1, 1, config={"cleanup.policy": "compact"})]))
    assert "--operation DescribeConfigs" in refusal()
    allow(ResourceType.TOPIC, prefix, AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS)
    assert f"kafka-topics.sh --alter --topic {copy.receipts_topic} --partitions 2" in refusal()
    allow(ResourceType.TOPIC, prefix, AclOperation.ALTER)
    assert f"--transactional-id {copy.receipts_topic}.0" in refusal()
    allow(ResourceType.TRANSACTIONAL_ID, prefix, AclOperation.WRITE, AclOperation.DESCRIBE)
    copy.run(4)
    assert numbers_of(records_of(secure_kafka.bootstrap_servers, "orders")) == [0, 1, 2, 3]

    taken = StoreCalls(
        KillPoint("put_if_absent", "commits/", 1), lambda: secure_kafka.forbid("writer", AclOperation.WRITE, "orders")
    )
    with watching(taken):
        assert "topic orders" in refusal(8)
    assert "kafka-acls.sh" in refusal(8)
    allow(ResourceType.TOPIC, "orders", AclOperation.WRITE)
    copy.run(8)
    assert numbers_of(records_of(secure_kafka.bootstrap_servers, "orders")) == list(range(8)), "the batch has waited"
