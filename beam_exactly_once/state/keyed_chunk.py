"""``KeyedChunk``: rows of one shard on their way to its worker, their keys encoded and hashed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.columns import whole_batch
from beam_exactly_once.state.columns.folds import Columns, Folds
from beam_exactly_once.state.hashing import Hashes, Numbers, hash_keys
from beam_exactly_once.state.ordering import order_of
from beam_exactly_once.state.run import empty_values


@dataclass(frozen=True, slots=True, eq=False)
class KeyedChunk:
    """Different keys in the order of their hashes, with the values of each, or with one accumulator of numbers of each."""

    hashes: Hashes
    keys: pa.LargeBinaryArray
    rows_in: int
    """Rows that made it."""
    counts: Numbers
    """How many values each key has, or how many rows made its accumulator."""
    values: list[Any]
    """Those of the first key, then those of the second, …: a list for each key would cost more than all the rest."""
    columns: Columns = ()
    """Accumulators; then there are no values."""
    shown_keys: pa.RecordBatch | None = None
    """The keys as they came, where they came in Arrow."""

    @property
    def groups(self) -> list[list[Any]]:
        """The values of each key."""
        bounds = [0, *np.cumsum(self.counts).tolist()]
        return [self.values[start:stop] for start, stop in pairwise(bounds)]

    def lifted(self, lift: Callable[[list[Any]], list[Any]]) -> KeyedChunk:
        """The same with what ``lift`` makes of the values of each key."""
        groups = list(map(lift, self.groups))
        counts = np.fromiter(map(len, groups), np.int64, len(groups))
        return replace(self, values=list(chain.from_iterable(groups)), counts=counts)

    def value_by_value(self, folds: Folds | None) -> KeyedChunk:
        """The same with accumulators as a ``CombineFn`` has them."""
        if folds is None or not self.columns:
            return self
        ones = np.ones(len(self.hashes), np.int64)
        return replace(self, values=folds.accumulators(self.columns), columns=(), counts=ones)


class Sorted(NamedTuple):
    """Rows on their way to an operator that goes by event time."""

    chunk: KeyedChunk
    """Those that are in time."""
    late_rows: Numbers
    """Which rows are not."""


def grouped_rows(
    keys: pa.LargeBinaryArray,
    hash_seed: str,
    *,
    values: Callable[[], list[Any]],
    columns: Columns | None = None,
    folds: Folds | None = None,
    shown_keys: pa.RecordBatch | None = None,
    hashes: Hashes | None = None,
) -> KeyedChunk:
    """Rows in any order, the values of each key together in the order in which they came.

    Args:
        keys: encoded.
        hash_seed: of the operator.
        values: one a row; called if they are needed.
        columns: one accumulator a row, if there are such.
        folds: makes one accumulator of many.
        shown_keys: the keys as they came, if they came in Arrow.
        hashes: of the keys, where they are those of a part of them.
    """
    hashes = hash_keys(keys, bytes.fromhex(hash_seed)) if hashes is None else hashes
    entries = KeyedChunk(hashes, keys, len(keys), np.ones(len(keys), np.int64), [], (), shown_keys)
    found = None
    if columns and folds:
        found = _folded(replace(entries, columns=columns), folds)
    return found or _grouped(replace(entries, values=values()))


def joined_chunks(chunks: Sequence[KeyedChunk], folds: Folds | None = None) -> KeyedChunk:
    """Several chunks as one."""
    if len(chunks) == 1:
        return chunks[0]
    if folds is not None and all(chunk.columns for chunk in chunks):
        types = {tuple(column.dtype for column in chunk.columns) for chunk in chunks}
        found = _folded(_behind_each_other(chunks), folds) if len(types) == 1 else None
        if found is not None:
            return found
    return _grouped(_behind_each_other([chunk.value_by_value(folds) for chunk in chunks]))


def chunks_by_shard(chunk: KeyedChunk, first_hashes: Hashes) -> Iterator[tuple[int, KeyedChunk]]:
    """A chunk cut where a shard ends.

    Args:
        chunk: of all shards; not lifted.
        first_hashes: of the shards, in order.
    """
    bounds = [*np.searchsorted(chunk.hashes, first_hashes).tolist(), len(chunk.hashes)]
    ends = [0, *np.cumsum(chunk.counts).tolist()]
    for shard, (start, stop) in enumerate(pairwise(bounds)):
        if stop > start:
            at = pa.array(np.arange(start, stop))  # a copy: a slice would travel with all of its parent
            yield (
                shard,
                KeyedChunk(
                    chunk.hashes[start:stop],
                    chunk.keys.take(at),
                    ends[stop] - ends[start],
                    chunk.counts[start:stop],
                    chunk.values[ends[start] : ends[stop]],
                    tuple(column[start:stop] for column in chunk.columns),
                    None if chunk.shown_keys is None else chunk.shown_keys.take(at),
                ),
            )


def _behind_each_other(chunks: Sequence[KeyedChunk]) -> KeyedChunk:
    """
    Raises:
        UnfitRow: a key column is of one type in one chunk and of another one in another, so that no batch can show both.
    """
    shown = [chunk.shown_keys for chunk in chunks if chunk.shown_keys is not None]
    for one, other in pairwise(shown):
        for field, other_field in zip(one.schema, other.schema, strict=True):
            if field.type != other_field.type:
                raise UnfitRow(
                    f"key column {field.name!r} is of type {field.type} in one batch and of type {other_field.type} in another. "
                    "Cast it before the step."
                )
    return KeyedChunk(
        np.concatenate([chunk.hashes for chunk in chunks]),
        pa.concat_arrays([chunk.keys for chunk in chunks]),
        sum(chunk.rows_in for chunk in chunks),
        np.concatenate([chunk.counts for chunk in chunks]),
        list(chain.from_iterable(chunk.values for chunk in chunks)),
        tuple(map(np.concatenate, zip(*(chunk.columns for chunk in chunks), strict=True))),
        whole_batch(shown) if shown else None,
    )


def _folded(entries: KeyedChunk, folds: Folds) -> KeyedChunk | None:
    """Entries in any order, of which some may have one key, with one accumulator a key; None if numbers are too large."""
    order, starts, firsts = _order(entries)
    columns = folds.reduced(tuple(column[order] for column in entries.columns), starts)
    if columns is None:
        return None
    return replace(firsts, counts=np.add.reduceat(entries.counts[order], starts), columns=columns)


def _grouped(entries: KeyedChunk) -> KeyedChunk:
    """Entries in any order, of which some may have one key, with all values of a key together."""
    order, starts, firsts = _order(entries)
    counts, values = entries.counts[order], entries.values
    rows = order
    if len(values) != len(order) or not (counts == 1).all():
        first_rows = (np.cumsum(entries.counts) - entries.counts)[order]
        rows = np.arange(len(values)) + np.repeat(first_rows - np.cumsum(counts) + counts, counts)
    return replace(firsts, counts=np.add.reduceat(counts, starts), values=[values[row] for row in rows.tolist()])


def _order(entries: KeyedChunk) -> tuple[Numbers, Numbers, KeyedChunk]:
    """The entries in order, where in it each key begins, and a chunk of the keys."""
    order, repeats = order_of(entries.hashes, entries.keys, empty_values(len(entries.keys)))
    starts = np.flatnonzero(~repeats)
    firsts = order[starts]
    at = pa.array(firsts)
    shown = None if entries.shown_keys is None else entries.shown_keys.take(at)
    keys = entries.keys.take(at)
    return order, starts, replace(entries, hashes=entries.hashes[firsts], keys=keys, shown_keys=shown)
