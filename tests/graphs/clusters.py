"""Where the records of a graph are: in memory, or, for workers in other processes, at a broker inside this one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from confluent_kafka import Producer

from beam_exactly_once import Record
from beam_exactly_once.kafka import EmbeddedBroker
from beam_exactly_once.testing import MemoryKafka

FLUSH_TIMEOUT_S = 60.0


class Cluster(Protocol):
    """A Kafka that a graph reads from."""

    bootstrap_servers: str

    def send(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        """Append values to a partition."""

    def serving(self) -> contextlib.AbstractContextManager[None]:
        """While open, clients of :attr:`bootstrap_servers` get the records."""


class InMemory:
    """Records of this process."""

    bootstrap_servers = "memory:9092"

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._kafka = MemoryKafka(topics)

    def send(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        self._kafka.append(Record(topic, partition, value=value) for value in values)

    def serving(self) -> contextlib.AbstractContextManager[None]:
        return self._kafka.serving()


class AtBroker:
    """Records that any process can read."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.bootstrap_servers = broker.bootstrap_servers

    def send(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap_servers, "linger.ms": 0})
        for value in values:
            producer.produce(topic, value, partition=partition)
        assert producer.flush(FLUSH_TIMEOUT_S) == 0, "the broker did not take all records"

    def serving(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


@contextlib.contextmanager
def cluster(topics: Mapping[str, int], *, shares_memory: bool) -> Iterator[Cluster]:
    """A Kafka with so many partitions of each topic, where workers can reach it."""
    if shares_memory:
        yield InMemory(topics)
    else:
        with EmbeddedBroker(topics) as broker:
            yield AtBroker(broker)
