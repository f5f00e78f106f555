"""Receipts of ``WriteToKafka`` that went astray, and what Kafka refuses."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import pytest
from confluent_kafka import OFFSET_END, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from beam_exactly_once import Record
from beam_exactly_once.errors import (
    ConfigurationError,
    CorruptObject,
    OutputNotWritable,
    Retryable,
    SinkAhead,
    SinkBehind,
    SinkUnavailable,
    UnknownTopic,
)
from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.kafka.receipts_topic import TAIL_OFFSETS
from beam_exactly_once.kafka.transaction_producer import TransactionSettings
from beam_exactly_once.kafka.transactions import OutgoingRecords, Transaction
from services.streams.copies import (
    Copy,
    alter_config,
    assert_exactly_once,
    at,
    delete_topic,
    delivered,
    fail,
    numbers_of,
    records_of,
)
from services.streams.topics import TIMEOUT_S, Topic, settle
from support.ending import ends_with

pytestmark = pytest.mark.runs_on("DirectRunner")
NewTopicMade = Callable[..., Topic]


# -- receipts ------------------------------------------------------------------------------------------------------------


def test_the_newest_receipt_is_found_behind_many_aborted_ones(copy: Copy) -> None:
    """Each aborted transaction takes two offsets, more than the first look covers."""
    copy.run(4, shards=1)
    settings = TransactionSettings(KafkaSettings(copy.bootstrap_servers))
    for _ in range(TAIL_OFFSETS):
        with Transaction(settings, f"{copy.receipts_topic}.0", copy.topic) as transaction:
            transaction.begin()
            transaction.produce(copy.receipts_topic, OutgoingRecords([b"never"], [b"receipt"], partitions=[0]))
            delivered(transaction)
    copy.run(8, shards=1)
    assert_exactly_once(copy, 8)


def test_the_receipts_topic_is_compacted_and_grows(copy: Copy, admin: AdminClient) -> None:
    copy.run(4, shards=1)
    copy.run(8, shards=3)
    resource = ConfigResource(ResourceType.TOPIC, copy.receipts_topic)
    config = admin.describe_configs([resource])[resource].result(TIMEOUT_S)
    assert config["cleanup.policy"].value == "compact"
    assert config["unclean.leader.election.enable"].value == "false"
    assert len(admin.list_topics(copy.receipts_topic, timeout=TIMEOUT_S).topics[copy.receipts_topic].partitions) == 3


@pytest.mark.parametrize("batches", [1, 3])
def test_a_receipts_topic_that_was_deleted_is_noticed(copy: Copy, admin: AdminClient, batches: int) -> None:
    """Also after the first batch, which has no predecessor."""
    copy.run(4 * batches)
    delete_topic(admin, copy.receipts_topic)
    with pytest.raises(SinkBehind, match=f"{copy.receipts_topic}.* is gone"):
        copy.run(4 * batches + 4)
    assert_exactly_once(copy, 4 * batches)


def test_receipts_that_were_deleted_are_noticed(copy: Copy, admin: AdminClient) -> None:
    copy.run(4, shards=1)
    alter_config(admin, copy.receipts_topic, "cleanup.policy", "delete")  # Kafka lets nobody cut a compacted topic
    settle(admin.delete_records([TopicPartition(copy.receipts_topic, 0, OFFSET_END)]))
    alter_config(admin, copy.receipts_topic, "cleanup.policy", "compact")
    with pytest.raises(SinkBehind, match="were deleted below offset"):
        copy.run(8, shards=1)
    assert_exactly_once(copy, 4)


def test_a_receipts_topic_that_a_lagging_broker_may_lead_is_refused(copy: Copy, admin: AdminClient) -> None:
    copy.run(4)
    alter_config(admin, copy.receipts_topic, "unclean.leader.election.enable", "true")
    with pytest.raises(OutputNotWritable, match=r"--add-config unclean\.leader\.election\.enable=false"):
        copy.run(8)
    alter_config(admin, copy.receipts_topic, "unclean.leader.election.enable", "false")
    copy.run(8)
    assert_exactly_once(copy, 8)


@pytest.mark.parametrize("policy", ["delete", "compact,delete"])
def test_a_receipts_topic_that_forgets_is_refused(copy: Copy, admin: AdminClient, policy: str) -> None:
    copy.run(4)
    alter_config(admin, copy.receipts_topic, "cleanup.policy", policy)
    with pytest.raises(OutputNotWritable, match=f"cleanup.policy={policy} .*--add-config cleanup.policy=compact"):
        copy.run(8)
    alter_config(admin, copy.receipts_topic, "cleanup.policy", "compact")
    copy.run(8)
    assert_exactly_once(copy, 8)


def test_something_else_among_the_receipts_is_refused(copy: Copy) -> None:
    copy.run(4)
    plain = Producer({"bootstrap.servers": copy.bootstrap_servers})
    plain.produce(copy.receipts_topic, b"hello", key=b"receipt", partition=0)
    assert plain.flush(TIMEOUT_S) == 0
    with pytest.raises(CorruptObject, match="is not the receipt of this shard"):
        copy.run(8)


def test_a_checkpoint_of_five_batches_ago_does_not_write_again(copy: Copy) -> None:
    copy.run(32)
    keys = [f"{kind}/{batch_id:020d}.json" for kind in ("offsets", "commits") for batch_id in range(3, 8)]
    copy.opened().store.delete(keys)
    with pytest.raises(SinkAhead, match="holds batch 7 "):
        copy.run(32)
    assert_exactly_once(copy, 32)


def test_a_wiped_checkpoint_skips_nothing(copy: Copy) -> None:
    copy.run(8)
    store = copy.opened().store
    store.delete([entry.key for entry in store.list()])
    copy.run(8)
    assert numbers_of(records_of(copy.bootstrap_servers, copy.topic)) == sorted([*range(8)] * 2)


def test_what_is_committed_needs_its_source_no_more(copy: Copy) -> None:
    """Compaction removed every record of the batch between its commit and its publish."""
    with at("begin_transaction", 1, fail), ends_with("killed here"):
        copy.run(4)
    copy.run(8, compacted_to=range(4, 8))
    assert_exactly_once(copy, 8)


def test_a_transaction_of_somebody_else_among_the_receipts_stops_the_sink(copy: Copy, admin: AdminClient) -> None:
    """Behind it a receipt would be hidden."""
    copy.run(4)
    foreign = Producer({"bootstrap.servers": copy.bootstrap_servers, "transactional.id": secrets.token_hex(4)})
    foreign.init_transactions(TIMEOUT_S)
    foreign.begin_transaction()
    foreign.produce(copy.receipts_topic, b"{}", key=b"receipt", partition=0)
    assert foreign.flush(TIMEOUT_S) == 0
    with pytest.raises(Retryable, match="has an open transaction"):
        copy.run(8)
    foreign.abort_transaction(TIMEOUT_S)
    copy.run(8)
    assert_exactly_once(copy, 8)


# -- what Kafka refuses -----------------------------------------------------------------------------------------------


def test_a_missing_topic_is_named_before_anything_runs(copy: Copy) -> None:
    with pytest.raises(UnknownTopic, match="has no topic missing"):
        replace(copy, topic="missing").run(4)
    assert list(copy.opened().marker_ids()) == []


@pytest.mark.parametrize("shape", ["value", "headers"])
def test_a_record_that_is_too_large_is_refused_before_its_commit(copy: Copy, admin: AdminClient, shape: str) -> None:
    alter_config(admin, copy.topic, "max.message.bytes", "5000")
    large = {"value": {"value": bytes(5000)}, "headers": {"value": b"0", "headers": [("h", bytes(3000))] * 2}}[shape]
    with pytest.raises(ConfigurationError, match=r"of up to \d+ bytes, but topic .* takes 5000"):
        copy.run(4, through=lambda _: [large], order_by=[])
    assert list(copy.opened().marker_ids()) == []
    copy.run(4, through=lambda record: [record._replace(value=b"%d" % int(record.value), key=bytes(1500))] * 3)
    assert len(records_of(copy.bootstrap_servers, copy.topic)) == 12


def test_a_limit_that_was_lowered_after_the_commit_keeps_the_batch_waiting(copy: Copy, admin: AdminClient) -> None:
    def lower(_: object) -> None:
        alter_config(admin, copy.topic, "max.message.bytes", "1000")

    def large(record: Record) -> list[Record]:
        return [record._replace(headers=(("h", secrets.token_bytes(3000)),))]

    with at("begin_transaction", 1, lower), pytest.raises(OutputNotWritable, match=r"Raise max\.message\.bytes"):
        copy.run(4, through=large)
    with pytest.raises(OutputNotWritable, match=r"Raise max\.message\.bytes"):
        copy.run(8)
    assert records_of(copy.bootstrap_servers, copy.topic) == []
    alter_config(admin, copy.topic, "max.message.bytes", "10000")
    copy.run(8)
    assert_exactly_once(copy, 8)


def test_a_record_without_a_key_for_a_compacted_topic(new_topic: NewTopicMade, copy: Copy) -> None:
    copy = replace(copy, topic=new_topic(1, cleanup_policy="compact").name)
    with pytest.raises(ConfigurationError, match="is compacted, and takes none"):
        copy.run(4, through=lambda _: [{"value": b"1"}], order_by=[])
    copy.run(4)
    assert_exactly_once(copy, 4)


def test_a_partition_that_the_topic_does_not_have(copy: Copy, output: Topic) -> None:
    def to_partition_3(record: Record) -> list[Record]:
        return [record._replace(partition=3)]

    with pytest.raises(ConfigurationError, match=r"for partition 3 of topic .* has partitions 0 to 2"):
        copy.run(4, through=to_partition_3, partitioner="partition")
    output.grow(4)
    copy.run(4, through=to_partition_3, partitioner="partition")
    assert {record.partition() for record in records_of(copy.bootstrap_servers, copy.topic)} == {3}


def test_a_broker_that_does_not_answer_is_retried(copy: Copy) -> None:
    with pytest.raises(SinkUnavailable, match=r"127\.0\.0\.1:1"):
        replace(copy, bootstrap_servers="127.0.0.1:1").run(4, timeout_s=1.0)
