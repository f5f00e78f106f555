"""``ReadFromKafka``: topics in, records out, in a stream or in an ordinary bounded pipeline."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import ConfigValue, KafkaSettings, TopicSelection, open_kafka_log
from beam_exactly_once.offsets import OffsetRange, TopicPartition
from beam_exactly_once.planning import BatchLimits, Start, first_offsets
from beam_exactly_once.rows.rejected import OnError
from beam_exactly_once.topics import partitions_of
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.decode_records import DecodeRecords
from beam_exactly_once.transforms.planned_range import PlannedRange
from beam_exactly_once.transforms.read_ranges import Output, ReadOffsetRanges
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import KafkaSourceSpec, StreamGraph, graph_of

BYTES_PER_BATCH_MAX = 128 << 20
"""Default of ``max_bytes_per_batch``: bounds what a shuffle of the user's must hold, whatever the lag."""


class ReadFromKafka(beam.PTransform):
    """Reads topics directly: explicit offset ranges, no consumer group, no JVM.

    In an ``ExactlyOnceStream`` each batch reads the ranges planned in the checkpoint, and the records carry the start
    of 1970 as their timestamp, so that a step may give them any later one; event time is ``record.timestamp_ms``. In an
    ordinary ``beam.Pipeline`` it is a bounded read up to ``stop_offsets``, ``stop_timestamp`` or what is there when the
    pipeline runs, and the records carry their Kafka timestamp.

    Guarantee: each record of the ranges once for each successful execution; exactly-once end to end together with a
    sink of this library in a stream. Parallelism: see :class:`ReadOffsetRanges`; not bound by the number of
    partitions. The user must provide retention that outlasts any stop of the stream.

    Output: :class:`~beam_exactly_once.kafka.KafkaRecord` each, or with ``output="arrow"`` a ``pa.RecordBatch`` a
    chunk of at most 1000 records; with ``decoder`` what that makes of them, and with ``on_decode_error="reject"`` two
    collections, ``rows, rejected = …``.

    Args:
        bootstrap_servers: ``host:port``, several with commas.
        topics: all partitions of these are read, also those added later (from their earliest offset).
        partitions: exactly these instead of ``topics``.
        topic_pattern: instead of ``topics``, a regular expression that the whole name of a topic must match. Topics that
            appear while the stream runs are read from their earliest offset. One that disappears is data loss. Internal
            topics (``__…``) match only a pattern that itself begins with ``__``.
        name: identifies the source in the checkpoint; may be left out while it is the only one.
        start: where a new stream begins: ``"earliest"``, ``"latest"`` or a :class:`~beam_exactly_once.planning.Start`.
        stop_offsets: in an ordinary pipeline, first offset not to read of each partition; others end at their latest.
        stop_timestamp: in an ordinary pipeline, read up to the first record at or after it (milliseconds or datetime).
        output: ``"records"`` or ``"arrow"``.
        decoder: the function of a :class:`~beam_exactly_once.transforms.DecodeRecords` right behind the read.
        on_decode_error: its ``on_error``: ``"fail"`` or ``"reject"``.
        consumer_config: librdkafka properties; secrets as ``secret_from_env(…)``, ``secret_from_file(…)`` or a callable.
        isolation_level: ``"read_committed"`` or ``"read_uncommitted"``.
        max_offsets_per_batch: most offsets in a batch, shared over partitions in proportion to their lag.
        max_bytes_per_batch: the same in bytes, by the measured average record size; None means no bound.
        min_offsets_per_batch: wait for that many, at most ``max_batch_delay_s`` seconds.
        max_batch_delay_s: see ``min_offsets_per_batch``.
        fail_on_data_loss: False records offsets that Kafka no longer has in the marker and in progress, and goes on.
        startup_timeout_s: seconds until an unreachable broker or unknown topic is an error.

    Raises:
        ConfigurationError: an argument is wrong; plain-text secrets included.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topics: Sequence[str] = (),
        *,
        partitions: Sequence[TopicPartition] = (),
        topic_pattern: str | None = None,
        name: str | None = None,
        start: Start | str = "earliest",
        stop_offsets: Mapping[TopicPartition, int] | None = None,
        stop_timestamp: int | datetime.datetime | None = None,
        output: Output = "records",
        decoder: Callable[[Any], Any] | None = None,
        on_decode_error: OnError = "fail",
        consumer_config: Mapping[str, ConfigValue] | None = None,
        isolation_level: str = "read_committed",
        max_offsets_per_batch: int | None = None,
        max_bytes_per_batch: int | None = BYTES_PER_BATCH_MAX,
        min_offsets_per_batch: int | None = None,
        max_batch_delay_s: float | None = None,
        fail_on_data_loss: bool = True,
        startup_timeout_s: float = 30.0,
    ) -> None:
        super().__init__()
        if isinstance(topics, str):
            raise ConfigurationError(f"topics={topics!r} must be a list: topics=[{topics!r}].")
        self._selection = TopicSelection(tuple(dict.fromkeys(topics)), tuple(dict.fromkeys(partitions)), topic_pattern)
        self._name = name
        self._start = _start(start)
        self._stop_offsets = dict(stop_offsets) if stop_offsets is not None else None
        self._stop_timestamp_ms = _milliseconds(stop_timestamp)
        self._output: Output = output
        self._settings = KafkaSettings(
            bootstrap_servers,
            dict(consumer_config or {}),
            isolation_level=isolation_level,  # type: ignore[arg-type] # KafkaSettings checks it
            startup_timeout_s=startup_timeout_s,
        )
        self._limits = BatchLimits(max_offsets_per_batch, max_bytes_per_batch, min_offsets_per_batch, max_batch_delay_s)
        self._fail_on_data_loss = fail_on_data_loss
        self._decode = _decode(decoder, on_decode_error, name)
        self._reader(
            self._name or "kafka", event_time=False
        )  # checks output now, where the user's line is on the stack

    def expand(self, begin: beam.pvalue.PBegin) -> Any:
        """A planned read in a stream, else a bounded one; then the decoder, if there is one."""
        graph = graph_of(begin.pipeline)
        records = self._expand_bounded(begin) if graph is None else self._expand_in_stream(graph)
        return records if self._decode is None else records | self._decode

    def _expand_in_stream(self, graph: StreamGraph) -> beam.PCollection[Any]:
        if self._stop_offsets is not None or self._stop_timestamp_ms is not None:
            raise ConfigurationError(
                "stop_offsets and stop_timestamp are for an ordinary beam.Pipeline; a stream ends by its trigger, and "
                "max_offsets_per_batch bounds a batch."
            )
        name = graph.source_name(self._name)
        ranges = graph.tasks | "Ranges" >> beam.ParDo(_PlannedRanges(name)).with_output_types(PlannedRange)
        read = ranges | "Read" >> self._reader(name, event_time=False)
        graph.sources[name] = KafkaSourceSpec(
            name,
            self._settings,
            self._selection,
            self._start,
            self._limits,
            self._fail_on_data_loss,
            read.pieces,
        )
        return read.records

    def _expand_bounded(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Any]:
        bounded = _FindRanges(self._settings, self._selection, self._start, self._stop_offsets, self._stop_timestamp_ms)
        ranges = begin | beam.Impulse() | "FindRanges" >> beam.ParDo(bounded).with_output_types(PlannedRange)
        return (ranges | "Read" >> self._reader("kafka", event_time=True)).records

    def _reader(self, source: str, *, event_time: bool) -> ReadOffsetRanges:
        return ReadOffsetRanges(
            self._settings,
            output=self._output,
            source=source,
            event_time=event_time,
            fail_on_data_loss=self._fail_on_data_loss,
        )


class _PlannedRanges(StatelessDoFn):
    """The ranges that a task plans for one source."""

    def __init__(self, source: str) -> None:
        self._source = source

    def process(self, task_json: str) -> Iterator[PlannedRange]:
        plan = BatchTask.from_json(task_json).plan
        if plan is None or self._source not in plan.sources:
            return
        source = plan.sources[self._source]
        for planned in source.ranges:
            yield PlannedRange(planned, source.topic_ids.get(planned.topic), source.isolation_level)


class _FindRanges(StatelessDoFn):
    """Finds, when the pipeline runs, what a bounded read reads."""

    def __init__(
        self,
        settings: KafkaSettings,
        selection: TopicSelection,
        start: Start,
        stop_offsets: Mapping[TopicPartition, int] | None,
        stop_timestamp_ms: int | None,
    ) -> None:
        self._settings = settings
        self._selection = selection
        self._start = start
        self._stop_offsets = stop_offsets
        self._stop_timestamp_ms = stop_timestamp_ms

    def process(self, impulse: bytes) -> Iterator[PlannedRange]:
        log = open_kafka_log(self._settings)
        try:
            topics = self._selection.describe(log)
            partitions = list(self._selection.partitions) or partitions_of(topics)
            bounds = log.bounds(partitions)
            starts = first_offsets(self._start, partitions, bounds, log.offsets_for_time, None)
            stops = {partition: bounds[partition].latest for partition in partitions}
            if self._stop_timestamp_ms is not None:
                stops.update(log.offsets_for_time(partitions, self._stop_timestamp_ms))
            stops.update(self._stop_offsets or {})
        finally:
            log.close()
        for partition in partitions:
            if starts[partition] < stops[partition]:
                offsets = OffsetRange(partition.topic, partition.partition, starts[partition], stops[partition])
                yield PlannedRange(offsets, topics[partition.topic].topic_id)


def _decode(decoder: Callable[[Any], Any] | None, on_error: OnError, source: str | None) -> DecodeRecords | None:
    """The step behind the read; of a source with a name it has one of its own, since there may be several."""
    if decoder is not None:
        return DecodeRecords(decoder, on_error=on_error, name=None if source is None else f"decode-{source}")
    if on_error != "fail":
        raise ConfigurationError(f"on_decode_error={on_error!r} of ReadFromKafka needs a decoder=.")
    return None


def _start(start: Start | str) -> Start:
    if isinstance(start, Start):
        return start
    named = {"earliest": Start.earliest, "latest": Start.latest}
    if start not in named:
        raise ConfigurationError(
            f"start={start!r} is not known; use 'earliest', 'latest', or a Start, such as Start.at_timestamp(…)."
        )
    return named[start]()


def _milliseconds(timestamp: int | datetime.datetime | None) -> int | None:
    if isinstance(timestamp, datetime.datetime):
        if timestamp.tzinfo is None:
            raise ConfigurationError("stop_timestamp has no time zone; give one, such as tzinfo=datetime.timezone.utc.")
        return int(timestamp.timestamp() * 1000)
    return timestamp
