"""What sources that read a log have in common: planned reads in a stream, bounded ones in an ordinary pipeline."""

from __future__ import annotations

import abc
import logging
from collections.abc import Iterator
from typing import Any, get_args

import apache_beam as beam

from beam_exactly_once.arguments import one_of, true_or_false
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import Chunk, KafkaSettings, Record, TopicSelection
from beam_exactly_once.logs.opening import LogSettings, open_log
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.planning import BatchLimits
from beam_exactly_once.planning.event_time import EventTime
from beam_exactly_once.planning.ranges import listed
from beam_exactly_once.planning.start import FromGroup, LogsNow, Start, StartValue, start_of
from beam_exactly_once.planning.stop import Stop, StopValue, passed_over, refuse_reversed, stop_of
from beam_exactly_once.planning.time_notes import TimesBy, TimesOf, timestamps_of
from beam_exactly_once.rows.rejected import OnError, checked_on_error
from beam_exactly_once.topics import OnDataLoss
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.decode_records import NAME as DECODE
from beam_exactly_once.transforms.decode_records import Decoder, DecodeRecords
from beam_exactly_once.transforms.named import NamedTransform
from beam_exactly_once.transforms.reading.endless_runners import keeps_one_watermark, refuse_runner
from beam_exactly_once.transforms.reading.find_partitions import FindPartitions
from beam_exactly_once.transforms.reading.follow_ranges import FollowAndCommit, FollowRanges, ReadTimes
from beam_exactly_once.transforms.reading.one_watermark import OneWatermark
from beam_exactly_once.transforms.reading.range_group import PlannedRange, RangeGroup, grouped
from beam_exactly_once.transforms.reading.read_ranges import ReadOffsetRanges, explode
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import SourceSpec, StreamGraph, graph_of

_LOGGER = logging.getLogger(__name__)

MAX_BATCH_BYTES = 128 << 20
"""Default of ``max_batch_bytes``: bounds what a shuffle of the user's must hold, whatever the lag."""


