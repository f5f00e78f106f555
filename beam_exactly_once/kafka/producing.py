"""Producing to a broker of a demo, a benchmark or a test. Streams never produce."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from confluent_kafka import Producer

FLUSH_TIMEOUT_S = 60.0
PROGRESS_RECORDS = 10_000


def produce(bootstrap_servers: str, topic: str, partitions: int, values: Iterable[bytes]) -> Iterator[int]:
    """Produce ``values`` in turn to the partitions; yields how many were sent, now and then and at the end.

    Raises:
        TimeoutError: the broker did not take them all in time.
    """
    producer = Producer({"bootstrap.servers": bootstrap_servers, "compression.type": "lz4", "linger.ms": 20})
    count = 0
    for count, value in enumerate(values, start=1):
        while True:
            try:
                producer.produce(topic, value, partition=count % partitions)
                break
            except BufferError:  # the client's queue is full: let it send
                producer.poll(0.1)
        if count % PROGRESS_RECORDS == 0:
            producer.poll(0)
            yield count
    if producer.flush(FLUSH_TIMEOUT_S):
        raise TimeoutError(f"{len(producer)} records were not delivered to {bootstrap_servers} in {FLUSH_TIMEOUT_S} s")
    yield count
