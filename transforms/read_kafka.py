"""``ReadFromKafka``: topics in, records out, in a stream or in an ordinary bounded pipeline."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import apache_beam as beam

from beam_exactly_once.arguments import one_of, options_of, true_or_false
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import ConfigValue, KafkaSettings, Record, TopicSelection, open_kafka_log, selection_of
from beam_exactly_once.kafka.settings import IsolationLevel
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.planning import BatchLimits
from beam_exactly_once.planning.event_time import EventTime
from beam_exactly_once.planning.ranges import listed
from beam_exactly_once.planning.start import LogsNow, Start, StartValue, start_of
from beam_exactly_once.planning.stop import Stop, StopValue, passed_over, refuse_reversed, stop_of
from beam_exactly_once.planning.time_notes import TimesBy, TimesOf, timestamps_of
from beam_exactly_once.rows.rejected import OnError, checked_on_error
from beam_exactly_once.topics import OnDataLoss
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.decode_records import NAME as DECODE
from beam_exactly_once.transforms.decode_records import Decoder, DecodeRecords
from beam_exactly_once.transforms.named import NamedTransform
from beam_exactly_once.transforms.reading.planned_range import PlannedRange
from beam_exactly_once.transforms.reading.read_ranges import ReadOffsetRanges
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import KafkaSourceSpec, StreamGraph, graph_of

_LOGGER = logging.getLogger(__name__)

MAX_BATCH_BYTES = 128 << 20
"""Default of ``max_batch_bytes``: bounds what a shuffle of the user's must hold, whatever the lag."""


