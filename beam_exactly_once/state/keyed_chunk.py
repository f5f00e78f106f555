"""``KeyedChunk``: rows of one shard on their way to its worker, their keys encoded and hashed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.hashing import Hashes, hash_keys
from beam_exactly_once.state.keys import encode_keys
from beam_exactly_once.state.ordering import order_of
from beam_exactly_once.state.run import empty_values


@dataclass(frozen=True, slots=True, eq=False)
class KeyedChunk:
    """Different keys in the order of their hashes, and the values of each; ``rows_in`` rows made them."""

    hashes: Hashes
    keys: pa.LargeBinaryArray
    values: list[list[Any]]
    rows_in: int


def grouped_pairs(keys: Sequence[Any], values: Sequence[Any], hash_seed: str, operator: str) -> KeyedChunk:
    """Pairs as users have them, the values of each key together in the order in which they came.

    Raises:
        UnfitRow: a key is of a type that cannot be one.
    """
    encoded = encode_keys(keys, operator=operator)
    hashes = hash_keys(encoded, bytes.fromhex(hash_seed))
    return _grouped(hashes, encoded, [[value] for value in values], len(keys))


def joined_chunks(chunks: Sequence[KeyedChunk]) -> KeyedChunk:
    """Several chunks as one."""
    if len(chunks) == 1:
        return chunks[0]
    return _grouped(
        np.concatenate([chunk.hashes for chunk in chunks]),
        pa.concat_arrays([chunk.keys for chunk in chunks]),
        list(chain.from_iterable(chunk.values for chunk in chunks)),
        sum(chunk.rows_in for chunk in chunks),
    )


def _grouped(hashes: Hashes, keys: pa.LargeBinaryArray, values: Sequence[list[Any]], rows_in: int) -> KeyedChunk:
    order, repeats = order_of(hashes, keys, empty_values(len(keys)))
    rows = order.tolist()
    if not repeats.any():
        return KeyedChunk(hashes[order], keys.take(pa.array(order)), [values[row] for row in rows], rows_in)
    starts = np.flatnonzero(~repeats)
    bounds = [*starts.tolist(), len(rows)]
    firsts = order[starts]
    groups = [
        values[rows[start]] if stop == start + 1 else [one for row in rows[start:stop] for one in values[row]]
        for start, stop in pairwise(bounds)
    ]
    return KeyedChunk(hashes[firsts], keys.take(pa.array(firsts)), groups, rows_in)


def chunks_by_shard(
    chunk: KeyedChunk, lifted: Callable[[list[Any]], list[Any]], first_hashes: Hashes
) -> Iterator[tuple[int, KeyedChunk]]:
    """A chunk cut where a shard ends.

    Args:
        chunk: of all shards.
        lifted: what travels in the place of the values of a key.
        first_hashes: of the shards, in order.
    """
    bounds = [*np.searchsorted(chunk.hashes, first_hashes).tolist(), len(chunk.hashes)]
    for shard, (start, stop) in enumerate(pairwise(bounds)):
        if stop > start:
            values = chunk.values[start:stop]
            # A copy of the keys: a slice would travel with all of its parent.
            keys = chunk.keys.take(pa.array(np.arange(start, stop)))
            yield shard, KeyedChunk(chunk.hashes[start:stop], keys, list(map(lifted, values)), sum(map(len, values)))
