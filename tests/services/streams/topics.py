"""A topic on a real broker that knows which of its records are committed."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, Producer, TopicCollection
from confluent_kafka import TopicPartition as ClientTopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

from beam_exactly_once import TopicPartition

TIMEOUT_S = 180.0
MAX_RECORD_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Transaction:
    """One that is open: its records are in the log, and nobody has decided it."""

    producer: Producer
    partition: int
    values: list[bytes]


class Topic:
    """Created when made.

    Args:
        bootstrap_servers: of the broker.
        name: of the topic.
        partitions: how many.
        config: of the topic, dots as underscores.
    """

    def __init__(
        self, bootstrap_servers: str, name: str, partitions: int, config: Mapping[str, object] | None = None
    ) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.name = name
        self.committed: Counter[bytes] = Counter()
        """Values that a reader of committed records must see, whatever their partition."""
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        self._open: list[Transaction] = []
        settings = {key.replace("_", "."): str(value) for key, value in (config or {}).items()}
        self._new_topic = NewTopic(name, partitions, config=settings)
        settle(self._admin.create_topics([self._new_topic]))
        wait_until(self._is_known)  # a broker hears of a new topic a little later than the controller
        self._exists = True
        self._plain = self._producer()

    def _is_known(self) -> bool:
        try:
            self._admin.describe_topics(TopicCollection([self.name]))[self.name].result(TIMEOUT_S)
        except KafkaException:
            return False
        return True

    def __getitem__(self, partition: int) -> TopicPartition:
        return TopicPartition(self.name, partition)

    def send(self, values: Iterable[bytes], partition: int = 0, **more: Any) -> None:
        """Produce without a transaction; the records are in the log when this returns."""
        self.committed.update(self._send(self._plain, values, partition, **more))

    def spread(self, values: Mapping[int, list[bytes]]) -> None:
        """Produce to many partitions at once, without a transaction."""
        self._produce(self._plain, ((partition, value) for partition, sent in values.items() for value in sent))
        self.committed.update(value for sent in values.values() for value in sent)

    def begin(self, values: Iterable[bytes], partition: int = 0) -> Transaction:
        """Produce in a transaction that stays open; the records are in the log when this returns."""
        producer = self._producer(transactional_id=secrets.token_hex(8))
        producer.init_transactions(TIMEOUT_S)
        producer.begin_transaction()
        self._open.append(Transaction(producer, partition, self._send(producer, values, partition)))
        return self._open[-1]

    def commit(self, transaction: Transaction) -> None:
        """Commit: one control record is appended."""
        self._end(transaction, transaction.producer.commit_transaction)
        self.committed.update(transaction.values)

    def abort(self, transaction: Transaction) -> None:
        """Abort: one control record is appended, and nobody who reads committed records sees these."""
        self._end(transaction, transaction.producer.abort_transaction)

    def _end(self, transaction: Transaction, end: Callable[[float], None]) -> None:
        """Also waits for the control record, which the broker writes after it has answered."""
        self._open.remove(transaction)
        before = self._latest(transaction.partition)
        end(TIMEOUT_S)
        wait_until(lambda: self._latest(transaction.partition) > before)

    def _latest(self, partition: int) -> int:
        place, found = ClientTopicPartition(self.name, partition), [-1]

        def is_answered() -> bool:
            # A client that has met an old leader may hold on to it.
            admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
            asked = admin.list_offsets(
                {place: OffsetSpec.latest()}, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=5.0
            )
            with contextlib.suppress(KafkaException):
                found[0] = int(asked[place].result(TIMEOUT_S).offset)
            return found[0] >= 0

        wait_until(is_answered)
        return found[0]

    def send_committed(self, values: Iterable[bytes], partition: int = 0) -> None:
        self.commit(self.begin(values, partition))

    def send_aborted(self, values: Iterable[bytes], partition: int = 0) -> None:
        self.abort(self.begin(values, partition))

    def delete_below(self, offset: int, partition: int = 0) -> None:
        """Delete the records below ``offset``, as retention would."""
        settle(self._admin.delete_records([ClientTopicPartition(self.name, partition, offset)]))

    def grow(self, partitions: int) -> None:
        """Have this many partitions from now on."""
        settle(self._admin.create_partitions([NewPartitions(self.name, partitions)]))
        wait_until(lambda: len(self._admin.list_topics(self.name).topics[self.name].partitions) == partitions)
        self._plain = self._producer()  # the old one knows the old partitions

    def delete(self) -> None:
        """Delete the topic; nothing of it is to be seen by later readers."""
        settle(self._admin.delete_topics([self.name]))
        wait_until(self._is_gone)
        self.committed.clear()
        self._exists = False

    def make_anew(self, partitions: int | None = None) -> None:
        """Delete the topic and create it again, empty."""
        if self._exists:
            self.delete()
        if partitions is not None:
            self._new_topic.num_partitions = partitions
        settle(self._admin.create_topics([self._new_topic]))
        self._exists = True
        self._plain = self._producer()  # the old one knows the old topic

    def wait_retention(self, earliest_min: int, partition: int = 0) -> int:
        """Wait until retention has deleted everything below ``earliest_min``; returns the earliest offset."""
        place = ClientTopicPartition(self.name, partition)
        earliest = 0

        def is_deleted() -> bool:
            nonlocal earliest
            found = self._admin.list_offsets({place: OffsetSpec.earliest()}, request_timeout=TIMEOUT_S)
            earliest = int(found[place].result(TIMEOUT_S).offset)
            return earliest >= earliest_min

        wait_until(is_deleted)
        return earliest

    def wait_compacted(self, max_records: int) -> list[int]:
        """Wait until at most so many records of partition 0 are left; returns their offsets."""
        left: list[int] = []

        def is_compacted() -> bool:
            left[:] = self._offsets_left()
            return len(left) <= max_records

        wait_until(is_compacted)
        return left

    def visible(self) -> Counter[bytes]:
        """Values that a plain reader of committed records sees, in all partitions."""
        partitions = self._admin.list_topics(self.name, timeout=TIMEOUT_S).topics[self.name].partitions
        return Counter(message.value() for message in self._read(partitions))

    def _offsets_left(self) -> list[int]:
        return [message.offset() or 0 for message in self._read([0])]

    def _read(self, partitions: Iterable[int]) -> list[Message]:
        """All committed records that are there."""
        unread = set(partitions)
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": "none",
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        consumer.assign([ClientTopicPartition(self.name, partition, 0) for partition in unread])
        found: list[Message] = []
        try:
            while unread:
                message = consumer.poll(TIMEOUT_S)
                assert message is not None
                if message.error() is None:
                    found.append(message)
                else:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    unread.discard(message.partition())
            return found
        finally:
            consumer.close()

    def _is_gone(self) -> bool:
        return self.name not in self._admin.list_topics(timeout=TIMEOUT_S).topics

    def close(self) -> None:
        """End what is open and delete the topic."""
        for transaction in list(self._open):
            self.abort(transaction)
        if self._exists:
            settle(self._admin.delete_topics([self.name]))

    def _producer(self, transactional_id: str | None = None) -> Producer:
        named = {} if transactional_id is None else {"transactional.id": transactional_id}
        return Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "message.max.bytes": MAX_RECORD_BYTES,
                "linger.ms": 5,
                "enable.idempotence": True,
                "log_level": 0,
                **named,
            }
        )

    def _send(self, producer: Producer, values: Iterable[bytes], partition: int, **more: Any) -> list[bytes]:
        sent = list(values)
        self._produce(producer, ((partition, value) for value in sent), **more)
        return sent

    def _produce(self, producer: Producer, records: Iterable[tuple[int, bytes]], **more: Any) -> None:
        errors: list[object] = []

        def delivered(error: object, _: object) -> None:
            if error is not None:
                errors.append(error)

        for partition, value in records:
            producer.produce(self.name, value, partition=partition, on_delivery=delivered, **more)
        left = producer.flush(TIMEOUT_S)
        assert not errors, errors
        assert left == 0, f"{left} records were not delivered to {self.name} in {TIMEOUT_S} s"


def wait_until(is_so: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Wait for what a broker does in its own time."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, "not settled"
        time.sleep(0.05)


def settle(futures: Mapping[Any, Future[Any]]) -> None:
    """Wait for what an admin client was asked to do."""
    for future in futures.values():
        future.result(TIMEOUT_S)
