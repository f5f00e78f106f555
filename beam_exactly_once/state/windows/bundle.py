"""``WindowBundle``: the shards of an ``AggregateByWindow``, whose windows close.

A window is a row of state that expires where it ends. A batch closes all windows up to a bound, and takes no row for one that an
earlier batch has closed. So a window closes once, and what has expired is never looked up again: it needs no tombstone.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa

from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.state.bundle import StateBundle
from beam_exactly_once.state.compaction import Merge
from beam_exactly_once.state.garbage import no_collection
from beam_exactly_once.state.hashing import Hashes, Numbers
from beam_exactly_once.state.keyed_chunk import KeyedChunk, joined_chunks
from beam_exactly_once.state.keys import decode_keys
from beam_exactly_once.state.merging import merged
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.run import NEVER, Run, empty_values
from beam_exactly_once.state.shard import Known, OpenSlice, Shard
from beam_exactly_once.state.shard_seed import ShardSeed
from beam_exactly_once.state.timers import due_rows, next_due
from beam_exactly_once.state.updates import Operator
from beam_exactly_once.state.windows.operator import CombineInWindows, WindowEach, WindowResult
from beam_exactly_once.state.windows.window_keys import ends_of, user_keys

MAX_EMITTED_ROWS = 1 << 16
"""So many windows are emitted at once."""

Does = TypeVar("Does", bound=Operator)
Combines = TypeVar("Combines", bound=CombineInWindows)


class ClosingBundle(StateBundle[Does], abc.ABC):
    """As :class:`~beam_exactly_once.state.bundle.StateBundle`; event time ends what rows are of."""

    finds_late: ClassVar[bool] = False
    """Whether only it knows of some rows that they are late."""

    def __init__(self, operator: str, update: Does, store: ObjectStore, cache: StateCache, seed: ShardSeed) -> None:
        super().__init__(operator, update, store, cache, seed)
        self._lower_ms = seed.fired_ms
        self._upper_ms = -NEVER if seed.fires_to_ms is None else seed.fires_to_ms
        self.late: list[tuple[Any, Any]] = []
        """Keys and values of such rows."""

    def aggregate(self, seed: ShardSeed, chunks: Sequence[KeyedChunk]) -> Iterator[list[WindowResult]]:
        """Bring the rows of one shard into its windows, and close those that end; gives what the operator emits.

        Raises:
            IncompleteBatch, Fenced, CheckpointHole, CorruptObject, UnfitRow: as of :meth:`StateBundle.update`.
        """
        shard = self._shard_of(seed, chunks)
        if chunks:
            groups = joined_chunks(chunks, self._update.folds)
            self._refuse_strange(shard, groups)
            yield from self._change_by(groups, shard)
        for one in shard.slices:
            yield from self._closed(one)
            if one.delta is not None:
                one.delta = self._still_open(one.delta)

    @abc.abstractmethod
    def _change_by(self, groups: KeyedChunk, shard: Shard) -> Iterator[list[WindowResult]]:
        """Bring rows into their windows; gives what the operator emits of that."""

    @abc.abstractmethod
    def _closed(self, one: OpenSlice) -> Iterator[list[WindowResult]]:
        """What a slice emits of what ends now; says when it does next."""

    def _still_open(self, run: Run) -> Run:
        is_open = run.expiry_ms > self._upper_ms
        return run if is_open.all() else run.rows_at(np.flatnonzero(is_open))

    def _merged(self, one: OpenSlice, merge: Merge) -> Run:
        """The batch's rows and the newest sections as one. With the oldest, what has closed goes."""
        whole = merged(one.changed + one.runs[: merge.sections], drop_tombstones=merge.is_base)
        return self._still_open(whole) if merge.is_base else whole


def hashes_within(hashes: Hashes, one: OpenSlice) -> tuple[int, int]:
    """From which, and up to which, of these sorted hashes a slice has them."""
    start = np.searchsorted(hashes, np.uint64(one.base.first_hash))
    stop = np.searchsorted(hashes, np.uint64(one.base.end_hash - 1), "right")
    return int(start), int(stop)


