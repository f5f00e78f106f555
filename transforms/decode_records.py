"""``DecodeRecords``: records to rows by a function of the user's; those that it cannot take fail the batch, or are rejected."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from beam_exactly_once.errors import ConfigurationError, UnfitRow, UnsupportedPipeline
from beam_exactly_once.kafka import Record
from beam_exactly_once.planning.time_notes import TimedDecoder
from beam_exactly_once.rows.columns import name_of
from beam_exactly_once.rows.event_times import By
from beam_exactly_once.rows.rejected import OnError, Rejected, checked_on_error, is_of_row, isolated, rejected_of
from beam_exactly_once.transforms.in_lists.functions import handed_on
from beam_exactly_once.transforms.in_lists.row_list import RowList, step_state
from beam_exactly_once.transforms.named import NamedTransform
from beam_exactly_once.transforms.rejecting import COUNTS, REJECTED, RejectingStep, RowsAndRejected
from beam_exactly_once.transforms.reports import Gathered, RejectedCount, gathered, times_gathered
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import graph_of, is_whole_batch, typed

NAME = "decode_records"
_ESCAPE = b"\\u"
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape of JSON for half a character; two of them may make a whole one."""
_Made: TypeAlias = tuple[list[Any], list[int]]
"""Rows, and their places."""
_size_of = beam.coders.FastPrimitivesCoder().get_impl().estimate_size

Decoder: TypeAlias = Callable[[Record], Any] | Callable[[pa.RecordBatch], pa.RecordBatch]
"""From a record to a row; or from an Arrow batch of records to one of rows."""


class DecodeRecords(NamedTransform):
    """Applies ``decoder`` to each record, or to each Arrow batch of records.

    Bounded as its input. With ``on_error="reject"`` it returns two collections, and what ``decoder`` raises for is in the
    second::

        rows, rejected = stream | ReadFromKafka(…) | DecodeRecords(decoder, on_error="reject")

    Guarantee: each record is in one of the two. In a stream both are committed in the same batch; the stream refuses to
    run if nothing consumes ``rejected``, since that would drop records in silence. Parallelism: that of the input.

    An Arrow batch for which ``decoder`` raises is decoded again in halves, and these in halves, until the records that it
    cannot take are alone: ``decoder`` may be called several times for a record, and the others stay in batches.

    Args:
        decoder: takes a :class:`~beam_exactly_once.Record` and returns a row; or, behind
            ``ReadFromKafka(as_arrow=True)``, takes a ``pa.RecordBatch`` and returns one.
        on_error: ``"fail"``: an exception of ``decoder`` fails the batch, and nothing of it is committed. ``"reject"``: the
            record is rejected. Other errors of this library than ``UnfitRow``, and running out of memory, always fail. The text
            of an exception may hold the record, so the error does not repeat it, except that of an ``UnfitRow``.
        name: of the step, in rejected records and in progress, and its label; may be left out for one step.

    Raises:
        ConfigurationError: an argument is not possible.
        UnsupportedPipeline: ``on_error="reject"`` behind windows.

    Raises (while running):
        UnfitRow: a record cannot be decoded, and ``on_error`` is ``"fail"``. It names the record.
    """

    def __init__(self, decoder: Decoder, *, on_error: OnError = "fail", name: str | None = None) -> None:
        super().__init__(name)
        if not callable(decoder):
            raise ConfigurationError(f"decoder={decoder!r} must be a function of a record.")
        self._decoder = decoder
        self._rejects = checked_on_error(on_error)
        self._timing: _Timing | None = None

    def noting(self, source: str, by: By, latest_ms: beam.PCollection[int]) -> DecodeRecords:
        """The same step, which notes for the commit when rows happened that it makes of records of a source.

        Args:
            source: its name.
            by: tells when a row happened; where it fails, the record is one that cannot be decoded.
            latest_ms: the latest time that counts, one element a batch.
        """
        self._timing = _Timing(source, by, latest_ms)
        return self

    def expand(self, records: beam.PCollection[Any]) -> Any:
        """Decode, and register what is rejected."""
        is_arrow = records.element_type is pa.RecordBatch
        row_type = pa.RecordBatch if is_arrow else Any
        graph = graph_of(records.pipeline)
        name = self._name or NAME
        if not self._rejects and self._timing is None:
            return records | "Decode" >> beam.ParDo(_Decode(self._decoder, name)).with_output_types(row_type)
        if not is_whole_batch(records):
            raise UnsupportedPipeline(
                f'the input of DecodeRecords(on_error="reject", name={name!r}) is in windows of {records.windowing.windowfn}, '
                "and what is rejected is counted for the batch as a whole: decode the records before `beam.WindowInto(…)`."
            )
        if graph is not None and self._rejects:
            name = graph.rejecting_name(self._name, NAME)
        decoded = records | "Decode" >> self._step(name).with_outputs(REJECTED, COUNTS, main="rows")
        if graph is not None and not self._rejects:
            graph.times_noted.append(typed(decoded[COUNTS], Gathered))
            return typed(decoded.rows, row_type)
        rejected = typed(decoded[REJECTED], Rejected)
        if graph is not None:
            graph.rejecting[name] = RejectingStep(rejected, typed(decoded[COUNTS], Gathered))
        return RowsAndRejected(typed(decoded.rows, row_type), rejected)

    def _step(self, name: str) -> beam.ParDo:
        if self._timing is None:
            return beam.ParDo(_DecodeOrReject(self._decoder, name))
        timed = TimedDecoder(self._decoder, self._timing.by, step=name)
        step = _DecodeOrReject(timed, name) if self._rejects else _Decode(timed, name)
        return beam.ParDo(_Timed(step, timed, self._timing.source), beam.pvalue.AsSingleton(self._timing.latest_ms))


