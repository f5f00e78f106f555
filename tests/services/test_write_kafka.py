"""``WriteToKafka`` on an Apache Kafka broker, judged by a consumer of committed records."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from confluent_kafka import OFFSET_END, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from beam_exactly_once.errors import (
    ConfigurationError,
    CorruptObject,
    Fenced,
    OutputNotWritable,
    Retryable,
    SinkAhead,
    SinkBehind,
    SinkUnavailable,
    UnknownTopic,
)
from beam_exactly_once.kafka import KafkaRecord, KafkaSettings
from beam_exactly_once.kafka.marks_topic import TAIL_OFFSETS
from beam_exactly_once.kafka.transactions import OutgoingRecords, Transaction, TransactionSettings
from beam_exactly_once.pipelines import kafka_to_kafka
from beam_exactly_once.transforms import write_kafka
from beam_exactly_once.transforms.publishing import Part
from services.copies import Copy, assert_exactly_once, at, delivered, live, numbers_of, records_of
from services.kafka_broker import Kafka
from services.topics import Topic

NewTopicMade = Callable[..., Topic]
KILLED = -9
TIMEOUT_S = 60.0


@pytest.fixture
def topic(new_topic: NewTopicMade) -> Topic:
    return new_topic(3)


@pytest.fixture
def copy(topic: Topic, tmp_path: Path) -> Copy:
    return Copy(topic.bootstrap_servers, topic.name, str(tmp_path / "checkpoint"))


@pytest.fixture
def admin(bootstrap_servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap_servers})


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s, "not settled"
        time.sleep(0.05)


def fail(_: object) -> None:
    raise RuntimeError("killed here")


# -- what is written --------------------------------------------------------------------------------------------------


def test_every_record_once_with_all_that_it_has(copy: Copy) -> None:
    copy.run(10)
    assert_exactly_once(copy, 10)
    copy.run(10)
    copy.run(15)
    assert_exactly_once(copy, 15)
    assert {record.timestamp()[1] for record in records_of(copy.bootstrap_servers, copy.topic)} == set(
        range(1_000_000, 1_000_015)
    )


@pytest.mark.parametrize("partition_by", ["key", "partition"])
def test_rows_of_all_kinds(copy: Copy, partition_by: str) -> None:
    rows = {
        0: KafkaRecord("x", 2, 7, 5000, 1, b"k", b"record", (("a", b"1"), ("a", None))),
        1: {"value": b"dict", "partition": 1},
        2: {"value": None, "key": "tombstone", "partition": 0, "timestamp_ms": 6000},
        3: {"value": "\u00e9", "key": b"", "partition": 2, "headers": [("h", b"")], "other": 1},
    }
    copy.run(4, through=lambda record: [rows[int(record.value)]], partition_by=partition_by, order_by=[])
    found = {
        record.value(): (record.key(), record.headers(), record.partition())
        for record in records_of(copy.bootstrap_servers, copy.topic)
    }
    assert {value: seen[:2] for value, seen in found.items()} == {
        b"record": (b"k", [("a", b"1"), ("a", None)]),
        b"dict": (None, None),
        None: (b"tombstone", None),
        "\u00e9".encode(): (b"", [("h", b"")]),
    }
    if partition_by == "partition":
        assert {value: seen[2] for value, seen in found.items()} == {b"record": 2, b"dict": 1, None: 0, b"\xc3\xa9": 2}


def test_batches_without_rows_and_other_shards(copy: Copy) -> None:
    copy.run(8, through=lambda record: [] if int(record.value) < 6 else [record])
    copy.run(16, shards=3)
    copy.run(24, shards=1, through=lambda record: [])
    copy.run(32, shards=5)
    copy.run(36, shards=2)
    found = numbers_of(records_of(copy.bootstrap_servers, copy.topic))
    assert found == [6, 7, *range(8, 16), *range(24, 36)]


def test_two_sinks_at_one_topic_and_another_stream(copy: Copy) -> None:
    copy.run(8, second=copy.topic)
    copy.elsewhere().run(8)
    assert numbers_of(records_of(copy.bootstrap_servers, copy.topic)) == sorted([*range(8)] * 3)


# -- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "occurrence", "how"),
    [
        ("init_transactions", 2, {}),
        ("the mark was read", 2, {}),
        ("begin_transaction", 3, {}),
        ("produce", 1, {"flush": True}),
        ("produce", 4, {"flush": True}),
        ("commit", 3, {"before": True}),
        ("commit", 1, {}),
        ("commit", 4, {}),
    ],
)
def test_killed_at_every_step(copy: Copy, step: str, occurrence: int, how: dict[str, Any]) -> None:
    """What was open then is ended by the next start, at once."""
    assert live(copy, 12, step, occurrence, **how) == KILLED
    copy.run(12)
    assert_exactly_once(copy, 12)


def test_what_a_killed_driver_left_is_never_seen(copy: Copy) -> None:
    copy = replace(copy, options={"shards": 1})
    assert live(copy, 4, "commit", 1, before=True, flush=True) == KILLED
    leftovers = numbers_of(records_of(copy.bootstrap_servers, copy.topic, "read_uncommitted"))
    assert leftovers and records_of(copy.bootstrap_servers, copy.topic) == []
    copy.run(4)
    assert_exactly_once(copy, 4)
    everything = numbers_of(records_of(copy.bootstrap_servers, copy.topic, "read_uncommitted"))
    assert everything == sorted([*range(4), *leftovers])


def test_a_batch_that_is_run_again_may_be_another(copy: Copy) -> None:
    """The attempt that published a shard has won; other code changes nothing of its batch."""
    assert live(copy, 4, "commit", 1) == KILLED
    copy.run(8, through=lambda record: [record._replace(value=b"%d" % (int(record.value) + 100))])
    found = numbers_of(records_of(copy.bootstrap_servers, copy.topic))
    assert found == [0, 1, 2, 3, 104, 105, 106, 107]


# -- drivers that come late -------------------------------------------------------------------------------------------


class Asleep:
    """A driver in a thread of its own that sleeps at a step until it is woken."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._asleep, self._woken = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(run,), daemon=True)

    def fall_asleep(self, _: object) -> None:
        if threading.current_thread() is self._thread:
            self._asleep.set()
            assert self._woken.wait(TIMEOUT_S)

    def start(self) -> None:
        self._thread.start()
        assert self._asleep.wait(TIMEOUT_S)

    def wake(self) -> BaseException | None:
        """How it ends."""
        self._woken.set()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return self._error

    def _run(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            self._error = error


@pytest.mark.parametrize(
    ("step", "before"),
    [("init_transactions", True), ("the mark was read", False), ("produce", False), ("commit", True)],
)
def test_a_driver_that_was_replaced_wakes_and_is_fenced(copy: Copy, step: str, before: bool) -> None:
    occurrence = 2 if step == "init_transactions" else 1  # the first is of the start
    sleeper = Asleep(lambda: copy.run(8))
    with at(step, occurrence, sleeper.fall_asleep, before=before):
        sleeper.start()
        copy.run(12)
        error = sleeper.wake()
    assert isinstance(error, Fenced), error
    assert_exactly_once(copy, 12)
    copy.run(16)
    assert_exactly_once(copy, 16)


def test_a_batch_published_hundreds_of_batches_late_is_not_written(copy: Copy) -> None:
    published: list[tuple[Any, Part]] = []
    publish = write_kafka._KafkaPublisher.publish

    def remembered(publisher: Any, part: Part) -> None:
        published.append((publisher, part))
        publish(publisher, part)

    with mock.patch.object(write_kafka._KafkaPublisher, "publish", remembered):
        copy.run(12)
    publisher, part = published[0]
    assert part.attempt.batch_id == 0
    with pytest.raises(SinkAhead, match="holds batch 2 "):
        publisher.publish(part)
    publisher, part = published[-1]
    publisher.publish(part)  # the newest is there
    assert_exactly_once(copy, 12)


# -- the broker -------------------------------------------------------------------------------------------------------


def test_an_outage_longer_than_the_transaction_timeout(copy: Copy, topic: Topic) -> None:
    """The broker aborts; the mark says that nothing was written; it is written again."""

    def outlive(transaction: Transaction) -> None:
        delivered(transaction)
        for partition in range(3):  # seen once nothing before them is open
            topic.send([b"999"], partition=partition)
        wait_until(lambda: len(records_of(copy.bootstrap_servers, copy.topic)) == 3)

    with at("commit", 1, outlive, before=True), pytest.raises(Retryable, match="transaction_timeout_s=1"):
        copy.run(4, shards=1, transaction_timeout_s=1.0)
    copy.run(4)
    assert numbers_of(records_of(copy.bootstrap_servers, copy.topic)) == [0, 1, 2, 3, 999, 999, 999]


def test_a_commit_whose_answer_is_lost_is_not_written_again(copy: Copy) -> None:
    with at("commit", 2, fail), pytest.raises(RuntimeError, match="killed here"):
        copy.run(12)
    copy.run(12)
    assert_exactly_once(copy, 12)


def test_a_transaction_of_somebody_else_among_the_marks_stops_the_sink(copy: Copy, admin: AdminClient) -> None:
    """Behind it a mark would be hidden."""
    copy.run(4)
    foreign = Producer({"bootstrap.servers": copy.bootstrap_servers, "transactional.id": secrets.token_hex(4)})
    foreign.init_transactions(TIMEOUT_S)
    foreign.begin_transaction()
    foreign.produce(copy.marks_topic, b"{}", partition=0)
    assert foreign.flush(TIMEOUT_S) == 0
    with pytest.raises(Retryable, match="has an open transaction"):
        copy.run(8)
    foreign.abort_transaction(TIMEOUT_S)
    copy.run(8)
    assert_exactly_once(copy, 8)


# -- marks ------------------------------------------------------------------------------------------------------------


def test_the_newest_mark_is_found_behind_many_aborted_ones(copy: Copy) -> None:
    """Each aborted transaction takes two offsets, more than the first look covers."""
    copy.run(4, shards=1)
    settings = TransactionSettings(KafkaSettings(copy.bootstrap_servers))
    for _ in range(TAIL_OFFSETS):
        with Transaction(settings, f"{copy.marks_topic}.0", copy.topic) as transaction:
            transaction.begin()
            transaction.produce(copy.marks_topic, OutgoingRecords([b"never"], partitions=[0]))
            delivered(transaction)
    copy.run(8, shards=1)
    assert_exactly_once(copy, 8)


def test_the_marks_topic_is_compacted_and_grows(copy: Copy, admin: AdminClient) -> None:
    copy.run(4, shards=1)
    copy.run(8, shards=3)
    resource = ConfigResource(ResourceType.TOPIC, copy.marks_topic)
    config = admin.describe_configs([resource])[resource].result(TIMEOUT_S)
    assert config["cleanup.policy"].value == "compact"
    assert len(admin.list_topics(copy.marks_topic, timeout=TIMEOUT_S).topics[copy.marks_topic].partitions) == 3


@pytest.mark.parametrize("batches", [1, 3])
def test_a_marks_topic_that_was_deleted_is_noticed(copy: Copy, admin: AdminClient, batches: int) -> None:
    """Also after the first batch, which has no predecessor."""
    copy.run(4 * batches)
    delete_topic(admin, copy.marks_topic)
    with pytest.raises(SinkBehind, match=f"{copy.marks_topic}.* is gone"):
        copy.run(4 * batches + 4)
    assert_exactly_once(copy, 4 * batches)


def test_marks_that_were_deleted_are_noticed(copy: Copy, admin: AdminClient) -> None:
    copy.run(4, shards=1)
    admin.delete_records([TopicPartition(copy.marks_topic, 0, OFFSET_END)])[
        TopicPartition(copy.marks_topic, 0, OFFSET_END)
    ].result(TIMEOUT_S)
    with pytest.raises(SinkBehind, match="were deleted below offset"):
        copy.run(8, shards=1)
    assert_exactly_once(copy, 4)


@pytest.mark.parametrize("policy", ["delete", "compact,delete"])
def test_a_marks_topic_that_forgets_is_refused(copy: Copy, admin: AdminClient, policy: str) -> None:
    copy.run(4)
    alter_config(admin, copy.marks_topic, "cleanup.policy", policy)
    with pytest.raises(OutputNotWritable, match=f"cleanup.policy={policy} .*--add-config cleanup.policy=compact"):
        copy.run(8)
    alter_config(admin, copy.marks_topic, "cleanup.policy", "compact")
    copy.run(8)
    assert_exactly_once(copy, 8)


def test_something_else_among_the_marks_is_refused(copy: Copy) -> None:
    copy.run(4)
    plain = Producer({"bootstrap.servers": copy.bootstrap_servers})
    plain.produce(copy.marks_topic, b"hello", partition=0)
    assert plain.flush(TIMEOUT_S) == 0
    with pytest.raises(CorruptObject, match="is not the mark of this shard"):
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
    with at("begin_transaction", 1, fail), pytest.raises(RuntimeError, match="killed here"):
        copy.run(4)
    copy.run(8, compacted_to=range(4, 8))
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

    def large(record: KafkaRecord) -> list[KafkaRecord]:
        return [record._replace(headers=(("h", secrets.token_bytes(3000)),))]

    with at("begin_transaction", 1, lower), pytest.raises(OutputNotWritable, match="Raise max.message.bytes"):
        copy.run(4, through=large)
    with pytest.raises(OutputNotWritable, match="Raise max.message.bytes"):
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


def test_a_partition_that_the_topic_does_not_have(copy: Copy, topic: Topic) -> None:
    def to_partition_3(record: KafkaRecord) -> list[KafkaRecord]:
        return [record._replace(partition=3)]

    with pytest.raises(ConfigurationError, match="for partition 3 of topic .* has partitions 0 to 2"):
        copy.run(4, through=to_partition_3, partition_by="partition")
    topic.grow(4)
    copy.run(4, through=to_partition_3, partition_by="partition")
    assert {record.partition() for record in records_of(copy.bootstrap_servers, copy.topic)} == {3}


def test_a_broker_that_allows_no_such_timeout_says_so(copy: Copy) -> None:
    with Kafka(properties={"transaction.max.timeout.ms": "30000"}) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        settle(admin.create_topics([NewTopic(copy.topic, 1)]))
        with pytest.raises(ConfigurationError, match="Lower transaction_timeout_s"):
            replace(copy, bootstrap_servers=kafka.bootstrap_servers).run(4)


def test_a_broker_that_does_not_answer_is_retried(copy: Copy) -> None:
    with pytest.raises(SinkUnavailable, match="127.0.0.1:1"):
        replace(copy, bootstrap_servers="127.0.0.1:1").run(4, timeout_s=1.0)


# -- the ready-made pipeline ------------------------------------------------------------------------------------------


def test_kafka_to_kafka(new_topic: NewTopicMade, topic: Topic, tmp_path: Path) -> None:
    """Transactions at both ends: what was aborted in the source is not copied."""
    source = new_topic(3)
    source.send([b"0", b"1"], partition=1, key=b"k", headers=[("h", b"x")], timestamp=1_000_000)
    source.send_aborted([b"9"], partition=2)
    source.send_committed([b"2", b"3"], partition=2)
    flags = {
        "bootstrap_servers": topic.bootstrap_servers,
        "topics": source.name,
        "output_topic": topic.name,
        "checkpoint_location": tmp_path / "checkpoint",
        "partition_by": "partition",
        "shards": 2,
        "max_offsets_per_batch": 2,
    }
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    assert kafka_to_kafka.main(arguments) == 0
    assert kafka_to_kafka.main(arguments) == 0
    records = records_of(topic.bootstrap_servers, topic.name)
    assert [(one.partition(), one.value(), one.key(), one.headers()) for one in records] == [
        (1, b"0", b"k", [("h", b"x")]),
        (1, b"1", b"k", [("h", b"x")]),
        (2, b"2", None, None),
        (2, b"3", None, None),
    ]
    assert [one.timestamp()[1] for one in records[:2]] == [1_000_000, 1_000_000]
    assert kafka_to_kafka.main([*arguments, "--output_topic=missing"]) == 2


# -- helpers ----------------------------------------------------------------------------------------------------------


def settle(futures: Any) -> None:
    for future in futures.values():
        future.result(TIMEOUT_S)


def alter_config(admin: AdminClient, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    settle(admin.incremental_alter_configs([resource]))

    def is_altered() -> bool:
        return str(admin.describe_configs([resource])[resource].result(TIMEOUT_S)[name].value) == value

    wait_until(is_altered)


def delete_topic(admin: AdminClient, topic: str) -> None:
    settle(admin.delete_topics([topic]))
    wait_until(lambda: topic not in admin.list_topics(timeout=TIMEOUT_S).topics)
