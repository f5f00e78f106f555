"""A user's stream in memory: given records, cut into given batches; what each sink published, batch by batch."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import Record, override_logs
from beam_exactly_once.object_store import ObjectStore, open_object_store, override_stores
from beam_exactly_once.pipelines.progress import BatchProgress
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.pipelines.triggers import AvailableNow
from beam_exactly_once.randomness import new_token
from beam_exactly_once.sinks.files.manifest import read_batches
from beam_exactly_once.testing.memory_kafka import MemoryKafka
from beam_exactly_once.testing.published_rows import Row, published_rows


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """What a stream in memory did."""

    published: Mapping[str, list[list[Row]]]
    """Rows that each sink of files published, by its name; one list a batch. The order within a batch is not promised.

    Columns of ``partition_by`` and of CSV are text, or null; a line of a text file is ``{"line": bytes}``.
    """
    progress: tuple[BatchProgress, ...]
    """The progress record of each batch."""

    def rows(self, sink: str) -> list[Row]:
        """Rows of all batches of one sink."""
        return [row for batch in self.published[sink] for row in batch]


def run_in_memory(
    build: Callable[[ExactlyOnceStream], object],
    batches: Mapping[str, Sequence[Iterable[bytes | Record]]],
    *,
    times: Sequence[datetime] | None = None,
    drain: bool = False,
    allow_per_batch: bool = False,
) -> MemoryRun:
    """Run a stream on given records, without Kafka, disk or network.

    Every client and every object store that the stream opens is replaced by one in memory, whatever addresses the
    stream names; a write-ahead log is the topic that is called like the last part of its location. Each batch runs in a stream of
    its own over the same checkpoint, so a restart between any two batches is part of the test. Limits of the source
    (``max_batch_offsets``) may cut a given batch further.

    Args:
        build: applies sources, transforms and sinks to the stream; called once a batch.
        batches: the records of each topic, one iterable a batch; values alone (bytes) go to partition 0.
        times: when each batch is planned, with a time zone, for steps with a timeout or time to live. More than there are batches
            make runs without new records, which read nothing and fire what is due. None: the machine's clock.
        drain: whether time ends behind the last batch, as with ``AvailableNow(drain=True)``, so that all windows close.
        allow_per_batch: as for :class:`~beam_exactly_once.ExactlyOnceStream`.

    Raises:
        ConfigurationError: a time has no zone, or there are fewer than batches.
        what the stream raises.

    >>> import apache_beam as beam
    >>> from beam_exactly_once import ReadFromKafka, WriteToFiles
    >>> def build(stream):
    ...     (
    ...         stream
    ...         | ReadFromKafka("localhost:9092", ["orders"])
    ...         | beam.Map(lambda record: {"length": len(record.value)})
    ...         | WriteToFiles("s3://lake/orders", format="json")
    ...     )
    >>> run_in_memory(build, {"orders": [[b"a", b"bb"], [b"ccc"]]}).published["files"]
    [[{'length': 1}, {'length': 2}], [{'length': 3}]]
    """
    clocks = _clocks(max((len(of_topic) for of_topic in batches.values()), default=0), times)
    run_id = new_token()
    progress: list[BatchProgress] = []
    cluster = MemoryKafka(dict.fromkeys(batches, 1))
    outputs: dict[str, str] = {}

    def open_in_memory(uri: str, options: Mapping[str, Any] | None) -> ObjectStore:
        already = uri.startswith("memory://")
        return open_object_store(uri if already else f"memory://{run_id}/{urllib.parse.quote(uri)}")

    with ExitStack() as replaced:
        replaced.enter_context(override_logs(cluster.log))
        replaced.enter_context(override_stores(open_in_memory))
        for number, clock in enumerate(clocks):
            for topic, of_topic in batches.items():
                _append(cluster, topic, of_topic[number] if number < len(of_topic) else ())
            trigger = AvailableNow(drain=drain and number == len(clocks) - 1)
            with ExactlyOnceStream(
                "checkpoint", trigger=trigger, listeners=[progress.append], allow_per_batch=allow_per_batch
            ) as stream:
                stream._clock = clock
                build(stream)
            outputs = {
                name: sink.definition["location"]
                for name, sink in stream.stream_graph.sinks.items()
                if sink.definition["kind"] == "files"
            }
        published = {
            name: [list(published_rows(output, batch)) for batch in read_batches(output)]
            for name, output in outputs.items()
        }
    return MemoryRun(published, tuple(progress))


@dataclass(frozen=True)
class _StoppedClock:
    """Shows one time of the day, as long as a batch may take."""

    at: datetime
    running: Clock = SYSTEM_CLOCK

    def utc_now(self) -> datetime:
        """That time."""
        return self.at.astimezone(timezone.utc)

    def monotonic_s(self) -> float:
        """As time goes on."""
        return self.running.monotonic_s()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait for real."""
        return self.running.wait(event, timeout_s)


def _clocks(batches: int, times: Sequence[datetime] | None, running: Clock = SYSTEM_CLOCK) -> list[Clock]:
    """
    Raises:
        ConfigurationError: a time has no zone, or there are fewer than batches.
    """
    if times is None:
        return [running] * batches
    if len(times) < batches:
        raise ConfigurationError(f"times= has {len(times)} times for {batches} batches. Give one for each, or more.")
    for at in times:
        if not isinstance(at, datetime) or at.tzinfo is None:
            raise ConfigurationError(
                f"times= has {at!r}; it takes a datetime with a time zone: datetime(2026, 1, 1, tzinfo=timezone.utc)."
            )
    return [_StoppedClock(at, running) for at in times]


def _append(cluster: MemoryKafka, topic: str, given: Iterable[bytes | Record]) -> None:
    records = [one if isinstance(one, Record) else Record(value=one) for one in given]
    cluster.add_partitions(topic, max((record.partition for record in records), default=0) + 1)
    cluster.append(record._replace(topic=topic) for record in records)