class _Timing(NamedTuple):
    """What :meth:`DecodeRecords.noting` is given."""

    source: str
    by: By
    latest_ms: beam.PCollection[int]


def _decoded(decoder: Decoder, record: Any) -> Any:
    """What ``decoder`` makes of a record.

    A runner asks for the size of some rows, and fails where text in them has half a character, which JSON can say by an escape,
    and Python makes of bytes that are not UTF-8 if it is told so. So a row of which this may be true is asked here, where its
    record is known.
    """
    row = decoder(record)
    if type(record) is not Record or _may_hold_half(record):
        _size_of(row)
    return row


def _may_hold_half(record: Record) -> bool:
    if _may_say_half(record.value) or _may_say_half(record.key):
        return True
    return any(_may_say_half(value) for _, value in record.headers) if record.headers else False


def _may_say_half(text: bytes | None) -> bool:
    if not text or (text.isascii() and _ESCAPE not in text):  # nearly all
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return True
    return _ESCAPE in text and _HALF.search(text) is not None


class _Decode(StatelessDoFn):
    """Names the record that cannot be decoded."""

    def __init__(self, decoder: Decoder, name: str) -> None:
        self._decoder = decoder
        self._name = name

    def in_lists(self) -> beam.DoFn:
        """The same for lists of records."""
        return _DecodeLists(self._decoder, self._name)

    def process(self, record: Any) -> list[Any]:
        try:
            return [_decoded(self._decoder, record)]
        except Exception as error:
            if not is_of_row(error):
                raise
            if type(record) is pa.RecordBatch:
                record, error = _first_unfit(self._decoder, record, error)
            raise UnfitRow(_undecodable(self._name, record, error)) from error


class _DecodeLists(_Decode):
    """Single records as well."""

    def start_bundle(self) -> None:
        self._state = step_state()

    def process_batch(self, records: RowList) -> Iterable[Any]:
        with self._state:
            decoded = [row for record in records.walk() for row in self.process(record)]
        return handed_on(records.made(decoded, records.places))