class ReadLog(NamedTransform, abc.ABC):
    """Reads a log. Subclasses say which one, and what of it; the arguments here are theirs, as they document them."""

    kind: str
    """What a source of the kind is called if it has no name."""

    def __init__(
        self,
        *,
        start: StartValue,
        stop: StopValue | None,
        decoder: Decoder | None,
        as_arrow: bool,
        event_time: EventTime | None,
        on_error: OnError,
        on_data_loss: OnDataLoss,
        limits: BatchLimits,
        name: str | None,
        commit_to_group: str | None = None,
    ) -> None:
        super().__init__(name)
        self._start = start_of(start)
        if isinstance(self._start, FromGroup) and not self.has_groups:
            raise ConfigurationError(
                f"start={self._start!r} of {self._said} needs consumer groups, which only Kafka has. Give 'earliest', 'latest', "
                "a datetime or offsets."
            )
        if commit_to_group is not None and (not isinstance(commit_to_group, str) or not commit_to_group):
            raise ConfigurationError(f"commit_to_group={commit_to_group!r} must name a consumer group, or be None.")
        self._commit_to_group = commit_to_group
        self._stop = None if stop is None else stop_of(stop)
        if self._stop is not None:
            refuse_reversed(self._start, self._stop)
        true_or_false("as_arrow", as_arrow)
        self._as_arrow = as_arrow
        one_of("on_data_loss", on_data_loss, get_args(OnDataLoss))
        self._on_data_loss: OnDataLoss = on_data_loss
        self._limits = limits
        if event_time is not None and not isinstance(event_time, EventTime):
            raise ConfigurationError(
                f"event_time={event_time!r} must be an EventTime, such as EventTime(out_of_order_s=30), or None."
            )
        self._event_time = event_time
        self._decode = self._decoding(decoder, on_error, name)
        by = None if event_time is None or decoder is not None else event_time.by
        if isinstance(by, str) and by not in Record._fields:
            raise ConfigurationError(
                f"event_time=EventTime({by!r}, …) names a column of rows, and without decoder= of {self._said} there are only "
                f"records, with {', '.join(Record._fields)}. Give the decoder here, or a function of the record."
            )

    has_groups: bool = False
    """Whether the log knows consumer groups."""

    @abc.abstractmethod
    def log_in(self, graph: StreamGraph | None) -> tuple[LogSettings, TopicSelection | None]:
        """The log to read, and what of it; in a stream's graph, or in an ordinary pipeline. None: as the input says."""

    @property
    def _said(self) -> str:
        """What its user calls it."""
        return type(self).__name__

    def _decoding(self, decoder: Decoder | None, on_error: OnError, source: str | None) -> DecodeRecords | None:
        """The step behind the read; of a source with a name it has one of its own, since there may be several."""
        if decoder is not None:
            return DecodeRecords(decoder, on_error=on_error, name=None if source is None else f"{DECODE}-{source}")
        if checked_on_error(on_error):
            raise ConfigurationError(f"on_error={on_error!r} of {self._said} needs a decoder=.")
        return None

    def expand(self, begin: beam.pvalue.PBegin) -> Any:
        """A planned read in a stream, else a bounded one; then the decoder, if there is one."""
        graph = graph_of(begin.pipeline)
        if self._commit_to_group is not None and (graph is not None or self._stop is not None):
            where = (
                "a read with stop="
                if graph is None
                else "an ExactlyOnceStream, whose checkpoint alone says how far it is"
            )
            raise ConfigurationError(
                f"commit_to_group= of {self._said} is for an unbounded read, and this is {where}. Leave it out."
            )
        if graph is not None:
            return self._expand_in_stream(graph)
        records = (
            self._expand_bounded(begin) if self._stop is not None else self._expand_unbounded(begin | beam.Impulse())
        )
        return records if self._decode is None else records | self._decode

    def _expand_in_stream(self, graph: StreamGraph) -> Any:
        if self._stop is not None:
            raise ConfigurationError(
                "stop= is for an ordinary beam.Pipeline; a stream ends by its trigger or by max_batches=, and "
                "max_batch_offsets limits a batch."
            )
        name = graph.source_name(self._name, self.kind)
        settings, selection = self.log_in(graph)
        assert selection is not None
        groups = graph.tasks | "Ranges" >> beam.ParDo(_PlannedRanges(name, self._event_time)).with_output_types(
            RangeGroup
        )
        read = groups | "Read" >> self._reader(settings, name, event_time=False)
        graph.sources[name] = SourceSpec(
            name,
            settings,
            selection,
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
        assert self._stop is not None
        if self._event_time is not None:
            raise ConfigurationError(
                f"event_time= of {self._said} makes the watermark of an ExactlyOnceStream. In an ordinary beam.Pipeline records "
                "carry that of the log; give them another one by `beam.window.TimestampedValue`, and leave event_time= out."
            )
        settings, selection = self.log_in(None)
        assert selection is not None
        bounded = _FindRanges(settings, selection, self._start, self._stop)
        groups = begin | beam.Impulse() | "FindRanges" >> beam.ParDo(bounded).with_output_types(RangeGroup)
        return (groups | "Read" >> self._reader(settings, self.kind, event_time=True)).records

    def _expand_unbounded(self, places: beam.PCollection[Any]) -> beam.PCollection[Any]:
        """What is in ``places``: topics and partitions, or an impulse where :meth:`log_in` says it.

        Raises:
            ConfigurationError: the runner cannot, or nobody could tell the watermark.
        """
        refuse_runner(places.pipeline, self._said)
        if self._decode is not None and self._event_time is not None and self._event_time.by is not None:
            raise ConfigurationError(
                f"event_time=EventTime(by, …) of {self._said} is of the rows that decoder= makes, and without stop= the reader "
                "tells the watermark before. Leave decoder= out, give a function of the record, and decode with DecodeRecords."
            )
        settings, selection = self.log_in(None)
        together = OneWatermark() if keeps_one_watermark(places.pipeline) else None
        times = ReadTimes(self._event_time, self._times_of(), together)
        finds = FindPartitions(settings, selection, self._start, times, self._on_data_loss)
        if self._commit_to_group is None:
            follows = FollowRanges(settings, self._on_data_loss, times)
        else:
            assert isinstance(settings, KafkaSettings)  # no other source takes a group
            follows = FollowAndCommit(settings, self._on_data_loss, times, self._commit_to_group)
        by = None if self._event_time is None else self._event_time.by
        return (
            places
            | "FindPartitions" >> beam.ParDo(finds).with_output_types(RangeGroup)
            | beam.Reshuffle()
            | "Follow" >> beam.ParDo(follows).with_output_types(Chunk)
            | explode(as_arrow=self._as_arrow, timed=self._event_time is not None, by=by)
        )

    def _reader(self, settings: LogSettings, source: str, *, event_time: bool) -> ReadOffsetRanges:
        return ReadOffsetRanges(
            settings,
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

    def process(self, task: BatchTask) -> Iterator[RangeGroup]:
        assert task.plan is not None  # a task without one runs another graph
        source = task.plan.sources.get(self._source)
        if source is None:
            return
        latest_ms = None if self._event_time is None else self._event_time.latest_ms(task.plan.planned_at_ms)
        ids, level = source.topic_ids, source.isolation_level
        planned = [PlannedRange(one, ids.get(one.topic), level, latest_ms) for one in source.ranges]
        yield from grouped(planned, workers=task.workers)


class _FindRanges(StatelessDoFn):
    """Finds, when the pipeline runs, what a bounded read reads."""

    def __init__(self, settings: LogSettings, selection: TopicSelection, start: Start, stop: Stop) -> None:
        self._settings = settings
        self._selection = selection
        self._start = start
        self._stop = stop

    def process(self, impulse: bytes) -> Iterator[RangeGroup]:
        log = open_log(self._settings)
        try:
            topics = self._selection.describe(log, patient=False)
            partitions = self._selection.partitions_in(topics)
            now = LogsNow.of(log, partitions)
            starts, stops = self._start.first_offsets(now), self._stop.stop_offsets(now)
        finally:
            log.close()
        passed = passed_over(starts, stops, now)
        if passed:
            _LOGGER.warning("the bounded read reads nothing of %s. Is start= or stop= what you mean?", listed(passed))
        planned = [
            PlannedRange(OffsetRange(one.topic, one.partition, starts[one], stops[one]), topics[one.topic].topic_id)
            for one in partitions
            if starts[one] < stops[one]
        ]
        yield from grouped(planned, workers=None)
