"""``MapGroupsWithState``: a function of the values, the state and the timeout of a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.rows.event_times import By, checked_by
from beam_exactly_once.rows.rejected import OnError, Rejected, checked_on_error, isolated
from beam_exactly_once.state.groups.bundle import GroupBundle
from beam_exactly_once.state.groups.calls import Call, CallEach, rejected_rows
from beam_exactly_once.state.groups.group_state import GroupState
from beam_exactly_once.state.keyed_chunk import KeyedChunk
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.shard_seed import ShardSeed
from beam_exactly_once.state.types import StateType
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.rejecting import COUNTS, REJECTED, RejectingStep, RowsAndRejected
from beam_exactly_once.transforms.reports import Gathered, RejectedCount, gathered
from beam_exactly_once.transforms.stateful.by_key import SHARDS, KeyedTransform, checked_state
from beam_exactly_once.transforms.stateful.keyed_state import REPORTS, ChangeShards, ToShards
from beam_exactly_once.transforms.stream_graph import OperatorSpec, StreamGraph, typed

K = TypeVar("K")
V = TypeVar("V")
S = TypeVar("S")
T = TypeVar("T")


class MapGroupsWithState(KeyedTransform):
    """Calls ``fn(key, values, state)`` for each key of a batch, and for each key whose timeout has come; emits what it yields.

    Bounded a batch; works only in an ``ExactlyOnceStream``. Guarantee: exactly once. The marker of a batch names its outputs, the
    states and the timeouts behind it, so all move together or not at all; a replay starts from those before the batch, and fires
    the very same timeouts. A batch that is skipped or abandoned fires none: they are due in the next one.

    - A key is called once a batch: with its values; or, where none came and its timeout is due, without, and
      ``state.timed_out`` is true. A timeout that is due in a batch with values of its key does not call again.
    - Without ``event_time_by``, a timeout is one of processing time, which is that of the batch, ``state.now_ms``. It fires in
      the first batch that is planned at that time or later, never before. A stream plans a batch for that, though there is
      nothing to read, at most once a second; with ``AvailableNow`` a start fires what is due when it starts.
    - With ``event_time_by``, a timeout is one of event time. It fires in the first batch whose watermark, ``state.watermark_ms``,
      has come to it. Set it from the times of values (``max(times) + gap``), not from the watermark: where there is a backlog, a
      batch holds more time than a gap. Every value is given, however late; those of a key come in the order of their times.
    - Each call clears the timeout: ``fn`` sets it again if it is to stay. The state stays until ``state.remove()``.

    Which values of a key come to one call depends on where batches are cut, and so may what ``fn`` emits and remembers. The idea
    is that of Spark's ``flatMapGroupsWithState``.

    Parallelism: up to ``shards`` workers, any number at any start. A shard's rows of one batch are in memory, or wait in a file
    where they are more than ``StateCache`` allows; those of one key are in memory. Of keys that are due, one slice at a time, a
    sixteenth of all or less.

    Input: ``(key, value)``; a key is None, a bool, an int, a str, bytes, or a tuple of these. Output: what ``fn`` yields. Since
    ``fn`` decides what that is, steps that add up are allowed behind it: it must not yield a total again that they have added.
    Behind a step that emits a key again, such as ``StatefulCombinePerKey``, ``fn`` gets each of its totals.

    Args:
        fn: called with the key, the values in any order, and a :class:`~beam_exactly_once.GroupState`. It yields what is
            emitted, or returns a list of it, or None. It may run several times for a batch: what it does elsewhere is repeated.
        state: how states are stored: ``JsonState``, ``ArrowState`` or ``CoderState``.
        name: identifies the state in the checkpoint; may be left out for one such step.
        renamed_from: the name that it had before: the step goes on with what it remembers under that. It may stay.
        shards: the most workers.
        event_time_by: when a value happened, as for :class:`AggregateByWindow`; the sources before it need ``event_time=``. None:
            timeouts go by the clock.
        on_error: ``"fail"``: an exception of ``fn`` fails the batch, and nothing of it is committed. ``"reject"``: the step
            returns ``rows, rejected``. What belongs to a key for which ``fn`` raises, or whose state cannot be stored, is
            rejected whole, and nothing of that call is emitted: the values, and the key stays as it was; at a timeout the
            state, and the key is forgotten, since it would fail again and again. A pair whose key cannot be one is rejected,
            too. Other errors of this library than
            ``UnfitRow``, and running out of memory, always fail.

    Raises:
        ConfigurationError: an argument is not possible.
        UnsupportedPipeline: applied outside of a stream, or to windowed rows.

    Raises (while running):
        UnfitRow: a key or a state cannot be stored; nothing of its batch is committed.
        CheckpointHole, CorruptObject: state is gone, or damaged.
        Anything that ``fn`` raises.
    """

    def __init__(
        self,
        fn: Callable[[K, Iterable[V], GroupState[S]], Iterable[T] | None],
        *,
        state: StateType,
        event_time_by: By | None = None,
        name: str | None = None,
        renamed_from: str | None = None,
        shards: int = SHARDS,
        on_error: OnError = "fail",
    ) -> None:
        super().__init__(name, renamed_from, shards)
        if not callable(fn):
            raise ConfigurationError(
                f"fn={fn!r} of MapGroupsWithState must be a function: def fn(key, values, state): …."
            )
        by = None if event_time_by is None else checked_by("event_time_by", event_time_by)
        self._call = CallEach(fn, checked_state(state, type(self).__name__), checked_on_error(on_error), by)
        self._tags = self._sent_tags = (REPORTS, REJECTED, COUNTS) if self._call.rejects else (REPORTS,)

    def _update(self) -> CallEach:
        return self._call

    def _sending(self, name: str, update: CallEach) -> beam.DoFn:
        return (_ToShardsOrRejected if update.rejects else ToShards)(name, update, self._shards)

    def _changing(self, name: str, update: CallEach, graph: StreamGraph) -> ChangeShards:
        if update.rejects:
            graph.rejecting_name(name, update.kind)  # is it free?
        return _CallShards(name, update, graph.checkpoint, graph.state_cache)

    def _registered(
        self, spec: OperatorSpec, sent: Any, changed: Any, graph: StreamGraph, rows: beam.PCollection[Any]
    ) -> Any:
        emitted = typed(super()._registered(spec, sent, changed, graph, rows), Any)
        if not self._call.rejects:
            return emitted
        rejected, counts = (
            [typed(one[tag], hint) for one in (sent, changed)] | f"All{tag.title()}" >> beam.Flatten()
            for tag, hint in ((REJECTED, Rejected), (COUNTS, Gathered))
        )
        graph.rejecting[spec.name] = RejectingStep(rejected, counts)
        return RowsAndRejected(emitted, rejected)


class _ToShardsOrRejected(ToShards):
    """Sends rows on; rejects those whose key cannot be encoded, and counts them."""

    def start_bundle(self) -> None:
        """Forget what a failed bundle left and counted."""
        super().start_bundle()
        self._rejected = 0

    def process(self, rows: Any, task: BatchTask) -> Iterator[Any]:
        """Hash and group them, cut where shards end."""
        keys, values = rows
        send = super().process
        refused: list[Rejected] = []

        def reject(place: int, error: Exception) -> None:
            call = Call(keys[place], [values[place]], None)
            refused.extend(rejected_rows(call, error, step=self._operator))

        def sent(start: int, stop: int) -> list[Any]:
            return list(send((keys[start:stop], values[start:stop]), task))

        for chunks in isolated(len(keys), sent, reject, lambda error: isinstance(error, UnfitRow)):
            yield from chunks
        self._rejected += len(refused)
        for one in refused:
            yield beam.pvalue.TaggedOutput(REJECTED, one)

    def finish_bundle(self) -> Iterator[Any]:
        """Say how many rows there were, and how many were rejected."""
        yield from super().finish_bundle()
        yield from _counted(self._operator, self._rejected)


class _CallShards(ChangeShards):
    """Calls the function for the keys of a shard that have values or are due; counts what it rejects."""

    def __init__(self, operator: str, call: CallEach, checkpoint: StoreLocation, cache: StateCache) -> None:
        super().__init__(operator, checkpoint, cache)
        self._call = call
        self._rejected = 0

    def start_bundle(self) -> None:
        """Forget what a failed bundle left and counted."""
        super().start_bundle()
        self._rejected = 0

    def finish_bundle(self) -> Iterator[Any]:
        """Write the object, and say how many rows were rejected."""
        yield from super().finish_bundle()
        yield from _counted(self._operator, self._rejected)

    def _opened(self, seed: ShardSeed) -> GroupBundle:
        return GroupBundle(self._operator, self._call, self._checkpoint.store, self._cache, seed)

    def _emitted(self, bundle: GroupBundle, seed: ShardSeed, chunks: list[KeyedChunk]) -> Iterator[Any]:
        for rows, rejected in bundle.call(seed, chunks):
            yield from rows
            self._rejected += len(rejected)
            for one in rejected:
                yield beam.pvalue.TaggedOutput(REJECTED, one)


def _counted(operator: str, rejected: int) -> Iterator[Any]:
    """A bundle's report of how many rows it rejected."""
    if rejected:
        report = gathered(RejectedCount(operator, rejected))
        yield beam.pvalue.TaggedOutput(COUNTS, GlobalWindows.windowed_value(report, MIN_TIMESTAMP))
