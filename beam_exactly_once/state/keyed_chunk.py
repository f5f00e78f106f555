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
from beam_exactly_once.state.keys import repeating
from beam_exactly_once.state.ordering import Flags, order_of
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
    times_ms: Numbers | None = None
    """When the latest row of each key happened, where that matters."""
    size_bytes: int = 0
    """As it came from another worker, encoded."""

    @property
    def groups(self) -> list[list[Any]]:
        """The values of each key."""
        bounds = [0, *np.cumsum(self.counts).tolist()]
        return [self.values[start:stop] for start, stop in pairwise(bounds)]

    @property
    def has_one_each(self) -> bool:
        """Whether each key has one value."""
        return len(self.values) == len(self.hashes)

    def lifted(self, lift: Callable[[list[Any]], Any]) -> KeyedChunk:
        """The same with the one value that ``lift`` makes of those of each key."""
        return replace(self, values=list(map(lift, self.groups)), counts=np.ones(len(self.hashes), np.int64))

    def only(self, flags: Flags) -> KeyedChunk:
        """The same with these keys alone."""
        at = np.flatnonzero(flags)
        taken = pa.array(at)
        groups = self.groups if self.values else []
        counts = self.counts[at]
        return KeyedChunk(
            self.hashes[at],
            self.keys.take(taken),
            int(counts.sum()),
            counts,
            [value for place in at.tolist() for value in groups[place]] if groups else [],
            tuple(column[at] for column in self.columns),
            None if self.shown_keys is None else self.shown_keys.take(taken),
            None if self.times_ms is None else self.times_ms[at],
        )

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
    keys: pa.LargeBinaryArray | pa.DictionaryArray,
    hash_seed: str,
    *,
    values: Callable[[], list[Any]],
    columns: Columns | None = None,
    folds: Folds | None = None,
    shown_keys: pa.RecordBatch | None = None,
    hashes: Hashes | None = None,
    times_ms: Numbers | None = None,
) -> KeyedChunk:
    """Rows in any order, the values of each key together in the order in which they came.

    Args:
        keys: encoded, one a row, or a dictionary of different ones.
        hash_seed: of the operator.
        values: one a row; called if they are needed.
        columns: one accumulator a row, if there are such.
        folds: makes one accumulator of many.
        shown_keys: the keys as they came, if they came in Arrow.
        hashes: one a row, where they are not those of the whole keys.
        times_ms: when each row happened, where that matters.
    """
    keys = repeating(keys) if hashes is None else keys
    each, of_row = (keys.dictionary, keys.indices.to_numpy()) if pa.types.is_dictionary(keys.type) else (keys, None)
    by_key = _ByKey.of(hash_keys(each, bytes.fromhex(hash_seed)) if hashes is None else hashes, each)
    count, places = len(by_key.firsts), by_key.places if of_row is None else by_key.places[of_row]
    if shown_keys is not None:
        shown_keys = shown_keys.take(pa.array(by_key.firsts if of_row is None else _firsts(places, count)))
    counts = np.bincount(places, minlength=count)
    latest_ms = None if times_ms is None else _latest(times_ms, places, count)
    chunk = KeyedChunk(by_key.hashes, by_key.keys, len(keys), counts, [], (), shown_keys, latest_ms)
    folded = folds.reduced(columns, places, count) if columns and folds else None
    if folded is not None:
        return replace(chunk, columns=folded)
    rows, order = values(), by_key.order if of_row is None else np.argsort(places, kind="stable")
    return replace(chunk, values=[rows[row] for row in order.tolist()])


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
                    None if chunk.times_ms is None else chunk.times_ms[start:stop],
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
    times = [chunk.times_ms for chunk in chunks if chunk.times_ms is not None]
    return KeyedChunk(
        np.concatenate([chunk.hashes for chunk in chunks]),
        pa.concat_arrays([chunk.keys for chunk in chunks]),
        sum(chunk.rows_in for chunk in chunks),
        np.concatenate([chunk.counts for chunk in chunks]),
        list(chain.from_iterable(chunk.values for chunk in chunks)),
        tuple(map(np.concatenate, zip(*(chunk.columns for chunk in chunks), strict=True))),
        whole_batch(shown) if shown else None,
        np.concatenate(times) if times else None,
    )


class _ByKey(NamedTuple):
    """Entries, of which some may have one key."""

    order: Numbers
    """The entries by key, those of one key as they came."""
    places: Numbers
    """The place of the key of each entry."""
    firsts: Numbers
    """The first entry of each key."""
    hashes: Hashes
    keys: pa.LargeBinaryArray
    """Different ones, in order."""

    @classmethod
    def of(cls, hashes: Hashes, keys: pa.LargeBinaryArray) -> _ByKey:
        order, repeats = order_of(hashes, keys, empty_values(len(keys)))
        places = np.empty(len(order), np.int64)
        places[order] = np.cumsum(~repeats) - 1
        firsts = order[~repeats]
        return cls(order, places, firsts, hashes[firsts], keys.take(pa.array(firsts)))


def _one_a_key(entries: KeyedChunk, by_key: _ByKey) -> KeyedChunk:
    """The keys of entries, without values."""
    counts = np.zeros(len(by_key.firsts), np.int64)
    np.add.at(counts, by_key.places, entries.counts)
    shown = None if entries.shown_keys is None else entries.shown_keys.take(pa.array(by_key.firsts))
    latest_ms = None if entries.times_ms is None else _latest(entries.times_ms, by_key.places, len(counts))
    return KeyedChunk(by_key.hashes, by_key.keys, entries.rows_in, counts, [], (), shown, latest_ms)


def _folded(entries: KeyedChunk, folds: Folds) -> KeyedChunk | None:
    """Entries in any order, of which some may have one key, with one accumulator a key; None if numbers are too large."""
    by_key = _ByKey.of(entries.hashes, entries.keys)
    columns = folds.reduced(entries.columns, by_key.places, len(by_key.firsts))
    return None if columns is None else replace(_one_a_key(entries, by_key), columns=columns)


def _grouped(entries: KeyedChunk) -> KeyedChunk:
    """Entries in any order, of which some may have one key, with all values of a key together."""
    by_key = _ByKey.of(entries.hashes, entries.keys)
    counts, values = entries.counts[by_key.order], entries.values
    first_rows = (np.cumsum(entries.counts) - entries.counts)[by_key.order]
    rows = np.arange(len(values)) + np.repeat(first_rows - np.cumsum(counts) + counts, counts)
    return replace(_one_a_key(entries, by_key), values=[values[row] for row in rows.tolist()])


def _latest(times_ms: Numbers, places: Numbers, count: int) -> Numbers:
    """The latest time at each place."""
    latest_ms = np.full(count, np.iinfo(np.int64).min)
    np.maximum.at(latest_ms, places, times_ms)
    return latest_ms


def _firsts(places: Numbers, count: int) -> Numbers:
    """The first row of each place."""
    firsts = np.empty(count, np.int64)
    firsts[places[::-1]] = np.arange(len(places) - 1, -1, -1)
    return firsts