class ReadFromKafka(NamedTransform):
    """Reads topics directly: explicit offset ranges, no consumer group, no JVM.

    In an ``ExactlyOnceStream`` each batch reads the ranges planned in the checkpoint. The records carry the
    start of 1970 as their timestamp, so that a step may give them any later one; event time is
    ``record.timestamp_ms``. In an ordinary ``beam.Pipeline`` it is a bounded read up to ``stop``, and the records carry
    their Kafka timestamp, or the nearest that Beam has.

    Guarantee: each record of the ranges once for each successful execution; exactly-once end to end together with a
    sink of this library in a stream. Parallelism: see :class:`ReadOffsetRanges`; not bound by the number of
    partitions. The user must provide retention that outlasts any stop of the stream.

    Output: :class:`~beam_exactly_once.Record` each, or with ``as_arrow=True`` a ``pa.RecordBatch`` a
    chunk of at most 1000 records; with ``decoder`` what that makes of them, and with ``on_error="reject"`` two
    collections, ``rows, rejected = …``.

    Args:
        bootstrap_servers: ``host:port``, several with commas.
        topics: names; all partitions of these are read, also those added later (from their earliest offset). Or the partitions
            to read of each: ``{"orders": [0, 1]}``.
        topic_pattern: instead of ``topics``, a regular expression that the whole name of a topic must match. Topics that
            appear while the stream runs are read from their earliest offset. One that disappears is data loss. Internal
            topics (``__…``) match only a pattern that itself begins with ``__``.
        start: where a new stream begins: ``"earliest"``; ``"latest"``; a datetime with a time zone, for the first record at
            or after it; or offsets, ``{"orders": {0: 17}}``, with other partitions from their earliest.
        stop: in an ordinary pipeline, where to end: ``"latest"``, what is there when the pipeline runs; a datetime with a time
            zone, up to the first record at or after it; or offsets, of which the first is not read any more. A stream ends by its
            trigger.
        decoder: the function of a :class:`~beam_exactly_once.DecodeRecords` right behind the read.
        as_arrow: give Arrow batches instead of records, to the decoder too: much the fastest.
        headers: whether records have their headers. False reads on over a header whose name is not UTF-8, for which the read
            fails otherwise.
        event_time: in a stream, when records happened, for operators whose windows and timeouts are in event time. An ordinary
            pipeline takes it from timestamps of elements, and its records carry those of Kafka.
        on_error: what becomes of a record that cannot be decoded: ``"fail"`` or ``"reject"``.
        on_data_loss: ``"fail"``; or ``"skip"``, which puts offsets that Kafka no longer has on record, in the marker and in
            progress, and goes on.
        max_batch_offsets: most offsets in a batch, shared over partitions in proportion to their lag.
        max_batch_bytes: the same in bytes, by the measured average record size; None means no limit.
        min_batch_offsets: wait for that many, at most ``max_batch_delay_s`` seconds.
        max_batch_delay_s: see ``min_batch_offsets``.
        name: identifies the source in the checkpoint, and is its label; may be left out while it is the only one.
        isolation_level: ``"read_committed"`` or ``"read_uncommitted"``.
        client_config: librdkafka properties; secrets as ``secret_from_env(…)``, ``secret_from_file(…)`` or a callable.
        timeout_s: seconds until an unreachable broker or unknown topic is an error.

    Raises:
        ConfigurationError: an argument is wrong; plain-text secrets included.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topics: Sequence[str] | Mapping[str, Sequence[int]] = (),
        *,
        topic_pattern: str | None = None,
        start: StartValue = "earliest",
        stop: StopValue | None = None,
        decoder: Decoder | None = None,
        as_arrow: bool = False,
        headers: bool = True,
        event_time: EventTime | None = None,
        on_error: OnError = "fail",
        on_data_loss: OnDataLoss = "fail",
        max_batch_offsets: int | None = None,
        max_batch_bytes: int | None = MAX_BATCH_BYTES,
        min_batch_offsets: int | None = None,
        max_batch_delay_s: float | None = None,
        name: str | None = None,
        isolation_level: IsolationLevel = "read_committed",
        client_config: Mapping[str, ConfigValue] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(name)
        self._selection = selection_of(topics, topic_pattern)
        self._start = start_of(start)
        self._stop = None if stop is None else stop_of(stop)
        if self._stop is not None:
            refuse_reversed(self._start, self._stop)
        true_or_false("as_arrow", as_arrow)
        self._as_arrow = as_arrow
        one_of("on_data_loss", on_data_loss, get_args(OnDataLoss))
        self._on_data_loss: OnDataLoss = on_data_loss
        self._settings = KafkaSettings(
            bootstrap_servers,
            options_of("client_config", client_config) or {},
            isolation_level=isolation_level,
            timeout_s=timeout_s,
            headers=headers,
        )
        self._limits = BatchLimits(max_batch_offsets, max_batch_bytes, min_batch_offsets, max_batch_delay_s)
        if event_time is not None and not isinstance(event_time, EventTime):
            raise ConfigurationError(
                f"event_time={event_time!r} must be an EventTime, such as EventTime(out_of_order_s=30), or None."
            )
        self._event_time = event_time
        self._decode = _decode(decoder, on_error, name)
        by = None if event_time is None or decoder is not None else event_time.by
        if isinstance(by, str) and by not in Record._fields:
            raise ConfigurationError(
                f"event_time=EventTime({by!r}, …) names a column of rows, and without decoder= of ReadFromKafka there are only "
                f"records, with {', '.join(Record._fields)}. Give the decoder here, or a function of the record."
            )

    def expand(self, begin: beam.pvalue.PBegin) -> Any:
        """A planned read in a stream, else a bounded one; then the decoder, if there is one."""
        graph = graph_of(begin.pipeline)
        if graph is not None:
            return self._expand_in_stream(graph)
        records = self._expand_bounded(begin)
        return records if self._decode is None else records | self._decode

    def _expand_in_stream(self, graph: StreamGraph) -> Any:
        if self._stop is not None:
            raise ConfigurationError(
                "stop= is for an ordinary beam.Pipeline; a stream ends by its trigger or by max_batches=, and "
                "max_batch_offsets limits a batch."
            )
        name = graph.source_name(self._name)
        ranges = graph.tasks | "Ranges" >> beam.ParDo(_PlannedRanges(name, self._event_time)).with_output_types(
            PlannedRange
        )
        read = ranges | "Read" >> self._reader(name, event_time=False)
        graph.sources[name] = KafkaSourceSpec(
            name,
            self._settings,
            self._selection,
            self._start,
            self._limits,
            self._on_data_loss,
            read.pieces,
            event_time=self._event_time,
        )
        return self._decoded(read.records, name, graph)

    def _decoded(self, records: beam.PCollection[Any], name: str, graph: StreamGraph) -> Any:
        if self._decode is None:
            return records
        if self._event_time is not None and self._event_time.by is not None:
            latest_ms = graph.tasks | "LatestTime" >> beam.ParDo(_LatestTime(self._event_time)).with_output_types(int)
            return records | self._decode.noting(name, self._event_time.by, latest_ms)
        return records | self._decode

    def _expand_bounded(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Any]:
        if self._stop is None:
            raise ConfigurationError(
                "stop=None of ReadFromKafka is an unbounded read, which does not exist yet in an ordinary beam.Pipeline. Give "
                'stop="latest" to read what is there, a datetime or offsets; or read in an ExactlyOnceStream.'
            )
        if self._event_time is not None:
            raise ConfigurationError(
                "event_time= of ReadFromKafka makes the watermark of an ExactlyOnceStream. In an ordinary beam.Pipeline records "
                "carry their Kafka timestamp; give them another one by `beam.window.TimestampedValue`, and leave event_time= out."
            )
        bounded = _FindRanges(self._settings, self._selection, self._start, self._stop)
        ranges = begin | beam.Impulse() | "FindRanges" >> beam.ParDo(bounded).with_output_types(PlannedRange)
        return (ranges | "Read" >> self._reader("kafka", event_time=True)).records

    def _reader(self, source: str, *, event_time: bool) -> ReadOffsetRanges:
        return ReadOffsetRanges(
            self._settings,
            as_arrow=self._as_arrow,
            source=source,
            event_time=event_time,
            times_of=self._times_of(),
            on_data_loss=self._on_data_loss,
        )

    def _times_of(self) -> TimesOf | None:
        """How the reader tells when records happened; None where it does not, or the decoder does."""
        if self._event_time is None:
            return None
        by = self._event_time.by
        if by is None:
            return timestamps_of
        return TimesBy(by, as_arrow=self._as_arrow) if self._decode is None else None


class _LatestTime(StatelessDoFn):
    """The latest time of a row that counts in the batch of a task."""

    def __init__(self, event_time: EventTime) -> None:
        self._event_time = event_time

    def process(self, task: BatchTask) -> Iterator[int]:
        assert task.plan is not None  # a task without one runs another graph
        yield self._event_time.latest_ms(task.plan.planned_at_ms)


class _PlannedRanges(StatelessDoFn):
    """The ranges that a task plans for one source."""

    def __init__(self, source: str, event_time: EventTime | None) -> None:
        self._source = source
        self._event_time = event_time

    def process(self, task: BatchTask) -> Iterator[PlannedRange]:
        assert task.plan is not None  # a task without one runs another graph
        source = task.plan.sources.get(self._source)
        if source is None:
            return
        latest_ms = None if self._event_time is None else self._event_time.latest_ms(task.plan.planned_at_ms)
        for planned in source.ranges:
            yield PlannedRange(planned, source.topic_ids.get(planned.topic), source.isolation_level, latest_ms)


class _FindRanges(StatelessDoFn):
    """Finds, when the pipeline runs, what a bounded read reads."""

    def __init__(self, settings: KafkaSettings, selection: TopicSelection, start: Start, stop: Stop) -> None:
        self._settings = settings
        self._selection = selection
        self._start = start
        self._stop = stop

    def process(self, impulse: bytes) -> Iterator[PlannedRange]:
        log = open_kafka_log(self._settings)
        try:
            topics = self._selection.describe(log, patient=False)
            partitions = self._selection.partitions_in(topics)
            now = LogsNow(partitions, log.bounds(partitions), log.offsets_for_time)
            starts, stops = self._start.first_offsets(now), self._stop.stop_offsets(now)
        finally:
            log.close()
        passed = passed_over(starts, stops, now)
        if passed:
            _LOGGER.warning("the bounded read reads nothing of %s. Is start= or stop= what you mean?", listed(passed))
        for partition in partitions:
            if starts[partition] < stops[partition]:
                offsets = OffsetRange(partition.topic, partition.partition, starts[partition], stops[partition])
                yield PlannedRange(offsets, topics[partition.topic].topic_id)


def _decode(decoder: Decoder | None, on_error: OnError, source: str | None) -> DecodeRecords | None:
    """The step behind the read; of a source with a name it has one of its own, since there may be several."""
    if decoder is not None:
        return DecodeRecords(decoder, on_error=on_error, name=None if source is None else f"{DECODE}-{source}")
    if checked_on_error(on_error):
        raise ConfigurationError(f"on_error={on_error!r} of ReadFromKafka needs a decoder=.")
    return None