class AggregatingBundle(ClosingBundle[Combines]):
    """A window is a row, and what is emitted of it is what its accumulator gives."""

    def _change_by(self, groups: KeyedChunk, shard: Shard) -> Iterator[list[WindowResult]]:
        touched = self._touched(groups, shard)
        if self._update.emit == "updates":
            yield from self._emitted(touched)
        shard.change(touched)

    @abc.abstractmethod
    def _touched(self, groups: KeyedChunk, shard: Shard) -> Run:
        """The windows of the batch's rows, with what they hold now."""

    def _closed(self, one: OpenSlice) -> Iterator[list[WindowResult]]:
        if self._update.keeps_all:
            runs = one.changed + one.runs
            yield from self._emitted(merged(runs, drop_tombstones=True) if runs else None)
            return
        runs = one.changed + one.runs if one.base.is_due(self._upper_ms) else one.changed
        for run, rows in due_rows(runs, self._lower_ms, self._upper_ms):
            self._keys_added -= len(rows)
            if self._update.emit == "final":
                yield from self._emitted(run, rows)
        one.next_due_ms = next_due(one, self._upper_ms)

    def _emitted(self, run: Run | None, rows: Numbers | None = None) -> Iterator[list[Any]]:
        """The results of windows, some at a time."""
        if run is None:
            return
        rows = np.arange(len(run)) if rows is None else rows
        for start in range(0, len(rows), MAX_EMITTED_ROWS):
            part = run.rows_at(rows[start : start + MAX_EMITTED_ROWS])
            with no_collection():
                starts_ms, ends_ms = self._update.spans_of(part)
                keys = decode_keys(user_keys(part.keys))
                results = self._results(part)
                arrow = self._update.arrow
                if arrow is None:
                    yield list(map(WindowResult, keys, starts_ms.tolist(), ends_ms.tolist(), results[0]))
                else:
                    shown = arrow.key_arrays(keys) | {"window_start_ms": pa.array(starts_ms)}
                    shown["window_end_ms"] = pa.array(ends_ms)
                    yield [arrow.shown(pa.record_batch(shown), results, self._operator)]

    def _results(self, run: Run) -> list[list[Any]]:
        """What the function gives of each row: one column, or one for each column that is combined."""
        folds = self._update.folds
        columns = None if folds is None else folds.decoded(run.values)
        if folds is not None and columns is not None:
            return [one.tolist() for one in folds.results(columns)]
        accumulators = self._update.state_type.decode(run.values, run.versions, operator=self._operator)
        results = map(self._update.combine.fn.extract_output, accumulators)
        return [list(results)] if self._update.arrow is None else [list(one) for one in zip(*results, strict=True)]


class WindowBundle(AggregatingBundle[WindowEach]):
    """With windows that stay as they are."""

    def _touched(self, groups: KeyedChunk, shard: Shard) -> Run:
        known = shard.look_up(groups.hashes, groups.keys)
        self._keys_added += len(groups.hashes) - len(known.places)
        folds = self._update.folds
        values = None
        if folds is not None and groups.columns:
            columns = folds.after(groups.columns, known.places, known.values)
            values = None if columns is None else folds.encoded(columns)
        if values is None:
            values = self._merged_one_by_one(groups, known)
        count = len(groups.hashes)
        expiry_ms = np.full(count, NEVER, np.int64) if self._update.keeps_all else ends_of(groups.keys)
        versions = np.full(count, self._update.state_type.version, np.uint8)
        return Run.of_sorted(groups.hashes, groups.keys, empty_values(count), values, expiry_ms, versions)

    def _merged_one_by_one(self, groups: KeyedChunk, known: Known) -> Any:
        with no_collection():
            values = groups.value_by_value(self._update.folds).groups
            states = self._states(known, len(groups.hashes))
        new = self._update.combine.new_states(values, states)
        return self._update.state_type.encode(new, operator=self._operator).column
