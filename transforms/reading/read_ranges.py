"""``ReadOffsetRanges``: the one splittable DoFn that reads logs.

Stages: *read* (splittable: claims and emits whole chunks, reports pieces) and, fused behind it, *explode* (chunks
to records) or *columns* (chunks to Arrow batches). No per-record work happens while claiming.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice, repeat
from operator import mul
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils import windowed_value
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from beam_exactly_once.checkpoint import Piece
from beam_exactly_once.errors import DataLoss, IncompleteBatch, leaving_step
from beam_exactly_once.kafka import Chunk, Record, at_hand
from beam_exactly_once.kafka.kept_logs import leave_log, take_log
from beam_exactly_once.kafka.topic_watch import TopicWatch
from beam_exactly_once.logs import Log, ManyRangesLog
from beam_exactly_once.logs.opening import LogSettings
from beam_exactly_once.offsets import OffsetRange, TopicPartition
from beam_exactly_once.planning.time_notes import TimeNotes, TimesOf
from beam_exactly_once.rows.event_times import By, time_of_row
from beam_exactly_once.topics import OnDataLoss
from beam_exactly_once.transforms.in_lists.row_list import RowList
from beam_exactly_once.transforms.named import Composite
from beam_exactly_once.transforms.reading.partition_time import beam_time
from beam_exactly_once.transforms.reading.range_group import PlannedRange, RangeGroup
from beam_exactly_once.transforms.reading.span_tracker import Span, SpanCoder, SpanTracker, cut_evenly
from beam_exactly_once.transforms.reports import Gathered, gathered, times_gathered
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import typed

PIECES = "pieces"
MAX_CHUNK_RECORDS = 1000
"""Records claimed at once. 100 to 1000 is where librdkafka's batch consume is fastest; also bounds memory."""
MAX_INITIAL_SPLIT_OFFSETS = 250_000
"""A longer range is cut at the start, so that one big partition keeps several workers busy."""


MAX_LIST_BYTES = 4 << 20
"""Bytes of records that are given out in one list, about."""

