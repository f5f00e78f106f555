"""What writes to the shards of ``WriteToKafka``: a shard's records and its receipt, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import (
    ConfigurationError,
    CorruptObject,
    OutputNotWritable,
    SinkUnavailable,
    UnknownTopic,
)
from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.kafka.kept_clients import borrowed
from beam_exactly_once.kafka.receipts_topic import ReceiptsTopic
from beam_exactly_once.kafka.topic_admin import TopicAdmin, TopicFacts
from beam_exactly_once.kafka.transaction_producer import TransactionSettings
from beam_exactly_once.kafka.transactions import OutgoingRecords, Transaction
from beam_exactly_once.per_process import PerProcess
from beam_exactly_once.sinks.kafka.rows import in_order, outgoing
from beam_exactly_once.sinks.receipts import receipt_of, receipt_text
from beam_exactly_once.sinks.transactional import Delivery, TransactionalSink

_MAX_TOPIC_LENGTH = 249
_RECEIPT_FORMAT = 2


@dataclass(frozen=True)
class KafkaOutput:
    """Where and how a sink writes."""

    topic: str
    settings: TransactionSettings
    by_partition: bool
    order_by: tuple[str, ...]
    shards: int
    receipts_prefix: str
    direct: bool

    @property
    def connection(self) -> KafkaSettings:
        """Of the cluster."""
        return self.settings.connection


def _asked(place: tuple[KafkaSettings, str]) -> TopicFacts:
    connection, topic = place
    with TopicAdmin(connection) as admin:
        return _described(admin, connection, topic)


topic_facts = PerProcess(_asked, max_kept=64)
"""A cluster's topic, asked for once a process. Raises UnknownTopic: Kafka does not have it."""


def _described(admin: TopicAdmin, connection: KafkaSettings, topic: str) -> TopicFacts:
    facts = admin.describe(topic)
    if facts is None:
        raise UnknownTopic(
            f"Kafka at {connection.bootstrap_servers} has no topic {topic}, or does not let us see it. Create it, or "
            "correct topic=."
        )
    return facts


class KafkaShards(TransactionalSink):
    """Produces what a shard has of a batch, and its receipt, in one transaction."""

    kind = "kafka"

    def __init__(self, sink: str, output: KafkaOutput, clock: Clock = SYSTEM_CLOCK) -> None:
        self.location = f"topic {output.topic}"
        self._clock = clock
        self._sink = sink
        self._output = output

    def write(self, delivery: Delivery) -> None:
        """Write a shard of a batch, unless its receipt says that it is there.

        The receipt is read once nobody else's transaction of the shard can commit, and set in the transaction that writes.
        """
        transaction = self._transaction(delivery.stream_id, delivery.shard)
        try:
            self._write(delivery, transaction)
        except SinkUnavailable:
            if not transaction.was_fenced_as_spare:
                raise
            # Whoever took the id may have written: the receipt is read again.
            self._write(delivery, self._transaction(delivery.stream_id, delivery.shard, fresh=True))

    def _write(self, delivery: Delivery, transaction: Transaction) -> None:
        output = self._output
        with transaction:
            if not delivery.is_due(self._receipt_of(delivery)):
                return
            transaction.begin()
            for batch in in_order(delivery.rows(), output.order_by):
                transaction.produce(output.topic, outgoing(batch, by_partition=output.by_partition))
            transaction.produce(self._receipts_topic(delivery.stream_id), self._receipt(delivery))
            transaction.commit()

    def check_place(self) -> None:
        """Prove that the topic can be written."""
        with TopicAdmin(self._output.connection) as admin:
            self._writable_output(admin)

    def prepare(self, stream_id: str) -> None:
        """Create the receipts topic."""
        with TopicAdmin(self._output.connection) as admin:
            like = self._writable_output(admin)
            ReceiptsTopic(self._output.connection, self._receipts_topic(stream_id)).create(
                admin, self._output.shards, like
            )

    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        """Prove that receipts can be written; end what an earlier driver left open in the first shard."""
        with TopicAdmin(self._output.connection) as admin:
            ReceiptsTopic(self._output.connection, self._receipts_topic(stream_id)).check(admin, self._output.shards)
        with self._transaction(stream_id, 0, fresh=True):
            pass

    def _writable_output(self, admin: TopicAdmin) -> TopicFacts:
        output = self._output
        facts = _described(admin, output.connection, output.topic)
        if "WRITE" not in facts.operations:
            raise OutputNotWritable(
                f"Kafka does not let us write to topic {output.topic}. Allow it: kafka-acls.sh --add --allow-principal User:… "
                f"--operation Write --operation Describe --topic {output.topic}"
            )
        return facts

    def _receipts_topic(self, stream_id: str) -> str:
        name = receipts_topic_name(self._output.receipts_prefix, stream_id, self._sink)
        if len(name) > _MAX_TOPIC_LENGTH:
            raise ConfigurationError(
                f"{name} is too long for a topic's name. Give sink {self._sink!r} a shorter name=."
            )
        return name

    def _transaction(self, stream_id: str, shard: int, *, fresh: bool = False) -> Transaction:
        output = self._output
        facts = topic_facts.get((output.connection, output.topic))
        return Transaction(
            output.settings,
            f"{self._receipts_topic(stream_id)}.{shard}",
            output.topic,
            max_batch_bytes=facts.max_record_bytes,
            fresh=fresh,
            clock=self._clock,
        )

    def _receipt(self, delivery: Delivery) -> OutgoingRecords:
        receipt = {
            "format_version": _RECEIPT_FORMAT,
            "stream_id": delivery.stream_id,
            "sink": delivery.sink,
            "shard": delivery.shard,
            "receipt": orjson.loads(delivery.receipt),
        }
        # One key a partition: compaction keeps the newest.
        return OutgoingRecords([orjson.dumps(receipt)], [b"receipt"], partitions=[delivery.shard])

    def _receipt_of(self, delivery: Delivery) -> str | None:
        connection, topic = self._output.connection, self._receipts_topic(delivery.stream_id)
        with borrowed((connection, topic), lambda: ReceiptsTopic(connection, topic), self._clock) as receipts:
            value = receipts.newest(delivery.shard)
        return None if value is None else read_receipt(value, topic, delivery.shard)


def receipts_topic_name(prefix: str, stream_id: str, sink: str) -> str:
    """The topic that has the receipts of a sink; its transactional ids are this name and the shard."""
    return f"{prefix}.{stream_id}.{sink}"


def read_receipt(value: bytes, topic: str, shard: int) -> str:
    """What the newest record of a shard's partition says.

    Raises:
        CorruptObject: it is not the receipt of this shard.
    """
    try:
        found = orjson.loads(value)
        if found["format_version"] == _RECEIPT_FORMAT and found["shard"] == shard:
            return receipt_text(receipt_of(found["receipt"]))
    except (ValueError, KeyError, TypeError):
        pass
    raise CorruptObject(
        f"the newest record of topic {topic}, partition {shard}, is not the receipt of this "
        "shard: nothing but this sink may write there. Nothing was written. Start a new checkpoint_location with "
        "continue_from=CheckpointAt(…) at the last batch that the output holds."
    )
