"""``UpdateStateByKey``, ``StatefulCombinePerKey``, ``DeduplicateByKey``: state that survives a batch, by key."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.arguments import names, seconds, whole_number
from beam_exactly_once.checkpoint.layout import checked_name
from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline
from beam_exactly_once.rows.event_times import By, checked_by
from beam_exactly_once.state.arrow_rows import ArrowRows, EachColumn
from beam_exactly_once.state.columns.folds import FoldName, Folds
from beam_exactly_once.state.types import ArrowState, CoderState, JsonState, StateType
from beam_exactly_once.state.updates import CombineEach, FirstOfEach, Operator, Update, UpdateEach
from beam_exactly_once.transforms.named import NamedTransform
from beam_exactly_once.transforms.reports import Gathered
from beam_exactly_once.transforms.stateful.event_time import time_inputs
from beam_exactly_once.transforms.stateful.keyed_state import (
    REPORTS,
    ChangeShards,
    GatherBatches,
    GatherPairs,
    SeedShards,
    SentToShard,
    ToShards,
    UpdateShards,
)
from beam_exactly_once.transforms.stream_graph import OperatorSpec, StreamGraph, ancestors, sink_graph, typed

SHARDS = 16
"""As many slices as a new operator has."""
MAX_SHARDS = 1024
"""Each is at least one slice for ever, and a marker holds the list of all of them."""


class KeyedTransform(NamedTransform):
    """What the operators have in common. Subclasses say what they do with a key."""

    _tags: tuple[str, ...] = (REPORTS,)
    """Of what the step that changes shards emits besides rows."""
    _sent_tags: tuple[str, ...] = (REPORTS,)
    """Of what the step that sends rows emits besides."""
    _allowed_lateness_ms = 0
    """How long windows stay open behind the watermark."""

    def __init__(self, name: str | None, renamed_from: str | None, shards: int) -> None:
        super().__init__(name)
        self._renamed_from = None if renamed_from is None else checked_name(renamed_from, "renamed_from")
        whole_number("shards", shards, most=MAX_SHARDS)
        self._shards = shards

    def _update(self) -> Operator:
        raise NotImplementedError

    def _sending(self, name: str, update: Any) -> beam.DoFn:
        """The step that sends rows to their shards."""
        return ToShards(name, update, self._shards)

    def _changing(self, name: str, update: Any, graph: StreamGraph) -> ChangeShards:
        """The step that changes shards."""
        return UpdateShards(name, update, graph.checkpoint, graph.state_cache)

    def _registered(
        self, spec: OperatorSpec, sent: Any, changed: Any, graph: StreamGraph, rows: beam.PCollection[Any]
    ) -> Any:
        """Make the operator known to the stream; returns what the transform gives to its user.

        Args:
            spec: what every operator has.
            sent: all outputs of the step that sends rows.
            changed: all outputs of the step that changes shards.
            graph: of the stream.
            rows: that come in.
        """
        if spec.update.by is not None:
            spec = replace(spec, times=time_inputs(spec.name, rows, graph, self._allowed_lateness_ms))
        graph.operators[spec.name] = spec
        return spec.emitted

    def expand(self, pairs: beam.PCollection[tuple[Any, Any]]) -> Any:
        """Rows to their shards, seeds beside them, one update a shard."""
        graph = sink_graph(pairs, type(self).__name__)
        update = self._update()
        name = graph.operator_name(self._name, update.kind)
        if update.adds_up:
            refuse_totals(name, pairs, graph)
        sent = self._sent(pairs, self._sending(name, update), graph)
        spec, changed = self._changed(name, update, [sent], graph)
        return self._registered(spec, sent, changed, graph, pairs)

    def _sent(self, rows: beam.PCollection[Any], sending: beam.DoFn, graph: StreamGraph, label: str = "") -> Any:
        """Rows on their way to shards: all outputs of the step that sends them."""
        tasks = beam.pvalue.AsSingleton(graph.tasks)
        arrow = self._update().arrow
        gather = GatherPairs() if arrow is None else GatherBatches(arrow)
        to_shards = beam.ParDo(sending, tasks).with_outputs(*self._sent_tags, main="rows")
        return rows | f"Gather{label}" >> beam.ParDo(gather) | f"ToShards{label}" >> to_shards

    def _changed(
        self, name: str, update: Operator, sent: Sequence[Any], graph: StreamGraph
    ) -> tuple[OperatorSpec, Any]:
        """Shards changed by what was sent to them: what every operator has, and all outputs of the step that changes them."""
        seeds = graph.tasks | "SeedShards" >> beam.ParDo(SeedShards(name, self._shards))
        updated = (
            (*(typed(one["rows"], tuple[int, SentToShard]) for one in sent), typed(seeds, tuple[int, SentToShard]))
            | beam.Flatten()
            | "ByShard" >> beam.GroupByKey()
            | "Update" >> beam.ParDo(self._changing(name, update, graph)).with_outputs(*self._tags, main="emitted")
        )
        reports = [typed(one[REPORTS], Gathered) for one in (*sent, updated)]
        emitted = typed(updated["emitted"], tuple[Any, Any] if update.arrow is None else pa.RecordBatch)
        return OperatorSpec(name, update, reports, emitted, self._renamed_from), updated


class UpdateStateByKey(KeyedTransform):
    """Keeps a state for each key: ``fn(new values, old state)`` makes the new one.

    Bounded a batch; works only in an ``ExactlyOnceStream``. Guarantee: exactly once. The marker of a batch names its outputs and
    the state behind it, so both move together or not at all; a replay starts from the state before the batch. Which values of a
    key come to one call depends on where batches are cut; the final state does not, if ``fn(a + b, s)`` equals
    ``fn(b, fn(a, s))``.

    Unlike Spark's, it calls ``fn`` for the keys of a batch alone, never with an empty list: a key without new values costs
    nothing, and is forgotten by ``ttl_s``. The idea is that of Spark's ``updateStateByKey``.

    Parallelism: up to ``shards`` workers, any number at any start. A shard's rows of one batch are in memory, or wait in a file
    where they are more than ``StateCache`` allows; those of one key are in memory.

    Input: ``(key, value)``; a key is None, a bool, an int, a str, bytes, or a tuple of these. Output: ``(key, state)`` of each
    key of the batch; the state is None where ``fn`` gave None, and the key is forgotten.

    Args:
        fn: called once for each key of a batch, with the values in any order, and the state or None. It returns the new state,
            None to forget the key. It must not change the state that it is given.
        state: how states are stored: ``JsonState``, ``ArrowState`` or ``CoderState``.
        ttl_s: seconds after its last change, by the batches' planned times, after which a key is forgotten; None: never.
        event_time_by: with ``ttl_s``: when a value happened, as for :class:`AggregateByWindow`. A key is forgotten when the
            watermark is so far ahead of the latest of its values. Every value is taken, however late. None: the clock counts.
        name: identifies the state in the checkpoint; may be left out for one such step.
        renamed_from: the name that it had before: the step goes on with what it remembers under that. It may stay.
        shards: the most workers.

    Raises:
        ConfigurationError: an argument is not possible.
        UnsupportedPipeline: applied outside of a stream, or to windowed rows.

    Raises (while running):
        UnfitRow: a key or a state cannot be stored; nothing of its batch is committed.
        CheckpointHole, CorruptObject: state is gone, or damaged.
        Anything that ``fn`` raises; ``MapGroupsWithState(on_error="reject")`` goes on without the key for which it does.
    """

    def __init__(
        self,
        fn: Callable[[list[Any], Any], Any],
        *,
        state: StateType | None = None,
        ttl_s: float | None = None,
        event_time_by: By | None = None,
        name: str | None = None,
        renamed_from: str | None = None,
        shards: int = SHARDS,
    ) -> None:
        super().__init__(name, renamed_from, shards)
        if not callable(fn):
            raise ConfigurationError(f"fn={fn!r} of UpdateStateByKey must be a function: def fn(values, state): ….")
        self._fn = fn
        self._state = checked_state(JsonState() if state is None else state, type(self).__name__)
        self._ttl_ms = _ttl_ms(ttl_s)
        self._by = _by(event_time_by, ttl_s)

    def _update(self) -> Update:
        return UpdateEach(self._fn, self._state, self._ttl_ms, self._by)


class StatefulCombinePerKey(KeyedTransform):
    """Combines the values of each key over all batches.

    Bounded a batch; works only in an ``ExactlyOnceStream``. Guarantee: exactly once, as of :class:`UpdateStateByKey`. The final
    results do not depend on where batches are cut, if the ``CombineFn`` is exact: not for sums of floats, whose last digits
    depend on the order, nor for samples and lists.

    Parallelism: values are combined where they are made, then by up to ``shards`` workers. ``sum``, ``min``, ``max``, ``len``,
    ``CountCombineFn`` and ``MeanCombineFn`` of ints, or of floats, are computed by columns, without Python a key; of other
    values, and of ints beyond 64 bits, as any ``CombineFn`` is. What is stored is the same.

    Input: ``(key, value)``. Output: ``(key, result)`` of each key of the batch: an upsert keeps the newest. With a mapping, both
    are ``pyarrow.RecordBatch``: the output has the key columns, dictionaries as their values, and each combined column with its
    result, int64 or float64.

    Args:
        fn: a ``CombineFn`` of Beam, or a function such as ``sum`` or ``max``. Its accumulators, once compact, are None, bool,
            int, float, str, bytes, or tuples, lists, dicts and sets of such; others are refused when one comes. Or a mapping:
            for each column, one of the functions above.
        ttl_s: seconds after its last change, by the batches' planned times, after which a key is forgotten; None: never.
        event_time_by: with ``ttl_s``: when a value happened, as for :class:`AggregateByWindow`. A key is forgotten when the
            watermark is so far ahead of the latest of its values. Every value is taken, however late. None: the clock counts.
        key_columns: of a mapping: the columns that make a key; integers, strings, booleans or binary.
        name: identifies the state in the checkpoint; may be left out for one such step.
        renamed_from: the name that it had before: the step goes on with what it remembers under that. It may stay.
        shards: the most workers.

    Raises:
        ConfigurationError: an argument is not possible.
        UnsupportedPipeline: applied outside of a stream, or to windowed rows.

    Raises (while running):
        UnfitRow: a key or an accumulator cannot be stored, a column is missing, has nulls or is not of numbers, or a result has
            more than 64 bits; nothing of its batch is committed.
        CheckpointHole, CorruptObject: state is gone, or damaged.
    """

    def __init__(
        self,
        fn: Any,
        *,
        ttl_s: float | None = None,
        event_time_by: By | None = None,
        key_columns: Sequence[str] = (),
        name: str | None = None,
        renamed_from: str | None = None,
        shards: int = SHARDS,
    ) -> None:
        super().__init__(name, renamed_from, shards)
        combine, by = combined(fn, key_columns, type(self).__name__), _by(event_time_by, ttl_s)
        arrow = None if combine.arrow is None else replace(combine.arrow, by=by)
        self._combine = replace(combine, ttl_ms=_ttl_ms(ttl_s), by=by, arrow=arrow)

    def _update(self) -> Update:
        return self._combine


def checked_state(state: object, step: str) -> StateType:
    """
    Raises:
        ConfigurationError: it does not say how states are stored.
    """
    if not isinstance(state, JsonState | ArrowState | CoderState):
        raise ConfigurationError(f"state={state!r} of {step} must say how states are stored: state=JsonState().")
    return state


def combined(fn: Any, key_columns: Sequence[str], step: str) -> CombineEach:
    """Pairs combined by ``fn``, or batches of Arrow where it is a mapping of columns.

    Raises:
        ConfigurationError: it is not a function that combines, or columns are not possible.
    """
    keys = names("key_columns", key_columns)
    if isinstance(fn, Mapping):
        return _by_columns(fn, keys, step)
    if keys:
        raise ConfigurationError(
            f"key_columns= of {step} is for batches of Arrow: give a mapping of columns, such as "
            f"{step}({{'amount': sum}}, key_columns=['customer'])."
        )
    if not isinstance(fn, beam.CombineFn) and not callable(fn):
        raise ConfigurationError(f"fn={fn!r} of {step} must be a CombineFn or a function such as sum.")
    fold = _fold_of(fn)
    if fold is None:
        return CombineEach(beam.CombineFn.maybe_from_callable(fn), None)
    return CombineEach(_FOLDED[fold](), None, fold, Folds((fold,)))


def _by_columns(fns: Mapping[str, Any], key_columns: tuple[str, ...], step: str) -> CombineEach:
    """
    Raises:
        ConfigurationError: columns or functions are not possible.
    """
    if not fns or not key_columns or set(fns) & set(key_columns):
        raise ConfigurationError(
            f"{step} of the columns {', '.join(map(str, fns)) or 'none'} with key_columns={list(key_columns)}: "
            "name at least one column of each, and none twice."
        )
    folds: list[FoldName] = []
    for column, fn in fns.items():
        fold = _fold_of(fn)
        if fold is None:
            raise ConfigurationError(
                f"{fn!r} of column {column!r} is not a function that {step} knows by columns: sum, min, max, len, "
                "CountCombineFn(), MeanCombineFn(). For others give pairs of key and value."
            )
        folds.append(fold)
    said = ", ".join(f"{fold} of {column}" for fold, column in zip(folds, fns, strict=True))
    of_all = Folds(tuple(folds), is_tuple=True)
    each = EachColumn(tuple(_FOLDED[fold]() for fold in folds))
    arrow = ArrowRows(key_columns, tuple(fns), of_all)
    return CombineEach(each, None, f"{said}; by {', '.join(key_columns)}", of_all, arrow)


def _fold_of(fn: Any) -> FoldName | None:
    if type(fn) in (beam.combiners.CountCombineFn, beam.combiners.MeanCombineFn):
        return "count" if isinstance(fn, beam.combiners.CountCombineFn) else "mean"
    return next((name for name, known in _BUILT_IN.items() if fn is known), None)


_BUILT_IN: dict[FoldName, Any] = {"sum": sum, "min": min, "max": max, "count": len}
_FOLDED: dict[FoldName, Callable[[], beam.CombineFn]] = {
    "sum": lambda: beam.CombineFn.from_callable(sum),
    "min": lambda: beam.CombineFn.from_callable(min),
    "max": lambda: beam.CombineFn.from_callable(max),
    "count": beam.combiners.CountCombineFn,
    "mean": beam.combiners.MeanCombineFn,
}
"""What gives the same, value by value."""


class DeduplicateByKey(KeyedTransform):
    """Lets the first pair of each key pass, over all batches.

    Bounded a batch; works only in an ``ExactlyOnceStream``. Guarantee: exactly once, as of :class:`UpdateStateByKey`. Of several
    pairs of one key in one batch, any may be the first.

    Parallelism: up to ``shards`` workers.

    Input: ``(key, value)``. Output: ``(key, value)`` of each key that is new.

    Args:
        ttl_s: seconds after its first pair, by the batches' planned times, after which a key is new again; None: never. While the
            stream stands still, time goes on: choose it longer than a stop may last, or give ``event_time_by``.
        event_time_by: with ``ttl_s``: when a value happened, as for :class:`AggregateByWindow`. A key is new again when the
            watermark is so far ahead of its first pair. Pairs that happened so long before the watermark are dropped and counted
            as late: nobody knows any more whether their keys were there. So of pairs with one key and one time, as those that a
            sender sends again, one is given, however late the others. A longer ``ttl_s`` at a later start does not hold for keys
            that are stored with a shorter one: a pair that is sent again may pass once more. None: the clock counts.
        name: identifies the state in the checkpoint; may be left out for one such step.
        renamed_from: the name that it had before: the step goes on with what it remembers under that. It may stay.
        shards: the most workers.

    Raises:
        ConfigurationError: an argument is not possible.
        UnsupportedPipeline: applied outside of a stream, or to windowed rows.
    """

    def __init__(
        self,
        *,
        ttl_s: float | None,
        event_time_by: By | None = None,
        name: str | None = None,
        renamed_from: str | None = None,
        shards: int = SHARDS,
    ) -> None:
        super().__init__(name, renamed_from, shards)
        self._ttl_ms = _ttl_ms(ttl_s)
        self._by = _by(event_time_by, ttl_s)

    def _update(self) -> Update:
        return FirstOfEach(self._ttl_ms, self._by)


def refuse_totals(name: str, rows: beam.PCollection[Any], graph: StreamGraph) -> None:
    """
    Raises:
        UnsupportedPipeline: an operator before this one emits a key again in each batch that changes it, so that its value would
            be added again and again.
    """
    before = ancestors(rows)
    for one in graph.operators.values():
        if one.update.adds_up and one.emitted in before:
            raise UnsupportedPipeline(
                f"operator {name!r} is behind operator {one.name!r}, which emits a key again in each batch that changes it: what "
                "it emitted before would be counted again. Do both in one step; or write the first to a sink, and combine there."
            )


def _by(event_time_by: By | None, ttl_s: float | None) -> By | None:
    """
    Raises:
        ConfigurationError: it says no time, or there is nothing that goes by time.
    """
    if event_time_by is None:
        return None
    if ttl_s is None:
        raise ConfigurationError(
            "event_time_by says by what time a key is forgotten, and ttl_s is None: give ttl_s, or leave event_time_by out."
        )
    return checked_by("event_time_by", event_time_by)


def _ttl_ms(ttl_s: float | None) -> int | None:
    seconds("ttl_s", ttl_s, none="never")
    return None if ttl_s is None else math.ceil(ttl_s * 1000)
