"""A stream that is run again and again over one topic of a Kafka in memory, until nothing is left."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import apache_beam as beam

from beam_exactly_once import BatchProgress, ExactlyOnceStream, ReadFromKafka, Record
from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.object_store import ObjectStore, open_object_store
from beam_exactly_once.testing import MemoryKafka


class StreamUnderTest:
    """Topic ``orders``, two offsets a batch unless a run says otherwise; a subclass says what the records become, and reads the
    output.

    Args:
        location: of the checkpoint; a place in memory of its own by default.
    """

    def __init__(self, location: str | None = None) -> None:
        self.location = location or f"memory://{secrets.token_hex(8)}/checkpoint"
        self.cluster = MemoryKafka({"orders": 1})
        self.progress: list[BatchProgress] = []
        """Of all batches of all runs."""

    def produce(self, *numbers: int) -> None:
        self.send(b"%d" % number for number in numbers)

    def send(self, values: Any) -> None:
        """Records of these values."""
        self.cluster.append(Record("orders", value=value) for value in values)

    def run_with(
        self,
        build: Callable[[beam.PCollection[Any]], object],
        *,
        location: str | None = None,
        topics: Any = ("orders",),
        **read: Any,
    ) -> None:
        """One life: ``build`` adds steps and sinks to what is read. ``read`` are further arguments of the source."""
        read = {"max_batch_offsets": 2, **read}
        with self.cluster.serving(), self.new_stream(location or self.location) as stream:
            build(stream | ReadFromKafka("memory:9092", topics, **read))

    def new_stream(self, location: str) -> ExactlyOnceStream:
        """For one life."""
        return ExactlyOnceStream(location, listeners=[self.progress.append])

    def checkpoint(self) -> Checkpoint:
        return opened(self.location)

    def store(self) -> ObjectStore:
        """Where the checkpoint is."""
        return open_object_store(self.location)


def opened(location: str) -> Checkpoint:
    """A checkpoint that is there."""
    checkpoint = Checkpoint.open_existing(open_object_store(location))
    assert checkpoint is not None, f"no checkpoint in {location}"
    return checkpoint


def number_of(record: Any) -> int:
    return int(record.value)
