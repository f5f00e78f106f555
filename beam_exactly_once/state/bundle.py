"""``StateBundle``: what one execution of one bundle does to an operator's state; it ends as one object and one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from beam_exactly_once.checkpoint import Checkpoint, StreamWriter, layout
from beam_exactly_once.checkpoint.records import Attempt
from beam_exactly_once.errors import CheckpointHole, IncompleteBatch
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.randomness import new_token
from beam_exactly_once.rows.event_times import LATEST_MS
from beam_exactly_once.state.allocators import give_back_memory
from beam_exactly_once.state.columns.folds import Folds
from beam_exactly_once.state.compaction import Held, Merge, choose_merges
from beam_exactly_once.state.garbage import no_collection
from beam_exactly_once.state.hashing import Numbers
from beam_exactly_once.state.keyed_chunk import KeyedChunk, joined_chunks
from beam_exactly_once.state.keys import decode_keys
from beam_exactly_once.state.merging import merged
from beam_exactly_once.state.near.cache import SectionCache, StateCache, section_cache
from beam_exactly_once.state.ordering import Flags
from beam_exactly_once.state.run import NEVER, TOMBSTONE, Run, empty_values
from beam_exactly_once.state.section import Fetch, fetch_from, pack
from beam_exactly_once.state.shard import Known, OpenSlice, Shard
from beam_exactly_once.state.shard_seed import ShardSeed
from beam_exactly_once.state.state_list import Section, SliceChange, StateChange
from beam_exactly_once.state.updates import MISSING, UNCHANGED, Operator, Update

Does = TypeVar("Does", bound=Operator, covariant=True)


@dataclass(slots=True, eq=False)
class SectionOpener:
    """Opens sections for a bundle, which it does not know.

    If it did, a bundle and its slices would be a cycle: all rows of the batch would stay until Python looks for garbage.
    """

    cache: SectionCache
    fetch: Fetch
    writer: StreamWriter
    batch_id: int

    def __call__(self, sections: Sequence[Section]) -> list[Run]:
        """
        Raises:
            Fenced: the batch is decided, and what it stands on was swept: this is a late worker.
            CheckpointHole, CorruptObject: state is gone, or damaged.
        """
        try:
            return self.cache.get_all(sections, self.fetch)
        except CheckpointHole:
            self.writer.ensure_newest()
            self.writer.ensure_undecided(self.batch_id)
            raise


class StateBundle(Generic[Does]):
    """The shards that one execution of a bundle updates, all of one attempt.

    Args:
        operator: its name.
        update: what it does with a key.
        store: the checkpoint location.
        cache: where sections are kept near.
        seed: of any of its shards.
    """

    def __init__(self, operator: str, update: Does, store: ObjectStore, cache: StateCache, seed: ShardSeed) -> None:
        self.attempt: Attempt = seed.attempt
        self._operator = operator
        self._update = update
        self._store = store
        writer = StreamWriter(Checkpoint(store, seed.stream_id), seed.attempt.writer_epoch)
        self._opener = SectionOpener(section_cache(cache), fetch_from(store), writer, seed.attempt.batch_id)
        self._slices: list[OpenSlice] = []
        # By event time, what has expired is what earlier batches say: by the same bound a pair is late.
        expires_to_ms = seed.fires_to_ms if update.by is None else seed.fired_ms
        self._expires_to_ms = expires_to_ms if update.ttl_ms is not None else None
        self._rows_in = 0
        self._keys_added = 0

    def update(self: StateBundle[Update], seed: ShardSeed, chunks: Sequence[KeyedChunk]) -> list[Any]:
        """Bring the rows of one shard into its state; returns what the operator emits.

        Raises:
            IncompleteBatch: rows came to a shard that is not theirs.
            Fenced: the batch is decided, and what it stands on was swept: this is a late worker.
            CheckpointHole, CorruptObject: state is gone, or damaged.
            UnfitRow: a new state cannot be stored.
        """
        shard = self._shard_of(seed, chunks)
        if not chunks:
            return []
        groups = joined_chunks(chunks, self._update.folds)
        self._refuse_strange(shard, groups)
        known = shard.look_up(groups.hashes, groups.keys)
        folds = self._update.folds
        emitted = self._update_columns(folds, shard, groups, known) if folds is not None and groups.columns else None
        return self._update_each(shard, groups, known) if emitted is None else emitted

    def finish(self) -> StateChange:
        """Write what changed, and say what the commit needs to know of it.

        A new base has an object of its own: in one with the small sections it would keep them, or they it, long after they are
        needed. Put-if-absent under names of their own. A crash before, between or after them leaves objects that nobody names,
        which a sweep removes.
        """
        batch_id = self.attempt.batch_id
        rows = sum(len(one.delta) for one in self._slices if one.delta is not None)
        give_back_memory(rows)  # what grouping and looking up needed
        merges = choose_merges([_held(one, batch_id) for one in self._slices], rows)
        merge_of = {merge.slice_number: merge for merge in merges}
        bases = {merge.slice_number for merge in merges if merge.is_base}
        small = [number for number in range(len(self._slices)) if number not in bases]
        section_of = self._written(small, merge_of) | self._written(sorted(bases), merge_of)
        changes = tuple(
            SliceChange(
                one.base.first_hash,
                one.base.end_hash,
                one.base.digest,
                section_of.get(number),
                merge_of[number].sections if number in merge_of else 0,
                one.next_due_ms,
            )
            for number, one in enumerate(self._slices)
        )
        self._slices = []
        give_back_memory(sum(one.rows for one in section_of.values()))
        return StateChange(self._operator, changes, self._rows_in, self._keys_added)

    def _shard_of(self, seed: ShardSeed, chunks: Sequence[KeyedChunk]) -> Shard:
        """A shard that the bundle takes over, with the rows that came for it."""
        shard = Shard([OpenSlice(one, self._opener) for one in seed.slices])
        self._slices += shard.slices
        self._rows_in += sum(chunk.rows_in for chunk in chunks)
        return shard

    def _refuse_strange(self, shard: Shard, groups: KeyedChunk) -> None:
        """
        Raises:
            IncompleteBatch: rows came to a shard that is not theirs.
        """
        if not shard.holds(groups.hashes):
            raise IncompleteBatch(
                f"rows of operator {self._operator!r} came to a worker that does not hold their keys. Nothing was committed, and "
                "nothing is lost: start again to replay the batch."
            )

    def _written(self, numbers: Sequence[int], merge_of: Mapping[int, Merge]) -> dict[int, Section]:
        """What these slices get in front, as one object; where each section lies."""
        runs: dict[int, Run] = {}
        for number in numbers:
            one = self._slices[number]
            run = self._merged(one, merge_of[number]) if number in merge_of else one.delta
            if run is not None and len(run):
                runs[number] = run
        if not runs:
            return {}
        give_back_memory(sum(map(len, runs.values())))  # what merging needed
        key = layout.state_key(self._operator, self.attempt.batch_id, self.attempt.nonce, new_token())
        body, sections = pack(key, runs.values())
        self._store.put_if_absent(key, body)
        for section, run in zip(sections, runs.values(), strict=True):
            self._opener.cache.put(section, run)
        return dict(zip(runs, sections, strict=True))

    def _update_columns(self, folds: Folds, shard: Shard, groups: KeyedChunk, known: Known) -> list[Any] | None:
        """As :meth:`_update_each` by columns of numbers; None if that cannot be, and nothing was done."""
        is_live = self._is_live(known)
        stored = known.values
        if stored is not None and not is_live.all():
            stored = stored.take(pa.array(np.flatnonzero(is_live)))
        columns = folds.after(groups.columns, known.places[is_live], stored)
        if columns is None:
            return None
        every = np.arange(len(groups.hashes))
        self._put(shard, groups, known, every, every[:0], folds.encoded(columns))
        arrow = self._update.arrow
        if arrow is not None and groups.shown_keys is not None:
            return [arrow.shown_columns(groups.shown_keys, columns, self._operator)]
        with no_collection():
            return list(zip(decode_keys(groups.keys), folds.results(columns)[0].tolist(), strict=True))

    def _update_each(self: StateBundle[Update], shard: Shard, groups: KeyedChunk, known: Known) -> list[Any]:
        """Bring each key's values into its state; returns what is emitted."""
        with no_collection():
            values = groups.value_by_value(self._update.folds).groups
            states = self._states(known, len(groups.hashes))
        new = self._update.new_states(values, states)
        with no_collection():
            shown = self._change(shard, groups, known, new)
            keys = decode_keys(groups.keys)
        emitted = self._update.outputs(keys, values, states, shown)
        arrow = self._update.arrow
        if arrow is None or groups.shown_keys is None:
            return emitted
        results = [list(one) for one in zip(*(result for _, result in emitted), strict=True)]
        return [arrow.shown(groups.shown_keys, results, self._operator)]

    def _is_live(self, known: Known) -> Flags:
        """What has not expired before the batch."""
        if self._expires_to_ms is None:
            return np.ones(len(known.places), np.bool_)
        return known.expiry_ms > self._expires_to_ms

    def _states(self, known: Known, count: int) -> list[Any]:
        """The state of each key before the batch; what has expired is not there any more."""
        states = [MISSING] * count
        if known.values is None:
            return states
        is_live = self._is_live(known)
        live = pa.array(np.flatnonzero(is_live))
        values = self._update.state_type.decode(
            known.values.take(live), known.versions[is_live], operator=self._operator
        )
        for place, value in zip(known.places[is_live].tolist(), values, strict=True):
            states[place] = value
        return states

    def _change(self, shard: Shard, groups: KeyedChunk, known: Known, new: Sequence[Any]) -> list[Any]:
        """Put the new states in front of the old ones; returns them as the next batch will read them."""
        set_at = [place for place, state in enumerate(new) if state is not None and state is not UNCHANGED]
        gone_at = [place for place in known.places.tolist() if new[place] is None]
        stored = self._update.state_type.encode([new[place] for place in set_at], operator=self._operator)
        self._put(shard, groups, known, np.array(set_at, np.int64), np.array(gone_at, np.int64), stored.column)
        shown: list[Any] = [None] * len(new)
        for place, value in zip(set_at, stored.values, strict=True):
            shown[place] = value
        return shown

    def _put(
        self, shard: Shard, groups: KeyedChunk, known: Known, set_at: Numbers, gone_at: Numbers, values: pa.Array
    ) -> None:
        """Put a row for each key that is set or goes in front of what is remembered."""
        state_type = self._update.state_type
        at = np.concatenate([set_at, gone_at])
        if len(at):
            keys = groups.keys if len(set_at) == len(groups.keys) else groups.keys.take(pa.array(at))
            versions = np.repeat(np.array([state_type.version, TOMBSTONE], np.uint8), [len(set_at), len(gone_at)])
            expiry_ms = np.full(len(at), NEVER, np.int64)
            expiry_ms[: len(set_at)] = self._expiries(groups, known)[set_at]
            if len(gone_at):
                values = pa.concat_arrays([values, pa.nulls(len(gone_at), state_type.arrow_type)])
                delta = Run.of(groups.hashes[at], keys, values, versions, expiry_ms=expiry_ms)
            else:  # they are in order
                none = empty_values(len(at))
                delta = Run.of_sorted(groups.hashes[at], keys, none, values, expiry_ms, versions)
            shard.change(delta)
        was_known = np.zeros(len(groups.hashes), np.bool_)
        was_known[known.places] = True
        self._keys_added += len(set_at) - int(np.count_nonzero(was_known[set_at])) - len(gone_at)

    def _expiries(self, groups: KeyedChunk, known: Known) -> Numbers:
        """When each key expires that is changed now: so long after the batch, or after its latest row so far."""
        ttl_ms = NEVER if self._update.ttl_ms is None else self._update.ttl_ms
        if groups.times_ms is None:
            changed_ms = self._expires_to_ms
            expires_ms = NEVER if changed_ms is None else min(changed_ms + ttl_ms, NEVER)
            return np.full(len(groups.hashes), expires_ms, np.int64)
        expiries = groups.times_ms + min(ttl_ms, NEVER - LATEST_MS)
        is_live = self._is_live(known)
        places = known.places[is_live]
        expiries[places] = np.maximum(expiries[places], known.expiry_ms[is_live])
        return expiries

    def _merged(self, one: OpenSlice, merge: Merge) -> Run:
        """The batch's rows and the newest sections as one. Only with the oldest may tombstones go, and what has expired."""
        whole = merged(one.changed + one.runs[: merge.sections], drop_tombstones=merge.is_base)
        if not merge.is_base or self._expires_to_ms is None:
            return whole
        live = np.flatnonzero(whole.expiry_ms > self._expires_to_ms)
        self._keys_added -= len(whole) - len(live)
        return whole.rows_at(live)


def _held(one: OpenSlice, batch_id: int) -> list[Held]:
    return [
        Held(section.rows, section.tombstones, batch_id - (layout.state_batch_id(section.object_key) or 0))
        for section in one.base.sections
    ]
