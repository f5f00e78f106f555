"""``GroupBundle``: the shards of a ``MapGroupsWithState``, whose timers fire.

A batch fires up to a bound, its own time. Behind it no live row expires at or before that bound; so what is due in the next batch
lies between the two bounds, or was changed by that batch itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.rows.event_times import times_of_rows
from beam_exactly_once.rows.rejected import Rejected
from beam_exactly_once.state.bundle import StateBundle
from beam_exactly_once.state.groups.calls import Call, CallEach, Calls, left_by, made, rejected_rows, stored
from beam_exactly_once.state.hashing import Hashes
from beam_exactly_once.state.keyed_chunk import KeyedChunk, joined_chunks
from beam_exactly_once.state.keys import decode_keys
from beam_exactly_once.state.merging import merged
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.ordering import flags
from beam_exactly_once.state.run import ABSENT, NEVER, TOMBSTONE, Run
from beam_exactly_once.state.shard import Known, OpenSlice, Shard
from beam_exactly_once.state.shard_seed import ShardSeed
from beam_exactly_once.state.state_list import StateChange
from beam_exactly_once.state.timers import Due, due_rows, next_due
from beam_exactly_once.state.types.arrow_state import joined


class Emitted(NamedTuple):
    """What the calls for some keys gave."""

    rows: list[Any]
    rejected: list[Rejected]


class GroupBundle(StateBundle[CallEach]):
    """As :class:`~beam_exactly_once.state.bundle.StateBundle`; a function is called, also at timeouts."""

    keys_at_once = 1 << 14
    """For so many keys the function is called before what it gave is emitted: all timers of a stream may be due in one batch."""

    def __init__(self, operator: str, update: CallEach, store: ObjectStore, cache: StateCache, seed: ShardSeed) -> None:
        super().__init__(operator, update, store, cache, seed)
        self._lower_ms = seed.fired_ms
        self._upper_ms = -NEVER if seed.fires_to_ms is None else seed.fires_to_ms
        self._now_ms = seed.now_ms
        self._watermark_ms = seed.fires_to_ms if update.by is not None else None

    def call(self, seed: ShardSeed, chunks: Sequence[KeyedChunk]) -> Iterator[Emitted]:
        """Call the function for the keys of one shard: once for each that has values, then, slice by slice, for each that is due.

        Raises:
            IncompleteBatch, Fenced, CheckpointHole, CorruptObject, UnfitRow: as of :meth:`StateBundle.update`.
            Anything that the function raises, unless it is to be rejected.
        """
        shard = self._shard_of(seed, chunks)
        if chunks:
            yield from self._called_with_values(shard, self._in_order(joined_chunks(chunks)))
        for one in shard.slices:
            if one.base.is_due(self._upper_ms):
                due = due_rows(one.changed + one.runs, self._lower_ms, self._upper_ms)
                if due:
                    yield from self._timed_out(one, due)
            one.next_due_ms = next_due(one, self._upper_ms)

    def finish(self) -> StateChange:
        """As of every bundle.

        Raises:
            AssertionError: a timer would never fire, by a fault of this library.
        """
        for one in self._slices:
            lost = 0 if one.delta is None else len(one.delta.due(-NEVER, self._upper_ms))
            if lost:
                raise AssertionError(f"{lost} timers of operator {self._operator!r} are behind {self._upper_ms}")
        return super().finish()

    def _in_order(self, groups: KeyedChunk) -> KeyedChunk:
        """With event time, the values of each key in the order in which they happened."""
        if self._update.by is None:
            return groups
        times_ms = times_of_rows(self._update.by, groups.values, step=self._operator)
        order = np.lexsort((times_ms, np.repeat(np.arange(len(groups.counts)), groups.counts)))
        return replace(groups, values=[groups.values[row] for row in order.tolist()])

    def _called_with_values(self, shard: Shard, groups: KeyedChunk) -> Iterator[Emitted]:
        """Call the function for keys that have values, so many at once, and put what it leaves of them in front."""
        self._refuse_strange(shard, groups)
        values = groups.groups
        deltas = []
        for start in range(0, len(values), self.keys_at_once):
            at = slice(start, start + self.keys_at_once)
            hashes, keys = groups.hashes[at], groups.keys[at]
            emitted, delta = self._called(hashes, keys, values[at], shard.look_up(hashes, keys))
            deltas += [] if delta is None else [delta]
            yield emitted
        if deltas:
            shard.change(merged(deltas))

    def _timed_out(self, one: OpenSlice, due: Sequence[Due]) -> Iterator[Emitted]:
        """Call the function for the keys of a slice that are due, so many at once, and put what it leaves of them in front."""
        deltas = []
        for run, rows in due:
            for start in range(0, len(rows), self.keys_at_once):
                part = run.rows_at(rows[start : start + self.keys_at_once])
                known = Known(np.arange(len(part)), part.values, part.versions, part.expiry_ms)
                emitted, delta = self._called(part.hashes, part.keys, None, known)
                assert delta is not None  # a timer that has fired is cleared
                deltas.append(delta)
                yield emitted
        one.delta = merged([*deltas, *one.changed])

    def _called(
        self, hashes: Hashes, keys: pa.LargeBinaryArray, groups: Sequence[list[Any]] | None, known: Known
    ) -> tuple[Emitted, Run | None]:
        """Call the function for these keys; with their values, or at their timeouts where there are none.

        Returns:
            what the calls gave, and the rows that change.
        """
        timed_out = groups is None
        values = [[] for _ in range(len(hashes))] if groups is None else groups
        all_calls = list(map(Call, decode_keys(keys), values, self._values(known, len(hashes))))
        calls = made(self._update, all_calls, now_ms=self._now_ms, watermark_ms=self._watermark_ms, timed_out=timed_out)
        delta = self._delta(hashes, keys, calls, known, timed_out=timed_out)
        rejected: list[Rejected] = []
        if calls.failed:
            states = self._values(known, len(hashes))  # the function may have changed those that it was given
            for number, error in sorted(calls.failed.items()):
                call = all_calls[number]._replace(state=states[number])
                rejected += rejected_rows(call, error, step=self._operator)
        return Emitted([row for rows in calls.outputs for row in rows], rejected), delta

    def _values(self, known: Known, count: int) -> list[Any]:
        """The state of each key, None where there is none: a key may have a timeout alone."""
        values: list[Any] = [None] * count
        if known.values is None:
            return values
        there = np.flatnonzero(flags(known.values.is_valid()))
        column = known.values.take(pa.array(there))
        decoded = self._update.state_type.decode(column, known.versions[there], operator=self._operator)
        for place, value in zip(known.places[there].tolist(), decoded, strict=True):
            values[place] = value
        return values

    def _delta(
        self, hashes: Hashes, keys: pa.LargeBinaryArray, calls: Calls, known: Known, *, timed_out: bool
    ) -> Run | None:
        """The rows that calls change; None if there are none.

        What a function did not update stays as it is stored; a key that has a timeout alone is a row without a value.
        """
        columns = stored(self._update, self._operator, calls)  # before all else: here, too, calls fail
        count, state_type = len(hashes), self._update.state_type
        row_of = np.full(count, ABSENT, np.int64)
        row_of[known.places] = np.arange(len(known.places))
        old_ms = np.full(count, NEVER, np.int64)
        old_ms[known.places] = known.expiry_ms
        had_value = np.zeros(count, np.bool_)
        if known.values is not None:
            had_value[known.places] = flags(known.values.is_valid())
        left = left_by(calls, old_ms, self._upper_ms, timed_out=timed_out)
        is_known, keeps = row_of != ABSENT, had_value & ~left.updated & ~left.removed
        lives = left.updated | keeps | (left.due_ms < NEVER)
        changes = ~is_known | left.removed | (left.due_ms != old_ms)
        set_at, gone_at = np.flatnonzero(left.updated), np.flatnonzero(is_known & ~lives)
        kept_at, bare_at = np.flatnonzero(keeps & changes), np.flatnonzero(lives & changes & ~left.updated & ~keeps)
        self._keys_added += int(np.count_nonzero(lives & ~is_known)) - len(gone_at)
        at = np.concatenate([set_at, kept_at, bare_at, gone_at])
        if not len(at):
            return None
        kept = row_of[kept_at]
        values = [one.column for one in columns]
        values += [] if known.values is None else [known.values.take(pa.array(kept))]
        values += [pa.nulls(len(bare_at) + len(gone_at), state_type.arrow_type)]
        versions = np.full(len(at), state_type.version, np.uint8)
        versions[len(set_at) : len(set_at) + len(kept)] = known.versions[kept]
        versions[len(at) - len(gone_at) :] = TOMBSTONE
        expiry_ms = np.where(lives, left.due_ms, NEVER)[at]
        return Run.of(hashes[at], keys.take(pa.array(at)), joined(values), versions, expiry_ms=expiry_ms)
