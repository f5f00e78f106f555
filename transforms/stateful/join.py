"""``JoinWithinInterval``: rows of two collections that are near each other in event time, over all batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

import apache_beam as beam

from beam_exactly_once.arguments import one_of, seconds
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.rows.event_times import EARLIEST_MS, LATEST_MS, By, checked_by
from beam_exactly_once.state.event_bounds import TimeInputs
from beam_exactly_once.state.joins.bundle import JoinBundle
from beam_exactly_once.state.joins.interval import LEFT, RIGHT, Interval
from beam_exactly_once.state.joins.operator import How, JoinEach
from beam_exactly_once.state.keyed_chunk import KeyedChunk, Sorted
from beam_exactly_once.state.shard_seed import OperatorTask, ShardSeed
from beam_exactly_once.transforms.stateful.by_key import SHARDS, KeyedTransform, refuse_totals
from beam_exactly_once.transforms.stateful.event_time import LATE, OnLate, RowsAndLate, ToShardsInTime, time_inputs
from beam_exactly_once.transforms.stateful.keyed_state import REPORTS, ChangeShards
from beam_exactly_once.transforms.stream_graph import StreamGraph, sink_graph, typed

_SIDES = {LEFT: "Left", RIGHT: "Right"}


class JoinWithinInterval(KeyedTransform):
    """Joins rows of one key that happened near each other: ``(left, right) | JoinWithinInterval(…)``.

    A right row matches a left one that happened at ``t`` if it happened in ``[t - before_s, t + after_s]``.

    Bounded a batch; works only in an ``ExactlyOnceStream``, behind sources with ``event_time=``. Guarantee: exactly once. The
    marker of a batch names its outputs and the rows that are remembered behind it, so all move together or not at all; a replay
    gives the very same pairs. What it gives of rows that are not late does not depend on where batches are cut: each pair once,
    and, unless ``how="inner"``, each row without a match once. Which rows are late does.

    Each side has a watermark of its own. A row is late if it happened before its side's, as the batch before left it, or further
    beyond its batch's planned time than the source's ``future_s``; it matches nothing. A row is remembered until the lower of
    both watermarks says that nothing can match it any more; if nothing did, an outer join gives it then, beside None. With
    ``AvailableNow``, rows to which the watermarks have not come stay remembered, for the next start;
    ``AvailableNow(drain=True)`` lets them go.

    What it gives may have happened up to ``before_s + after_s`` before its own watermark, and a step by event time behind it
    waits that much longer.

    The idea is that of the interval joins of Flink, and of Spark's joins of streams with a condition on time.

    Parallelism: up to ``shards`` workers, any number at any start; all rows of a key are with one. A shard's rows of one batch
    are in memory; of pairs, 65,536 at a time. Of rows of earlier batches it reads those that match, however many a key has.

    Input: two collections of ``(key, value)``; a key is None, a bool, an int, a str, bytes, or a tuple of these, and None is a
    key like any other. A value is None, bool, int, float, str, bytes, Decimal, date, datetime, or a tuple, list, dict, set or
    frozenset of such, exactly: it is remembered without pickle. Output: ``(key, (left, right))`` each, and late rows of both
    sides as they came.

    Args:
        before_s: how long before a left row a right one may have happened.
        after_s: how long after it.
        how: ``"inner"``: pairs alone. ``"left"``, ``"right"``, ``"full"``: also rows of that side, or of both, that nothing
            matched, as ``(key, (left, None))`` and ``(key, (None, right))``; a value that is None itself looks like no match.
        on_late: ``"keep"``: the step returns ``rows, late``. ``"drop"``: it returns rows alone, and only counts late ones.
        event_time_by: when a value happened: a column, or a function of the value, that gives milliseconds since 1970 UTC or a
            datetime with a zone. A pair of these is one for each side.
        name: identifies the state in the checkpoint; may be left out for one such step.
        renamed_from: the name that it had before: the step goes on with what it remembers under that. It may stay.
        shards: the most workers.

    Raises:
        ConfigurationError: an argument is not possible, or it is applied to something else than two collections.
        UnsupportedPipeline: applied outside of a stream, to windowed rows, behind a source without event time, or behind a step
            that gives a key again in each batch, or rows of any time.

    Raises (while running):
        UnfitRow: a row has no time, or a key or a value cannot be stored; nothing of its batch is committed.
        PipelineChanged: the interval or ``how`` is another than the remembered rows were kept for.
        CheckpointHole, CorruptObject: state is gone, or damaged.
    """

    _sent_tags = (REPORTS, LATE)

    def __init__(
        self,
        *,
        before_s: float = 0.0,
        after_s: float = 0.0,
        how: How = "inner",
        on_late: OnLate = "keep",
        event_time_by: By | tuple[By, By],
        name: str | None = None,
        renamed_from: str | None = None,
        shards: int = SHARDS,
    ) -> None:
        super().__init__(name, renamed_from, shards)
        one_of("how", how, get_args(How))
        one_of("on_late", on_late, get_args(OnLate))
        interval = Interval(_milliseconds("before_s", before_s), _milliseconds("after_s", after_s))
        self._each = JoinEach(interval, how, _by_sides(event_time_by))
        self._keeps_late = on_late == "keep"

    def _update(self) -> JoinEach:
        return self._each

    def _changing(self, name: str, update: JoinEach, graph: StreamGraph) -> ChangeShards:
        return _JoinShards(name, update, graph.checkpoint, graph.state_cache)

    def expand(self, sides: Any) -> Any:
        """Rows of both sides to their shards, seeds beside them, one join a shard."""
        left, right = _two_collections(sides)
        graph = sink_graph(left, type(self).__name__)
        sink_graph(right, type(self).__name__)
        update, of_sides = self._each, {LEFT: left, RIGHT: right}
        name = graph.operator_name(self._name, update.kind)
        for rows in of_sides.values():
            refuse_totals(name, rows, graph)
        times = [time_inputs(name, rows, graph) for rows in of_sides.values()]
        sent = [
            self._sent(
                rows, _ToSides(name, update, self._shards, side, keeps_late=self._keeps_late), graph, _SIDES[side]
            )
            for side, rows in of_sides.items()
        ]
        spec, _ = self._changed(name, update, sent, graph)
        late = None
        if self._keeps_late:
            late = tuple(typed(one[LATE], tuple[Any, Any]) for one in sent) | "Late" >> beam.Flatten()
        graph.operators[name] = replace(
            spec, times=_both(times, update.interval), sides=tuple(times), window=update.to_json(), late=late
        )
        return spec.emitted if late is None else RowsAndLate(spec.emitted, late)


class _ToSides(ToShardsInTime):
    """Sends rows of one side on by the hash of their keys."""

    _update: JoinEach

    def __init__(self, operator: str, update: JoinEach, shards: int, side: int, *, keeps_late: bool) -> None:
        super().__init__(operator, update, shards, keeps_late=keeps_late)
        self._side = side

    def _sorted_out(self, rows: Any, of_operator: OperatorTask) -> Sorted:
        keys, values = rows
        return self._update.sorted_out(
            self._side,
            keys,
            values,
            hash_seed=of_operator.hash_seed,
            late_ms=of_operator.late_ms[self._side],
            latest_ms=of_operator.latest_ms,
            operator=self._operator,
        )


class _JoinShards(ChangeShards):
    """Joins the rows of a shard, and lets go what nothing can match any more."""

    def __init__(self, operator: str, update: JoinEach, *where: Any) -> None:
        super().__init__(operator, *where)
        self._join = update

    def _opened(self, seed: ShardSeed) -> JoinBundle:
        return JoinBundle(self._operator, self._join, self._checkpoint.store, self._cache, seed)

    def _emitted(self, bundle: JoinBundle, seed: ShardSeed, chunks: list[KeyedChunk]) -> Iterable[Any]:
        for pairs in bundle.join(seed, chunks):
            yield from pairs


def _both(sides: Sequence[TimeInputs], interval: Interval) -> TimeInputs:
    """What a join closes by, and by how much what it gives may be before that."""
    sources = dict.fromkeys(name for side in sides for name in side.sources)
    operators = dict.fromkeys(name for side in sides for name in side.operators)
    return TimeInputs(tuple(sources), tuple(operators), gives_before_ms=interval.before_ms + interval.after_ms)


def _milliseconds(argument: str, span_s: object) -> int:
    """Whole milliseconds, as times are; no more than there is between any two times.

    Raises:
        ConfigurationError: it is not a duration.
    """
    seconds(argument, span_s, zero=True)
    assert isinstance(span_s, int | float)
    return min(int(round(span_s * 1000, 3)), LATEST_MS - EARLIEST_MS)


def _by_sides(by: object) -> tuple[By, By]:
    """
    Raises:
        ConfigurationError: it does not say when rows of both sides happened.
    """
    both = by if isinstance(by, tuple) else (by, by)
    if len(both) != 2:
        raise ConfigurationError(
            f"event_time_by={by!r} must say when rows of both sides happened: one column or function, or a pair of them."
        )
    left, right = both
    return checked_by("event_time_by", left), checked_by("event_time_by", right)


def _two_collections(sides: object) -> tuple[beam.PCollection[Any], beam.PCollection[Any]]:
    """
    Raises:
        ConfigurationError: it is something else.
    """
    if isinstance(sides, tuple | list) and len(sides) == 2 and all(isinstance(one, beam.PCollection) for one in sides):
        left, right = sides
        return left, right
    raise ConfigurationError(
        "JoinWithinInterval takes two collections: (left, right) | JoinWithinInterval(…). What a step gives with on_late= or "
        "on_error= is unpacked first: rows, late = …."
    )
