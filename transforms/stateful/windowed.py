"""``AggregateByWindow``: values combined by key and window of event time, over all batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

import apache_beam as beam
from apache_beam.transforms.window import FixedWindows, SlidingWindows

from beam_exactly_once.arguments import one_of, seconds
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.rows.event_times import By, checked_by
from beam_exactly_once.state.keyed_chunk import KeyedChunk, Sorted
from beam_exactly_once.state.shard_seed import OperatorTask, ShardSeed
from beam_exactly_once.state.windows.bundle import WindowBundle
from beam_exactly_once.state.windows.operator import Emit, WindowEach, WindowResult
from beam_exactly_once.state.windows.windows import Windows
from beam_exactly_once.transforms.stateful.by_key import SHARDS, KeyedTransform, combined_by_value
from beam_exactly_once.transforms.stateful.event_time import LATE, OnLate, RowsAndLate, ToShardsInTime
from beam_exactly_once.transforms.stateful.keyed_state import REPORTS, ChangeShards
from beam_exactly_once.transforms.stream_graph import OperatorSpec, StreamGraph, typed


class AggregateByWindow(KeyedTransform):
    """Combines the values of each key in windows of event time, over all batches.

    Bounded a batch; works only in an ``ExactlyOnceStream``, behind sources with ``event_time=``. Guarantee: exactly once. The
    marker of a batch names its outputs and the windows behind it, so all move together or not at all; a replay closes the very
    same windows. What it gives of rows that are not late does not depend on where batches are cut, with ``emit="final"`` and a
    function that is associative, commutative and exact; which rows are late does.

    A window is closed by the first batch whose watermark, less ``allowed_lateness_s``, has come to its end; what that batch
    brings for it is in it. A row is late if earlier batches have closed all its windows; where some are open, it counts in
    these. A row that happened further beyond its batch's planned time than the source's ``future_s`` is in no window, and is
    given as late. More or less lateness may be allowed at any start; what is closed stays closed. With ``AvailableNow``, windows
    to whose end the watermark has not come stay open, for the next start.

    The idea is that of Spark's windowed aggregation with watermarks, with the windows of Beam.

    Parallelism: up to ``shards`` workers, any number at any start; all windows of a key are with one. A shard's rows of one batch
    are in memory; of windows that close, 65,536 at a time.

    Input: ``(key, value)``; a key is None, a bool, an int, a str, bytes, or a tuple of these. Output: a
    :class:`~beam_exactly_once.WindowResult` each, and late rows as they came.

    Args:
        fn: a ``CombineFn`` of Beam, or a function such as ``sum`` or ``max``, as for ``StatefulCombinePerKey``.
        window: ``FixedWindows`` or ``SlidingWindows`` of Beam, in whole milliseconds.
        event_time_by: when a value happened: a column, or a function of the value, that gives milliseconds since 1970 UTC or a
            datetime with a zone. Behind another ``AggregateByWindow``: its ``window_end_ms`` less 1.
        emit: ``"final"``: each window once, when it closes. ``"updates"``: each window that a batch changes, with what it has by
            then; an upsert keeps the newest.
        allowed_lateness_s: seconds that windows stay open behind the watermark.
        on_late: ``"keep"``: the step returns ``rows, late``. ``"drop"``: it returns rows alone, and only counts late ones.
        name: identifies the state in the checkpoint; may be left out for one such step.
        shards: the most workers.

    Raises:
        ConfigurationError: an argument is not possible.
        UnsupportedPipeline: applied outside of a stream, to windowed rows, behind a source without event time, or behind a
            ``MapGroupsWithState``.

    Raises (while running):
        UnfitRow: a row has no time, or a key or an accumulator cannot be stored; nothing of its batch is committed.
        CheckpointHole, CorruptObject: state is gone, or damaged.
    """

    _sent_tags = (REPORTS, LATE)

    def __init__(
        self,
        fn: Any,
        window: FixedWindows | SlidingWindows,
        *,
        event_time_by: By,
        emit: Emit = "final",
        allowed_lateness_s: float = 0.0,
        on_late: OnLate = "keep",
        name: str | None = None,
        shards: int = SHARDS,
    ) -> None:
        super().__init__(name, shards)
        one_of("emit", emit, get_args(Emit))
        one_of("on_late", on_late, get_args(OnLate))
        seconds("allowed_lateness_s", allowed_lateness_s, zero=True)
        self._allowed_lateness_ms = math.ceil(allowed_lateness_s * 1000)
        self._keeps_late = on_late == "keep"
        by = checked_by("event_time_by", event_time_by)
        self._each = WindowEach(combined_by_value(fn, type(self).__name__), windows_of(window), by, emit)

    def _update(self) -> WindowEach:
        return self._each

    def _sending(self, name: str, update: WindowEach) -> beam.DoFn:
        return _ToWindows(name, update, self._shards, keeps_late=self._keeps_late)

    def _changing(self, name: str, update: WindowEach, graph: StreamGraph) -> ChangeShards:
        return _WindowShards(name, update, graph.checkpoint, graph.state_cache)

    def _registered(
        self, spec: OperatorSpec, sent: Any, changed: Any, graph: StreamGraph, rows: beam.PCollection[Any]
    ) -> Any:
        late = typed(sent[LATE], tuple[Any, Any]) if self._keeps_late else None
        spec = replace(spec, window=self._each.windows.to_json(), late=late)
        emitted = typed(super()._registered(spec, sent, changed, graph, rows), WindowResult)
        return emitted if late is None else RowsAndLate(emitted, late)


class _ToWindows(ToShardsInTime):
    """Sends rows on by the hash of their keys, one for each window."""

    _update: WindowEach

    def _sorted_out(self, keys: Sequence[Any], values: Sequence[Any], of_operator: OperatorTask) -> Sorted:
        return self._update.sorted_out(
            keys,
            values,
            hash_seed=of_operator.hash_seed,
            closed_ms=of_operator.base.fired_ms,
            latest_ms=of_operator.latest_ms,
            operator=self._operator,
        )


class _WindowShards(ChangeShards):
    """Brings rows into the windows of a shard, and closes those that end."""

    _update: WindowEach

    def __init__(self, operator: str, update: WindowEach, *where: Any) -> None:
        super().__init__(operator, *where)
        self._update = update

    def _opened(self, seed: ShardSeed) -> WindowBundle:
        return WindowBundle(self._operator, self._update, self._checkpoint.store, self._cache, seed)

    def _emitted(self, bundle: WindowBundle, seed: ShardSeed, chunks: list[KeyedChunk]) -> Iterable[Any]:
        for results in bundle.aggregate(seed, chunks):
            yield from results


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
            f"window={window!r} of AggregateByWindow must be FixedWindows(60) or SlidingWindows(3600, 60) of Beam."
        )
    if any(span.micros % 1000 for span in spans):
        raise ConfigurationError(f"window={window!r} of AggregateByWindow must be of whole milliseconds.")
    size_ms, period_ms, offset_ms = (span.micros // 1000 for span in spans)
    if period_ms > size_ms:
        raise ConfigurationError(
            f"window={window!r} of AggregateByWindow has a period longer than its size: rows between windows would be in none."
        )
    return Windows(size_ms, period_ms, offset_ms)
