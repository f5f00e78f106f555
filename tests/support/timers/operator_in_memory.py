"""An operator with timers, batch by batch, over a store in memory: the code of workers and of the commit, without Beam."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from beam_exactly_once.checkpoint.records import Attempt
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.rows.rejected import Rejected
from beam_exactly_once.state.groups.bundle import GroupBundle
from beam_exactly_once.state.groups.calls import CallEach
from beam_exactly_once.state.keyed_chunk import chunks_by_shard
from beam_exactly_once.state.keys import decode_keys
from beam_exactly_once.state.merging import merged
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.run import NEVER
from beam_exactly_once.state.section import fetch_from, runs_of
from beam_exactly_once.state.shard_seed import ShardSeed, shards_of
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.timers import bound_of
from beam_exactly_once.state.updates import grouped

HASH_SEED = bytes(range(16)).hex()
NAME = "calls"
CACHE = StateCache(max_bytes=0)


class Batch(NamedTuple):
    """What a batch gave, and what it leaves."""

    rows: list[Any]
    rejected: list[Rejected]
    state: StateList


class OperatorInMemory:
    """Remembers as a stream does: in the list that a batch leaves, once it is taken."""

    def __init__(self, operator: CallEach, *, slices: int = 4, cache: StateCache = CACHE) -> None:
        self.operator = operator
        self.cache = cache
        self.state = StateList.empty(slices=slices)
        self.batch_id = 0
        self.store = open_object_store(f"memory://{secrets.token_hex(8)}")

    def attempt(self, pairs: Iterable[tuple[Any, Any]], planned_at_ms: int, *, shards: int = 2) -> Batch:
        """Run a batch, which decides nothing."""
        pairs = list(pairs)
        attempt = Attempt(1, self.batch_id, secrets.token_hex(8))
        until_ms = bound_of(planned_at_ms, self.state.fired_ms)
        of_shards = shards_of(self.state.slices, shards)
        groups = grouped(self.operator, ([key for key, _ in pairs], [value for _, value in pairs]), HASH_SEED, NAME)
        firsts = np.array([of_shard[0].first_hash for of_shard in of_shards], np.uint64)
        chunks = dict(chunks_by_shard(groups, firsts))
        rows: list[Any] = []
        rejected: list[Rejected] = []
        changes = []
        for number, of_shard in enumerate(of_shards):
            seed = ShardSeed("stream", attempt, HASH_SEED, of_shard, self.state.fired_ms, until_ms, until_ms)
            bundle = GroupBundle(NAME, self.operator, self.store, self.cache, seed)
            for emitted in bundle.call(seed, [chunks[number]] if number in chunks else []):
                rows += emitted.rows
                rejected += emitted.rejected
            changes.append(bundle.finish())
        sent = len(pairs)
        after = self.state.behind(changes, operator=NAME, attempt=attempt, fired_ms=until_ms, rows_sent=sent)
        return Batch(rows, rejected, StateList.from_json(after.to_json()))

    def take(self, batch: Batch) -> None:
        """Commit it."""
        self.state = batch.state
        self.batch_id += 1

    def run(self, pairs: Iterable[tuple[Any, Any]], planned_at_ms: int, *, shards: int = 2) -> Batch:
        """A batch that is committed."""
        batch = self.attempt(pairs, planned_at_ms, shards=shards)
        self.take(batch)
        return batch

    def remembered(self) -> dict[Any, tuple[Any, int | None]]:
        """The value of each key, and when it is due."""
        found = {}
        fetch = fetch_from(self.store)
        for one in self.state.slices:
            if not one.sections:
                continue
            run = merged(runs_of(one, fetch), drop_tombstones=True)
            is_there = run.values.is_valid().to_pylist()
            values = iter(
                self.operator.state_type.decode(
                    run.values.drop_null(), run.versions[np.array(is_there, np.bool_)], operator=NAME
                )
            )
            for key, valid, due_ms in zip(decode_keys(run.keys), is_there, run.expiry_ms.tolist(), strict=True):
                found[key] = (next(values) if valid else None, None if due_ms == NEVER else due_ms)
        return found
