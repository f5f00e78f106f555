"""An operator alone, batch after batch on a store: its bundles, the check at the commit, markers and sweeps are the real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker, StreamWriter
from beam_exactly_once.checkpoint.retention import Retention
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.randomness import new_token
from beam_exactly_once.state.bundle import StateBundle
from beam_exactly_once.state.keyed_chunk import KeyedChunk, chunks_by_shard
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.shard_seed import ShardSeed, shards_of
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.updates import Update, grouped, lifted
from beam_exactly_once.state.upkeep.sweeping import sweep_state

OPERATOR = "counts"
SEED = bytes(range(16)).hex()
IN_MEMORY = StateCache(max_bytes=0)


class OperatorBatches:
    """One operator of one stream.

    Args:
        update: what it does.
        slices: of its state.
        shards: workers, all of one bundle.
        retain_batches: markers that stay.
    """

    def __init__(
        self,
        update: Update,
        *,
        slices: int = 16,
        shards: int = 4,
        retain_batches: int = 10,
        store: ObjectStore | None = None,
    ) -> None:
        self.update = update
        self.store = MemoryStore(f"memory://{new_token()}") if store is None else store
        self.checkpoint = Checkpoint.open(self.store)
        self.writer = StreamWriter.claim(self.checkpoint, owner="test", claimed_at_ms=0)
        self.shards = shards
        self.list = StateList.empty(slices=slices)
        self.batch_id = 0
        self.retain(retain_batches)

    def retain(self, batches: int) -> None:
        """From here on, as behind a start with another number of markers that stay."""
        self._retain_batches = batches
        self._retention = Retention(self.checkpoint, batches)

    def run(self, *parts: Any, now_ms: int = 0) -> list[Any]:
        """One batch of rows, gathered in ``parts``; returns what is emitted."""
        attempt = Attempt(self.writer.writer_epoch, self.batch_id, f"{self.batch_id:08x}")
        chunks = [self.update.in_time(grouped(self.update, part, SEED, OPERATOR), self.list.fired_ms) for part in parts]
        bundle, emitted = None, []
        for number, slices in enumerate(shards_of(self.list.slices, self.shards)):
            seed = ShardSeed(self.checkpoint.stream_id, attempt, SEED, slices, self.list.fired_ms, now_ms, now_ms)
            if bundle is None:
                bundle = StateBundle(OPERATOR, self.update, self.store, IN_MEMORY, seed)
            emitted += bundle.update(seed, self._of_shard(chunks, number))
        assert bundle is not None
        rows_sent = sum(chunk.rows_in for chunk in chunks)
        after = self.list.behind(
            [bundle.finish()], operator=OPERATOR, attempt=attempt, fired_ms=now_ms, rows_sent=rows_sent
        )
        marker = Marker(self.batch_id, "committed", attempt, {}, {}, now_ms, state={OPERATOR: after.to_json()})
        self.list = StateList.from_json(self.writer.create_marker(marker).record.state[OPERATOR])
        if self._retention.is_due(self.batch_id):
            oldest = self.batch_id - self._retain_batches + 1
            sweep_state(self.writer, oldest_retained=oldest, newest={OPERATOR: self.list})
            self._retention.sweep_all(self.batch_id)
        self.batch_id += 1
        return emitted

    def _of_shard(self, chunks: Sequence[KeyedChunk], shard: int) -> list[KeyedChunk]:
        firsts = np.array([one[0].first_hash for one in shards_of(self.list.slices, self.shards)], np.uint64)
        cut = [dict(chunks_by_shard(chunk, firsts)) for chunk in chunks]
        return [lifted(self.update, of_shards[shard]) for of_shards in cut if shard in of_shards]


def pairs(keys: Sequence[Any], value: Callable[[Any], Any]) -> tuple[list[Any], list[Any]]:
    """Gathered pairs."""
    return list(keys), [value(key) for key in keys]
