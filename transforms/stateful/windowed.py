"""``AggregateByWindow``: values combined by key and window of event time, over all batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import FixedWindows, GlobalWindows, Sessions, SlidingWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.arguments import one_of, seconds
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.rows.event_times import By, checked_by
from beam_exactly_once.state.keyed_chunk import KeyedChunk, Sorted
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.shard_seed import OperatorTask, ShardSeed
from beam_exactly_once.state.windows.bundle import ClosingBundle, WindowBundle
from beam_exactly_once.state.windows.operator import ByEventTime, Emit, WindowEach, WindowResult
from beam_exactly_once.state.windows.session_bundle import SessionBundle
from beam_exactly_once.state.windows.sessions import SessionEach
from beam_exactly_once.state.windows.windows import Windows
from beam_exactly_once.transforms.reports import RowsSent, gathered
from beam_exactly_once.transforms.stateful.by_key import SHARDS, KeyedTransform, combined, refuse_totals
from beam_exactly_once.transforms.stateful.event_time import LATE, OnLate, RowsAndLate, ToShardsInTime
from beam_exactly_once.transforms.stateful.keyed_state import REPORTS, ChangeShards
from beam_exactly_once.transforms.stream_graph import OperatorSpec, StreamGraph, typed


class WindowedTransform(KeyedTransform):
    """What the operators of windows have in common.

    Args:
        each: what the operator does.
        bundle: that does it.
        allowed_lateness_s: seconds that windows stay open behind the watermark.
        on_late: whether late rows are given out.
        name: of the operator.
        renamed_from: the name that it had before.
        shards: the most workers.
    """

    _sent_tags = (REPORTS, LATE)

    def __init__(
        self,
        each: Any,
        bundle: type[ClosingBundle[Any]],
        *,
        allowed_lateness_s: float,
        on_late: OnLate,
        name: str | None,
        renamed_from: str | None,
        shards: int,
    ) -> None:
        super().__init__(name, renamed_from, shards)
        one_of("on_late", on_late, get_args(OnLate))
        seconds("allowed_lateness_s", allowed_lateness_s, zero=True)
        self._each = each
        self._bundle = bundle
        self._tags = (REPORTS, LATE) if bundle.finds_late else (REPORTS,)
        self._allowed_lateness_ms = math.ceil(allowed_lateness_s * 1000)
        self._keeps_late = on_late == "keep"

    def _update(self) -> Any:
        return self._each

    def _sending(self, name: str, update: Any) -> beam.DoFn:
        return _ToWindows(name, update, self._shards, keeps_late=self._keeps_late)

    def _changing(self, name: str, update: Any, graph: StreamGraph) -> ChangeShards:
        where = graph.checkpoint, graph.state_cache
        return _WindowShards(name, update, *where, bundle=self._bundle, keeps_late=self._keeps_late)

    def _registered(
        self, spec: OperatorSpec, sent: Any, changed: Any, graph: StreamGraph, rows: beam.PCollection[Any]
    ) -> Any:
        refuse_totals(spec.name, rows, graph)
        late, is_arrow = None, self._each.arrow is not None
        if self._keeps_late:
            late = typed(sent[LATE], pa.RecordBatch if is_arrow else tuple[Any, Any])
            if self._bundle.finds_late:
                both = late, typed(changed[LATE], tuple[Any, Any])
                late = typed(both | "Late" >> beam.Flatten(), tuple[Any, Any])
        spec = replace(spec, window=self._each.definition, late=late)
        emitted = super()._registered(spec, sent, changed, graph, rows)
        typed(emitted, pa.RecordBatch if is_arrow else WindowResult)
        return emitted if late is None else RowsAndLate(emitted, late)


class AggregateByWindow(WindowedTransform):
    """Combines the values of each key in windows of event time, over all batches.

    Bounded a batch; works only in an ``ExactlyOnceStream``, behind sources with ``event_time=``. Guarantee: exactly once. The
    marker of a batch names its outputs and the windows behind it, so all move together or not at all; a replay closes the very
    same windows. What it gives of rows that are not late does not depend on where batches are cut, with ``emit="final"`` and a
    function that is associative, commutative and exact; which rows are late does.

    A window is closed by the first batch whose watermark, less ``allowed_lateness_s``, has come to its end; what that batch
    brings for it is in it. A row is late if earlier batches have closed all its windows; where some are open, it counts in
    these. A row that happened further beyond its batch's planned time than the source's ``future_s`` is in no window, and is
    given as late. More or less lateness may be allowed at any start; what is closed stays closed. With ``AvailableNow``, windows
    to whose end the watermark has not come stay open, for the next start; ``AvailableNow(drain=True)`` closes them.

    Sessions of a key merge when a row comes between them. A row is late if, with all rows of its batch, it falls into no session
    that is open, and its own would be closed.

    The idea is that of Spark's windowed aggregation with watermarks, with the windows of Beam.

    Parallelism: up to ``shards`` workers, any number at any start; all windows of a key are with one. A shard's rows of one batch
    are in memory; of windows that close, 65,536 at a time.

    Input: ``(key, value)``; a key is None, a bool, an int, a str, bytes, or a tuple of these. Output: a
    :class:`~beam_exactly_once.WindowResult` each, and late rows as they came. With a mapping, both are ``pyarrow.RecordBatch``:
    the output has the key columns, integers and strings with 64 bits, ``window_start_ms``, ``window_end_ms``, and each combined
    column with its result.

    Args:
        fn: a ``CombineFn`` of Beam, or a function such as ``sum`` or ``max``; or a mapping of columns, as for
            ``StatefulCombinePerKey``.
        window: ``FixedWindows``, ``SlidingWindows`` or ``Sessions`` of Beam, in whole milliseconds.
        event_time_by: when a value happened: a column, or a function of the value, that gives milliseconds since 1970 UTC or a
            datetime with a zone. Behind another ``AggregateByWindow``: its ``window_end_ms`` less 1.
        emit: ``"final"``: each window once, when it closes. ``"updates"``: each window that a batch changes, with what it has by
            then; an upsert keeps the newest. ``"all"``: in each batch, every window that there ever was: nothing is late or
            forgotten, and each batch costs as much as all windows do. Sessions have ``"final"`` alone.
        allowed_lateness_s: seconds that windows stay open behind the watermark.
        on_late: ``"keep"``: the step returns ``rows, late``. ``"drop"``: it returns rows alone, and only counts late ones.
        key_columns: of a mapping: the columns that make a key; integers, strings, booleans or binary.
        name: identifies the state in the checkpoint; may be left out for one such step.
        renamed_from: the name that it had before: the step goes on with what it remembers under that. It may stay.
        shards: the most workers.

    Raises:
        ConfigurationError: an argument is not possible.
        UnsupportedPipeline: applied outside of a stream, to windowed rows, behind a source without event time, or behind a
            ``MapGroupsWithState``.

    Raises (while running):
        UnfitRow: a row has no time, or a key or an accumulator cannot be stored; nothing of its batch is committed.
        CheckpointHole, CorruptObject: state is gone, or damaged.
    """

    def __init__(
        self,
        fn: Any,
        window: FixedWindows | SlidingWindows | Sessions,
        *,
        event_time_by: By,
        emit: Emit = "final",
        allowed_lateness_s: float = 0.0,
        on_late: OnLate = "keep",
        key_columns: Sequence[str] = (),
        name: str | None = None,
        renamed_from: str | None = None,
        shards: int = SHARDS,
    ) -> None:
        one_of("emit", emit, get_args(Emit))
        by, combine = checked_by("event_time_by", event_time_by), combined(fn, key_columns, type(self).__name__)
        if combine.arrow is not None:
            combine = replace(combine, arrow=replace(combine.arrow, by=by, keeps_all=on_late == "keep"))
        how: dict[str, Any] = {
            "allowed_lateness_s": allowed_lateness_s,
            "on_late": on_late,
            "name": name,
            "renamed_from": renamed_from,
            "shards": shards,
        }
        if isinstance(window, Sessions):
            if combine.arrow is not None:
                raise ConfigurationError(
                    "window=Sessions(…) of AggregateByWindow takes pairs of key and value, not batches of Arrow: leave "
                    "key_columns= out."
                )
            super().__init__(SessionEach(combine, _gap_ms(window, emit), by), SessionBundle, **how)
        else:
            super().__init__(WindowEach(combine, windows_of(window), by, emit), WindowBundle, **how)
        if emit == "all" and allowed_lateness_s:
            raise ConfigurationError(
                'emit="all" of AggregateByWindow keeps all windows open for ever: leave allowed_lateness_s= out.'
            )


class _ToWindows(ToShardsInTime):
    """Sends rows on by the hash of their keys, one for each window."""

    _update: ByEventTime

    def _sorted_out(self, rows: Any, of_operator: OperatorTask) -> Sorted:
        return self._update.sorted_out(
            rows,
            hash_seed=of_operator.hash_seed,
            closed_ms=of_operator.base.fired_ms,
            latest_ms=of_operator.latest_ms,
            operator=self._operator,
        )


class _WindowShards(ChangeShards):
    """Brings rows into the windows of a shard, and closes those that end; gives what only it knows to be late."""

    def __init__(
        self,
        operator: str,
        update: Any,
        checkpoint: StoreLocation,
        cache: StateCache,
        *,
        bundle: type[ClosingBundle[Any]],
        keeps_late: bool,
    ) -> None:
        super().__init__(operator, checkpoint, cache)
        self._update = update
        self._bundle_type = bundle
        self._keeps_late = keeps_late

    def _opened(self, seed: ShardSeed) -> ClosingBundle[Any]:
        return self._bundle_type(self._operator, self._update, self._checkpoint.store, self._cache, seed)

    def start_bundle(self) -> None:
        super().start_bundle()
        self._rows_late = 0

    def _emitted(self, bundle: ClosingBundle[Any], seed: ShardSeed, chunks: list[KeyedChunk]) -> Iterable[Any]:
        for results in bundle.aggregate(seed, chunks):
            yield from results
        late, bundle.late = bundle.late, []
        self._rows_late += len(late)
        if self._keeps_late:
            for pair in late:
                yield beam.pvalue.TaggedOutput(LATE, pair)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from super().finish_bundle()
        if self._rows_late:
            report = gathered(RowsSent(self._operator, 0, self._rows_late))
            yield beam.pvalue.TaggedOutput(REPORTS, GlobalWindows.windowed_value(report, MIN_TIMESTAMP))


def windows_of(window: object) -> Windows:
    """Beam's windows as numbers.

    Raises:
        ConfigurationError: they are others than fixed and sliding ones, or not in whole milliseconds.
    """
    if isinstance(window, FixedWindows):
        spans = window.size, window.size, window.offset
    elif isinstance(window, SlidingWindows):
        spans = window.size, window.period, window.offset
    else:
        raise ConfigurationError(
            f"window={window!r} of AggregateByWindow must be FixedWindows(60), SlidingWindows(3600, 60) or Sessions(600) of Beam."
        )
    size_ms, period_ms, offset_ms = (_whole_ms(span, window) for span in spans)
    if period_ms > size_ms:
        raise ConfigurationError(
            f"window={window!r} has a period longer than its size: rows between windows would be in none."
        )
    return Windows(size_ms, period_ms, offset_ms)


def _gap_ms(window: Sessions, emit: Emit) -> int:
    """
    Raises:
        ConfigurationError: it is not in whole milliseconds, or sessions are to be given before they are final.
    """
    if emit != "final":
        raise ConfigurationError(
            f"emit={emit!r} of AggregateByWindow with Sessions: what was given of a session that merges into another one would "
            'stay beside it, also in a table that is upserted. Leave emit="final".'
        )
    return _whole_ms(window.gap_size, window)


def _whole_ms(span: Duration, window: object) -> int:
    if span.micros % 1000:
        raise ConfigurationError(f"window={window!r} must be of whole milliseconds.")
    milliseconds: int = span.micros // 1000
    return milliseconds
