"""``JoinBundle``: the shards of a ``JoinWithinInterval``.

A row of state is one row of one side. One that is to be given alone, unless a match comes, has a timer, which is due when none
can come any more; at its first match it is written again, without. So a row is written twice at the most, however many others
its key has. Rows go by their own time when sections are merged: none that comes later can match them.

In a batch all new rows are there before any is matched, and all are matched before any is given alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.state.bundle import StateBundle
from beam_exactly_once.state.compaction import Merge
from beam_exactly_once.state.garbage import no_collection
from beam_exactly_once.state.hashing import Numbers
from beam_exactly_once.state.joins.interval import LEFT
from beam_exactly_once.state.joins.matches import matches
from beam_exactly_once.state.joins.operator import JoinEach
from beam_exactly_once.state.joins.subkeys import (
    PLACE_BYTES,
    decoded,
    origin_of,
    places_in,
    sides_of,
    subkeys_of,
    times_of,
)
from beam_exactly_once.state.keyed_chunk import KeyedChunk, joined_chunks
from beam_exactly_once.state.keys import decode_keys
from beam_exactly_once.state.merging import merged
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.ordering import Flags, order_of
from beam_exactly_once.state.run import NEVER, Run
from beam_exactly_once.state.shard import OpenSlice
from beam_exactly_once.state.shard_seed import ShardSeed
from beam_exactly_once.state.timers import due_rows, next_due, superseded

MAX_EMITTED_ROWS = 1 << 16
"""So many pairs are emitted at once."""

Joined: TypeAlias = tuple[Any, tuple[Any, Any]]
"""A key, and a row of each side; None where one is alone."""


class JoinBundle(StateBundle[JoinEach]):
    """As :class:`~beam_exactly_once.state.bundle.StateBundle`; rows are of one side each."""

    def __init__(self, operator: str, update: JoinEach, store: ObjectStore, cache: StateCache, seed: ShardSeed) -> None:
        super().__init__(operator, update, store, cache, seed)
        self._lower_ms = seed.fired_ms
        self._upper_ms = -NEVER if seed.fires_to_ms is None else seed.fires_to_ms
        self._origin = origin_of(seed.stream_id, seed.attempt.batch_id)

    def join(self, seed: ShardSeed, chunks: Sequence[KeyedChunk]) -> Iterator[list[Joined]]:
        """Match the rows of one shard with each other and with those before, then let go what nothing can match any more.

        Raises:
            IncompleteBatch, Fenced, CheckpointHole, CorruptObject, UnfitRow: as of :meth:`StateBundle.update`.
        """
        shard = self._shard_of(seed, chunks)
        if chunks:
            groups = joined_chunks(chunks)
            self._refuse_strange(shard, groups)
            shard.change(self._arrived(groups))
        for one in shard.slices:
            if one.delta is not None:
                yield from self._matched(one, one.delta)
            yield from self._left_alone(one)

    def _arrived(self, groups: KeyedChunk) -> Run:
        """The batch's rows of a shard. Their order does not depend on the order in which they came."""
        rows = np.repeat(np.arange(len(groups.hashes)), groups.counts)
        hashes, keys = groups.hashes[rows], groups.keys.take(pa.array(rows))
        entries = pa.array(groups.values, pa.large_binary())
        order, _ = order_of(hashes, keys, entries)
        entries = entries.take(pa.array(order))
        places = decoded(pc.binary_slice(entries, 0, PLACE_BYTES), PLACE_BYTES)
        is_other = np.ones(len(rows), np.bool_)  # than the row before, in key, side or time
        is_other[1:] = (np.diff(rows) != 0) | (places[1:] != places[:-1])
        numbers = np.arange(len(rows)) - np.maximum.accumulate(np.where(is_other, np.arange(len(rows)), 0))
        return Run.of_sorted(
            hashes,
            keys,
            subkeys_of(places, self._origin, numbers),
            pc.binary_slice(
                entries, PLACE_BYTES, pc.max(pc.binary_length(entries)).as_py()
            ),  # Arrow fails without an end
            np.full(len(rows), NEVER, np.int64),
            np.full(len(rows), self._update.state_type.version, np.uint8),
        )

    def _matched(self, one: OpenSlice, arrived: Run) -> Iterator[list[Joined]]:
        """All pairs that the batch makes in a slice; leaves its rows, and those before that have a match for the first time."""
        has_match = np.zeros(len(arrived), np.bool_)
        changed = []
        for number, run in enumerate([arrived, *one.runs]):
            newer = one.runs[: max(0, number - 1)]
            no_longer_alone = [np.zeros(0, np.int64)]
            for new, rows in matches(arrived, run, self._update.interval, most=MAX_EMITTED_ROWS):
                waiting = np.unique(rows[run.expiry_ms[rows] < NEVER])
                is_old = superseded(run, waiting, newer)
                if is_old.any():  # it had a match, and is in a newer run, too
                    is_current = ~np.isin(rows, waiting[is_old])
                    new, rows = new[is_current], rows[is_current]
                has_match[new] = True
                if run is arrived:
                    has_match[rows] = True
                no_longer_alone.append(waiting[~is_old])
                yield self._pairs(arrived, new, run, rows)
            found = np.unique(np.concatenate(no_longer_alone))
            if len(found):
                changed.append(replace(run.rows_at(found), expiry_ms=np.full(len(found), NEVER), by_expiry=None))
        gone_ms = self._gone_ms(arrived)
        self._keys_added += int(np.count_nonzero(gone_ms > self._upper_ms))
        sides = sides_of(places_in(arrived.subkeys))
        alone = ~has_match & np.isin(sides, self._update.gives_alone)
        kept = Run.of_sorted(
            arrived.hashes,
            arrived.keys,
            arrived.subkeys,
            arrived.values,
            np.where(alone, gone_ms, NEVER),
            arrived.versions,
        )
        one.delta = merged([kept, *changed])

    def _left_alone(self, one: OpenSlice) -> Iterator[list[Joined]]:
        """What a slice gives of rows that nothing can match any more, and which of its rows is the next."""
        runs = one.changed + one.runs if one.base.is_due(self._upper_ms) else one.changed
        for run, rows in due_rows(runs, self._lower_ms, self._upper_ms):
            for start in range(0, len(rows), MAX_EMITTED_ROWS):
                yield self._alone(run, rows[start : start + MAX_EMITTED_ROWS])
        one.next_due_ms = next_due(one, self._upper_ms)
        if one.delta is not None:
            one.delta = self._still_held(one.delta)

    def _pairs(self, arrived: Run, new: Numbers, run: Run, rows: Numbers) -> list[Joined]:
        with no_collection():
            keys, values, others = _keys(arrived, new), self._values(arrived, new), self._values(run, rows)
            is_left = (sides_of(places_in(arrived.subkeys))[new] == LEFT).tolist()
            return [
                (key, (value, other) if left else (other, value))
                for key, value, other, left in zip(keys, values, others, is_left, strict=True)
            ]

    def _alone(self, run: Run, rows: Numbers) -> list[Joined]:
        with no_collection():
            keys, values = _keys(run, rows), self._values(run, rows)
            is_left = (sides_of(places_in(run.subkeys.take(pa.array(rows)))) == LEFT).tolist()
            return [
                (key, (value, None) if left else (None, value))
                for key, value, left in zip(keys, values, is_left, strict=True)
            ]

    def _values(self, run: Run, rows: Numbers) -> list[Any]:
        distinct, places = np.unique(rows, return_inverse=True)
        column = run.values.take(pa.array(distinct))
        values = self._update.state_type.decode(column, run.versions[distinct], operator=self._operator)
        return [values[place] for place in places.tolist()]

    def _gone_ms(self, run: Run) -> Numbers:
        """When nothing can match each row any more."""
        places = places_in(run.subkeys)
        return self._update.interval.last_match_ms(sides_of(places), times_of(places)) + 1

    def _still_held(self, run: Run) -> Run:
        is_held: Flags = self._gone_ms(run) > self._upper_ms
        return run if is_held.all() else run.rows_at(np.flatnonzero(is_held))

    def _merged(self, one: OpenSlice, merge: Merge) -> Run:
        """The batch's rows and the newest sections as one. With the oldest, what nothing can match any more goes."""
        whole = merged(one.changed + one.runs[: merge.sections], drop_tombstones=merge.is_base)
        if not merge.is_base:
            return whole
        held = self._still_held(whole)
        self._keys_added -= len(whole) - len(held)
        return held


def _keys(run: Run, rows: Numbers) -> list[Any]:
    distinct, places = np.unique(rows, return_inverse=True)
    keys = decode_keys(run.keys.take(pa.array(distinct)))
    return [keys[place] for place in places.tolist()]