class _DecodeOrReject(StatelessDoFn):
    """Emits what was decoded, rejected records, and at the end of the bundle their number."""

    def __init__(self, decoder: Decoder, name: str) -> None:
        self._decoder = decoder
        self._name = name
        self._count = 0

    def start_bundle(self) -> None:
        """Forget what a failed bundle counted."""
        self._count = 0

    def in_lists(self) -> beam.DoFn:
        """The same for lists of records."""
        return _DecodeOrRejectLists(self._decoder, self._name)

    def process(self, record: Any) -> Any:
        try:
            return [_decoded(self._decoder, record)]
        except Exception as error:
            if not is_of_row(error):
                raise
            if type(record) is pa.RecordBatch:
                return self._decode_in_parts(record)
            return [self._rejected(record, error)]

    def finish_bundle(self) -> Iterator[Any]:
        if self._count:
            yield _of_bundle(gathered(RejectedCount(self._name, self._count)))

    def _decode_in_parts(self, batch: pa.RecordBatch) -> list[Any]:
        rejected: list[beam.pvalue.TaggedOutput] = []
        decoded = isolated(
            batch.num_rows,
            lambda start, stop: self._decoder(batch.slice(start, stop - start)),
            lambda index, error: rejected.append(self._rejected(batch.slice(index, 1), error)),
            is_of_row,
        )
        return [*decoded, *rejected]

    def _rejected(self, record: Any, error: Exception) -> beam.pvalue.TaggedOutput:
        self._count += 1
        return beam.pvalue.TaggedOutput(REJECTED, rejected_of(record, error, step=self._name))


class _DecodeOrRejectLists(_DecodeOrReject):
    """Single records as well."""

    def start_bundle(self) -> None:
        super().start_bundle()
        self._state = step_state()

    def process_batch(self, records: RowList) -> Iterator[Any]:
        decoded: _Made = ([], [])
        rejected: _Made = ([], [])
        with self._state:
            for record, place in zip(records.walk(), records.places, strict=True):
                for output in self.process(record):
                    is_rejected = isinstance(output, beam.pvalue.TaggedOutput) and output.tag == REJECTED
                    rows, places = rejected if is_rejected else decoded
                    rows.append(output.value if is_rejected else output)
                    places.append(place)
        yield from handed_on(records.made(*decoded))
        if rejected[0]:
            yield beam.pvalue.TaggedOutput(REJECTED, records.made(*rejected))


def _of_bundle(report: Gathered) -> beam.pvalue.TaggedOutput:
    return beam.pvalue.TaggedOutput(COUNTS, GlobalWindows.windowed_value(report, MIN_TIMESTAMP))


class _Timed(StatelessDoFn):
    """A step that decodes, and reports at the end of a bundle when its rows happened."""

    def __init__(self, step: _Decode | _DecodeOrReject, decoder: TimedDecoder, source: str) -> None:
        self._step = step
        self._decoder = decoder
        """That of the step."""
        self._source = source

    def start_bundle(self) -> None:
        """Forget what a failed bundle noted."""
        self._step.start_bundle()
        self._decoder.notes.clear()

    def process(self, record: Any, latest_ms: int) -> Any:
        self._decoder.latest_ms = latest_ms
        return self._step.process(record)

    def finish_bundle(self) -> Iterator[Any]:
        yield from self._step.finish_bundle() or ()
        yield from map(_of_bundle, times_gathered(self._source, self._decoder.notes.taken()))


def _first_unfit(decoder: Decoder, batch: pa.RecordBatch, error: Exception) -> tuple[pa.RecordBatch, Exception]:
    """The first record that ``decoder`` cannot take alone, found by halves, and why; all of them if it takes each half."""
    while batch.num_rows > 1:
        middle = batch.num_rows // 2
        for half in (batch.slice(0, middle), batch.slice(middle)):
            try:
                decoder(half)
            except Exception as of_half:
                if not is_of_row(of_half):
                    raise
                batch, error = half, of_half
                break
        else:
            break
    return batch, error


def _undecodable(name: str, record: Any, error: Exception) -> str:
    return (
        f"step {name!r} cannot decode {_which(record, error)}: {_said(error)}. "
        'Nothing of its batch is committed. Mend the function, or pass on_error="reject" and write what is rejected to a sink '
        "of its own."
    )


def _said(error: Exception) -> str:
    """What ``UnfitRow`` says, and of JSON where; what other functions say may hold a part of the record."""
    if isinstance(error, UnfitRow):
        return str(error)
    where = f": {error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
    return f"{type(error).__name__}{where}"


def _which(record: Any, error: Exception) -> str:
    if isinstance(record, pa.RecordBatch) and record.num_rows != 1:
        return f"an Arrow batch of {record.num_rows} rows"
    row = rejected_of(record, error, step="")
    return (
        f"a row of type {name_of(type(record))}"
        if row.row
        else f"record {row.topic}-{row.partition} at offset {row.offset}"
    )