_FIRST_MS = -(-MIN_TIMESTAMP.micros // 1000)
_LAST_MS = GlobalWindow().max_timestamp().micros // 1000


class ReadResult(NamedTuple):
    """What :class:`ReadOffsetRanges` returns."""

    records: beam.PCollection[Any]
    """:class:`Record` each, or ``pa.RecordBatch`` of :data:`~beam_exactly_once.RECORD_SCHEMA` each."""
    pieces: beam.PCollection[Gathered]
    """One :class:`~beam_exactly_once.checkpoint.Piece` for each range that a reader finished, ready for a commit; and what it
    noted of the times of its records."""


class ReadOffsetRanges(Composite):
    """Reads exactly the given offset ranges of a log, Kafka's or a write-ahead one.

    Bounded. Input: a PCollection of :class:`RangeGroup`; output: a :class:`ReadResult`. Every record in the ranges
    comes exactly once for each successful execution; the pieces tell what was covered, and tile the ranges. A range
    that names a topic id gives records of that topic alone, never of one that was recreated under its name. Order is
    kept inside one piece up to the next shuffle.

    Parallelism: groups are cut into parts of at most 250,000 offsets, and runners may split further at any
    offset; no consumer group, so any number of workers may read one partition. A reader holds at most 16 MiB that
    were fetched ahead, as much again of ranges that share a group, and one chunk of 1000 records.

    Args:
        settings: where the log is; secrets are resolved on the worker.
        as_arrow: give Arrow batches instead of records.
        source: the name that the pieces carry.
        event_time: give each record its timestamp in the log, or the nearest that Beam has; else it keeps that of its range.
        times_of: notes when records happened, for ranges that say which times count; None notes nothing.
        on_data_loss: ``"skip"`` reports offsets that the log no longer has as ``lost`` in the piece, and goes on.

    Raises (while running):
        DataLoss: the log no longer has an offset of a range, or its topic.
        IncompleteBatch: a topic was recreated while it was read, and may be passed over: the next execution does.
        ReadStalled, KafkaUnavailable, StoreUnavailable: no progress within the bounds of ``settings``.
    """

    def __init__(
        self,
        settings: LogSettings,
        *,
        as_arrow: bool = False,
        source: str = "kafka",
        event_time: bool = False,
        times_of: TimesOf | None = None,
        on_data_loss: OnDataLoss = "fail",
    ) -> None:
        super().__init__()
        self._read = ReadRange(settings, source, on_data_loss, times_of)
        self._as_arrow = as_arrow
        self._event_time = event_time

    def expand(self, groups: beam.PCollection[RangeGroup]) -> ReadResult:
        """Wire read and explode."""
        read = groups | "Read" >> beam.ParDo(self._read).with_outputs(PIECES, main="chunks")
        chunks, pieces = typed(read.chunks, Chunk), typed(read[PIECES], Gathered)
        return ReadResult(chunks | explode(as_arrow=self._as_arrow, timed=self._event_time), pieces)


def explode(*, as_arrow: bool, timed: bool, by: By | None = None) -> beam.PTransform:
    """From chunks to records, or Arrow batches.

    Args:
        as_arrow: which of the two. Batches keep the time of their chunk.
        timed: whether records get their timestamp in the log; else they keep that of their chunk.
        by: the time that they get instead.
    """
    if as_arrow:
        return "Columns" >> beam.ParDo(_ToArrow()).with_output_types(pa.RecordBatch)
    if not timed:
        return "Explode" >> beam.ParDo(_ToRecords()).with_output_types(Record)
    records = _ToTimedRecords() if by is None else _ToRecordsInTime(by)
    return "Explode" >> beam.ParDo(records).with_output_types(Record)


class _SpanProvider(RestrictionProvider):
    """The element is a group of ranges; parts of its line are the restrictions."""

    def create_tracker(self, restriction: Span) -> SpanTracker:
        return SpanTracker(restriction)

    def initial_restriction(self, element: RangeGroup) -> Span:
        return element.line

    def split(self, element: RangeGroup, restriction: Span) -> list[Span]:
        return cut_evenly(restriction, MAX_INITIAL_SPLIT_OFFSETS)

    def restriction_size(self, element: RangeGroup, restriction: Span) -> int:
        return restriction.size

    def restriction_coder(self) -> SpanCoder:
        return SpanCoder()


class ReadRange(StatelessDoFn):
    """Claims and emits chunks; reports what it finished."""

    def __init__(
        self, settings: LogSettings, source: str, on_data_loss: OnDataLoss, times_of: TimesOf | None = None
    ) -> None:
        self._settings = settings
        self._source = source
        self._on_data_loss = on_data_loss
        self._times_of = times_of
        self._watch = TopicWatch(on_data_loss)
        self._logs: dict[str | None, Log] = {}

    def start_bundle(self) -> None:
        """Forget what was asked for another bundle."""
        self._watch.begin()

    def finish_bundle(self) -> None:
        """Everything that was emitted was of the planned topics, or the bundle fails.

        Nothing that was fetched outlives its bundle: it may be of a log that is no longer there.
        """
        if self._logs:
            self._watch.end(next(iter(self._logs.values())))
        while self._logs:
            level, log = self._logs.popitem()
            leave_log(self._settings.at_isolation_level(level), log)

    def teardown(self) -> None:
        """Close the clients."""
        while self._logs:
            self._logs.popitem()[1].close()

    def process(
        self,
        group: RangeGroup,
        tracker: SpanTracker = beam.DoFn.RestrictionParam(_SpanProvider()),  # noqa: B008 (Beam's way)
    ) -> Iterator[Any]:
        """Read until the restriction's end, which may come nearer while reading."""
        with leaving_step():
            yield from self._read_group(group, tracker)

    def _read_group(self, group: RangeGroup, tracker: SpanTracker) -> Iterator[Any]:
        position = tracker.current_restriction().start
        self._expect(group, tracker.current_restriction())
        for begin, planned in group.placed():
            if begin <= position < begin + planned.offsets.size and position < tracker.current_restriction().stop:
                position = yield from self._read(planned, tracker, position, planned.offsets.start - begin)
        # From the reader's own position, not from the tracker: a reader that drops a chunk must not look complete.
        if position != tracker.current_restriction().stop:
            others = " and others" if len(group.ranges) > 1 else ""
            raise IncompleteBatch(
                f"a reader of {group.ranges[0].offsets}{others} stopped at {position} of {tracker.current_restriction()}. "
                "Nothing was committed, and nothing is lost: start again to replay the batch."
            )

    def _read(
        self, planned: PlannedRange, tracker: SpanTracker, position: int, offset: int
    ) -> Generator[Any, None, int]:
        """Read one range, and report what of it was read.

        Args:
            planned: the range.
            tracker: of the line that it lies in.
            position: where to begin, in the line.
            offset: adds to a position of the range; gives the offset in its partition.

        Returns:
            The position behind what was read.
        """
        offsets = planned.offsets
        start = at = position + offset
        records = bytes_read = 0
        lost: list[OffsetRange] = []
        times = TimeNotes()
        claimed = True
        while claimed and at < (stop := min(offsets.stop, tracker.current_restriction().stop + offset)):
            chunk, chunk_lost = self._next(planned, at, stop)
            claimed = tracker.try_claim(chunk.stop - 1 - offset)
            if not claimed:  # a split took the tail while this chunk was fetched; no other split can follow
                stop = tracker.current_restriction().stop + offset
                chunk, chunk_lost = chunk.cut(stop), [cut_lost(gone, stop) for gone in chunk_lost]
            at = chunk.stop
            lost += [gone for gone in chunk_lost if not gone.is_empty]
            if len(chunk):
                records += len(chunk)
                bytes_read += chunk.bytes
                if self._times_of is not None and planned.latest_ms is not None:
                    times.note_all((chunk.topic, chunk.partition), self._times_of(chunk), planned.latest_ms)
                yield chunk
        if at > start:
            read = OffsetRange(offsets.topic, offsets.partition, start, at)
            piece = Piece(self._source, read, records, bytes_read, tuple(lost))
            for report in (gathered(piece), *times_gathered(self._source, times.taken())):
                yield beam.pvalue.TaggedOutput(PIECES, report)
        return at - offset

    def _expect(self, group: RangeGroup, span: Span) -> None:
        """Tell the log of small ranges. A large one has a client for itself, which fetches ahead for it alone."""
        first = group.ranges[0]
        log = self._log(first.isolation_level)
        topic_ids = {one.offsets.topic: one.topic_id for one in group.ranges}
        if isinstance(log, ManyRangesLog) and group.is_small:
            log.expect(group.within(span), topic_ids)
        self._watch.look(log, topic_ids)

    def _log(self, isolation_level: str | None) -> Log:
        """The client of a level: taken here, since it survives neither pickling nor fork."""
        level = isolation_level or self._settings.isolation_level
        if level not in self._logs:
            self._logs[level] = take_log(self._settings.at_isolation_level(level))
        return self._logs[level]

    def _next(self, planned: PlannedRange, position: int, stop: int) -> tuple[Chunk, list[OffsetRange]]:
        """The next chunk at ``position``, or an empty one over offsets that are lost."""
        topic_partition = planned.offsets.topic_partition
        log = self._log(planned.isolation_level)
        if self._watch.is_replaced(topic_partition.topic):
            return _nothing(topic_partition, position, stop)
        try:
            return log.next_chunk(topic_partition, position, stop, MAX_CHUNK_RECORDS), []
        except DataLoss:
            if self._on_data_loss == "fail":
                raise
            earliest = log.bounds([topic_partition])[topic_partition].earliest
            if earliest <= position:  # the log became shorter instead: nothing here to go on from
                raise
            return _nothing(topic_partition, position, min(earliest, stop))


def _nothing(where: TopicPartition, start: int, stop: int) -> tuple[Chunk, list[OffsetRange]]:
    """An empty chunk over offsets that are lost."""
    chunk = Chunk.empty(where.topic, where.partition, start, stop)
    return chunk, [OffsetRange(where.topic, where.partition, start, stop)]


def cut_lost(lost: OffsetRange, stop: int) -> OffsetRange:
    """What of lost offsets lies below ``stop``."""
    return OffsetRange(lost.topic, lost.partition, lost.start, min(lost.stop, stop))


class _GivingOut(StatelessDoFn):
    """Whoever wants to know where a step behind it failed can ask :mod:`~beam_exactly_once.kafka.at_hand`."""

    def finish_bundle(self) -> None:
        at_hand.all_given_out(self)


class _ToRecords(_GivingOut):
    def in_lists(self) -> _ToRecordLists:
        return _ToRecordLists()

    def process(self, chunk: Chunk) -> Iterator[Record]:
        return chunk.records(at_hand.record_by_record(self, chunk))


class _ToRecordLists(_GivingOut):
    @beam.DoFn.yields_batches  # type: ignore[untyped-decorator]
    def process(self, chunk: Chunk) -> Iterator[RowList]:
        """A list holds few records where they are large: what is made of all of them is in memory together."""
        noting = at_hand.in_lists(self, chunk)
        records = chunk.records()
        at_once = max(1, len(chunk) * MAX_LIST_BYTES // max(MAX_LIST_BYTES, chunk.bytes))
        for start in range(0, len(chunk), at_once):
            of_list = list(islice(records, at_once))
            yield RowList(of_list, range(start, start + len(of_list)), noting)


class _ToTimedRecords(_GivingOut):
    """Event time from the log, or the nearest that Beam has. ``windowed_value.create`` costs a sixth of ``TimestampedValue``."""

    def process(self, chunk: Chunk, window: Any = beam.DoFn.WindowParam) -> Iterator[Any]:
        timestamps_ms = chunk.columns.timestamps_ms
        if timestamps_ms and not _FIRST_MS <= min(timestamps_ms) <= max(timestamps_ms) <= _LAST_MS:
            timestamps_ms = [min(max(one, _FIRST_MS), _LAST_MS) for one in timestamps_ms]
        timestamps_us = map(mul, timestamps_ms, repeat(1000))
        records = chunk.records(at_hand.record_by_record(self, chunk))
        return map(windowed_value.create, records, timestamps_us, repeat((window,)))


class _ToRecordsInTime(_GivingOut):
    """Event time by what the user says of a record."""

    def __init__(self, by: By) -> None:
        self._by = by

    def process(self, chunk: Chunk) -> Iterator[Any]:
        for record in chunk.records(at_hand.record_by_record(self, chunk)):
            yield TimestampedValue(record, beam_time(time_of_row(self._by, record, step="event_time")))


class _ToArrow(_GivingOut):
    def process(self, chunk: Chunk) -> list[pa.RecordBatch]:
        at_hand.as_a_whole(self, chunk)
        return [chunk.to_arrow()]
