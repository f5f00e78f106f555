"""A ``JoinWithinInterval``, batch by batch, over a store in memory: the code of workers and of the commit, without Beam."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from beam_exactly_once.checkpoint.records import Attempt
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.state.joins.bundle import JoinBundle, Joined
from beam_exactly_once.state.joins.operator import JoinEach
from beam_exactly_once.state.keyed_chunk import chunks_by_shard
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.shard_seed import ShardSeed, shards_of
from beam_exactly_once.state.state_list import StateList

HASH_SEED = bytes(range(16)).hex()
NAME = "join"
CACHE = StateCache(max_bytes=0)
FAR_MS = 10**14

Pairs = Sequence[tuple[Any, Any]]


class Bounds(NamedTuple):
    """How far the time of both sides has come."""

    left_ms: int | None = None
    right_ms: int | None = None

    @property
    def lower_ms(self) -> int | None:
        """What the join closes by."""
        return None if self.left_ms is None or self.right_ms is None else min(self.left_ms, self.right_ms)


class Batch(NamedTuple):
    """What a batch gave, and what it leaves."""

    rows: list[Joined]
    late: list[Any]
    state: StateList


class JoinsInMemory:
    """Remembers as a stream does: in the list that a batch leaves, once it is taken."""

    def __init__(
        self,
        operator: JoinEach,
        *,
        slices: int = 3,
        stream_id: str = "stream",
        bundle: type[JoinBundle] = JoinBundle,
    ) -> None:
        self.operator = operator
        self.bundle = bundle
        self.stream_id = stream_id
        self.state = StateList.empty(slices=slices)
        self.bounds = Bounds()
        self.batch_id = 0
        self.store = open_object_store(f"memory://{secrets.token_hex(8)}")

    def attempt(self, left: Pairs, right: Pairs, bounds: Bounds, *, shards: int = 2, latest_ms: int = FAR_MS) -> Batch:
        """Run a batch, which decides nothing."""
        attempt = Attempt(1, self.batch_id, secrets.token_hex(8))
        of_shards = shards_of(self.state.slices, shards)
        firsts = np.array([of_shard[0].first_hash for of_shard in of_shards], np.uint64)
        chunks: dict[int, list[Any]] = {}
        late: list[Any] = []
        sent = 0
        for side, pairs in enumerate((left, right)):
            for part in (pairs[1::2], pairs[::2]):  # as from two bundles
                found = self.operator.sorted_out(
                    side,
                    [key for key, _ in part],
                    [value for _, value in part],
                    hash_seed=HASH_SEED,
                    late_ms=self.bounds[side],
                    latest_ms=latest_ms,
                    operator=NAME,
                )
                late += [part[row] for row in found.late_rows.tolist()]
                sent += found.chunk.rows_in
                for number, chunk in chunks_by_shard(found.chunk, firsts):
                    chunks.setdefault(number, []).append(chunk)
        rows: list[Joined] = []
        changes = []
        for number, of_shard in enumerate(of_shards):
            seed = ShardSeed(self.stream_id, attempt, HASH_SEED, of_shard, self.state.fired_ms, bounds.lower_ms, 0)
            bundle = self.bundle(NAME, self.operator, self.store, CACHE, seed)
            for emitted in bundle.join(seed, chunks.get(number, [])):
                rows += emitted
            changes.append(bundle.finish())
        after = self.state.behind(changes, operator=NAME, attempt=attempt, fired_ms=bounds.lower_ms, rows_sent=sent)
        return Batch(rows, late, StateList.from_json(after.to_json()))

    def run(
        self, left: Pairs = (), right: Pairs = (), left_ms: int | None = None, right_ms: int | None = None, **how: Any
    ) -> Batch:
        """A batch that is committed. Times that are None stay as they are."""
        bounds = Bounds(
            *(old if new is None else new for old, new in zip(self.bounds, (left_ms, right_ms), strict=True))
        )
        batch = self.attempt(left, right, bounds, **how)
        self.state, self.bounds = batch.state, bounds
        self.batch_id += 1
        return batch
