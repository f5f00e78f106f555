"""An operator of windows, batch by batch, over a store in memory: the code of workers and of the commit, without Beam."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from beam_exactly_once.checkpoint.records import Attempt
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.state.keyed_chunk import chunks_by_shard
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.shard_seed import ShardSeed, shards_of
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.updates import lifted
from beam_exactly_once.state.windows.bundle import ClosingBundle, WindowBundle
from beam_exactly_once.state.windows.operator import WindowResult

HASH_SEED = bytes(range(16)).hex()
NAME = "windows"
CACHE = StateCache(max_bytes=0)
FAR_MS = 10**14


class Batch(NamedTuple):
    """What a batch gave, and what it leaves."""

    rows: list[WindowResult]
    late: list[Any]
    state: StateList


class WindowsInMemory:
    """Remembers as a stream does: in the list that a batch leaves, once it is taken."""

    def __init__(self, operator: Any, *, bundle: type[ClosingBundle[Any]] = WindowBundle, slices: int = 4) -> None:
        self.operator = operator
        self.bundle = bundle
        self.state = StateList.empty(slices=slices)
        self.batch_id = 0
        self.store = open_object_store(f"memory://{secrets.token_hex(8)}")

    def attempt(
        self, pairs: Sequence[tuple[Any, Any]], closes_to_ms: int | None, *, shards: int = 2, latest_ms: int = FAR_MS
    ) -> Batch:
        """Run a batch, which decides nothing."""
        attempt = Attempt(1, self.batch_id, secrets.token_hex(8))
        of_shards = shards_of(self.state.slices, shards)
        firsts = np.array([of_shard[0].first_hash for of_shard in of_shards], np.uint64)
        chunks: dict[int, list[Any]] = {}
        late: list[Any] = []
        sent = 0
        for part in (pairs[::2], pairs[1::2]):  # as from two bundles
            found = self.operator.sorted_out(
                ([key for key, _ in part], [value for _, value in part]),
                hash_seed=HASH_SEED,
                closed_ms=self.state.fired_ms,
                latest_ms=latest_ms,
                operator=NAME,
            )
            late += [part[row] for row in found.late_rows.tolist()]
            sent += found.chunk.rows_in
            for number, chunk in chunks_by_shard(found.chunk, firsts):
                chunks.setdefault(number, []).append(lifted(self.operator, chunk))
        rows: list[WindowResult] = []
        changes = []
        for number, of_shard in enumerate(of_shards):
            seed = ShardSeed("stream", attempt, HASH_SEED, of_shard, self.state.fired_ms, closes_to_ms, 0)
            bundle = self.bundle(NAME, self.operator, self.store, CACHE, seed)
            for emitted in bundle.aggregate(seed, chunks.get(number, [])):
                rows += emitted
            late += bundle.late
            changes.append(bundle.finish())
        after = self.state.behind(changes, operator=NAME, attempt=attempt, fired_ms=closes_to_ms, rows_sent=sent)
        return Batch(rows, late, StateList.from_json(after.to_json()))

    def run(self, pairs: Sequence[tuple[Any, Any]], closes_to_ms: int | None, **how: Any) -> Batch:
        """A batch that is committed."""
        batch = self.attempt(pairs, closes_to_ms, **how)
        self.state = batch.state
        self.batch_id += 1
        return batch
