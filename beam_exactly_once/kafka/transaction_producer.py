"""The producer of a transaction, and how it is configured."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from confluent_kafka import KafkaError, KafkaException, Producer

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka.asking import open_client
from beam_exactly_once.kafka.client_errors import ClientErrors
from beam_exactly_once.kafka.settings import KafkaSettings

Compression: TypeAlias = Literal["none", "gzip", "snappy", "lz4", "zstd"]

MAX_RECORD_BYTES = 100 * 1024 * 1024
"""Largest record that the client takes; a topic's own limit is lower."""
MAX_TRANSACTION_TIMEOUT_S = 15 * 60
"""``transaction.max.timeout.ms`` of a broker, unless it was changed."""

CONSEQUENCES = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._FATAL, KafkaError._STATE})
"""What the client says of other records after one was refused."""

_QUEUE_KIB = 128 * 1024
_AT_ONCE_S = 0.001

OWNED_BY_SINK = {
    "transactional.id": "the sink derives it from stream, name and shard",
    "transaction.timeout.ms": "give it as transaction_timeout_s=",
    "enable.idempotence": "transactions need it",
    "acks": "transactions need acks=all",
    "request.required.acks": "transactions need acks=all",
    "compression.type": "give it as compression=",
    "compression.codec": "give it as compression=",
    "partitioner": "give it as partition_by=",
    "message.max.bytes": "the topic's own limit holds",
    "message.timeout.ms": "a transaction bounds it",
    "delivery.timeout.ms": "a transaction bounds it",
    "delivery.report.only.error": "delivery is checked by the commit",
    "dr_cb": "delivery is checked by the commit",
    "dr_msg_cb": "delivery is checked by the commit",
    "on_delivery": "delivery is checked by the commit",
}


@dataclass(frozen=True)
class TransactionSettings:
    """How a sink writes to a cluster. Safe to print, to pickle and to send to workers: it holds no secret.

    Args:
        connection: the cluster, with properties of the producer.
        transaction_timeout_s: the broker aborts a transaction that is open for longer.
        compression: of the batches of records.

    Raises:
        ConfigurationError: a property is one that the sink must set itself, or a value is not possible.
    """

    connection: KafkaSettings
    transaction_timeout_s: float = 60.0
    compression: Compression = "lz4"

    def __post_init__(self) -> None:
        for key in self.connection.config:
            if key in OWNED_BY_SINK:
                raise ConfigurationError(f"the Kafka property {key} cannot be set for a sink: {OWNED_BY_SINK[key]}")
        if self.compression not in get_args(Compression):
            raise ConfigurationError(
                f"compression={self.compression!r} is not known; use one of {', '.join(get_args(Compression))}."
            )
        if not 1 <= self.transaction_timeout_s <= MAX_TRANSACTION_TIMEOUT_S:
            raise ConfigurationError(
                f"transaction_timeout_s={self.transaction_timeout_s!r} must be from 1 to {MAX_TRANSACTION_TIMEOUT_S} seconds."
            )

    def client_config(self, connection: dict[str, Any], transactional_id: str) -> dict[str, Any]:
        """Properties of the producer, on top of the resolved ones of its ``connection``."""
        return {
            "linger.ms": "20",
            "queue.buffering.max.kbytes": str(_QUEUE_KIB),
            **connection,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": str(int(self.transaction_timeout_s * 1000)),
            "enable.idempotence": "true",
            "compression.type": self.compression,
            # What the Java clients do, so that a key has one partition whoever writes it.
            "partitioner": "murmur2_random",
            "message.max.bytes": str(MAX_RECORD_BYTES),
            "delivery.report.only.error": True,
        }


class TransactionProducer:
    """One producer, for one transaction. What it calls back does not lead to it, so that it ends where it is dropped.

    Args:
        settings: of the cluster and its transactions.
        transactional_id: whose epoch it raises.
        max_batch_bytes: largest batch of records to send.

    Attributes:
        errors: what the client says of its troubles.
        deliveries: what became of records.
        is_spare: it was made for a transaction to come.
        is_prepared: its ``init_transactions`` has returned.

    Raises:
        ConfigurationError: the client refuses its configuration, or a secret of it cannot be had here.
    """

    def __init__(self, settings: TransactionSettings, transactional_id: str, max_batch_bytes: int | None) -> None:
        self.errors = ClientErrors()
        self.deliveries = Deliveries()
        self.is_spare = False
        self.is_prepared = False
        connection = settings.connection.client_config()
        config = settings.client_config(connection, transactional_id)
        if max_batch_bytes is not None:
            config["batch.size"] = str(min(int(config.get("batch.size", 1_000_000)), max_batch_bytes))
        config["on_delivery"] = self.deliveries.remember
        self.producer = open_client(Producer, config, self.errors, settings.connection.secret_texts(connection))

    def become_spare(self) -> None:
        """Let the client initialise its transactions by itself: who calls ``init_transactions`` later learns how that went."""
        self.is_spare = True
        with contextlib.suppress(KafkaException):
            self.producer.init_transactions(_AT_ONCE_S)
            self.is_prepared = True

    def close(self) -> None:
        """Never the client's own close(): it would abort, whatever became of a commit. Dropped, it ends its connections."""
        del self.producer


class Deliveries:
    """Remembers the first delivery that failed, or the first that says why."""

    def __init__(self) -> None:
        self.failed: KafkaError | None = None

    def remember(self, error: KafkaError | None, message: object) -> None:
        """The client's ``on_delivery``."""
        if error is not None and (self.failed is None or self.failed.code() in CONSEQUENCES):
            self.failed = error
