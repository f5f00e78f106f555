"""Which shard of a sink a row is of. Pure, but for who begins to take turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from beam_exactly_once.randomness import RANDOM
from beam_exactly_once.rows.digests import row_bytes


def shards_by_content(batch: pa.RecordBatch, shards: int) -> pa.Array:
    """A shard for each row, by all its values: the same row has the same one in every attempt, on every worker."""
    return shards_by(row_bytes(batch).to_pylist(), shards)


def shards_by(keys: Iterable[bytes], shards: int) -> pa.Array:
    """A shard for each key. It must never change: a direct sink writes a batch again by it."""
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64)
    return pa.array(hashes % np.uint64(shards))


class Turns:
    """The shards one after the other, without end, from any of them on: bundles of one block use all of them, too."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._last = RANDOM.randrange(shards)

    def next(self) -> int:
        """Whose turn it is."""
        self._last = (self._last + 1) % self._shards
        return self._last


def by_shard(batch: pa.RecordBatch, shards: Any) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of ``batch``, each under its shard, in their order.

    Args:
        batch: the rows.
        shards: an Arrow array of each row's shard.
    """
    for shard in pc.unique(shards).to_pylist():
        yield shard, batch.filter(pc.equal(shards, shard))
