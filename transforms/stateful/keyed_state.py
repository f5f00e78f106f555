"""The graph of an operator with state.

    (key, value) ─▶ GatherPairs ─▶ ToShards ─┐
    task ───────────────────────▶ SeedShards ┴▶ GroupByKey ─▶ UpdateShards ─▶ what it emits
                                                                   └────────▶ StateChange, for the commit

Rows reach the worker of their shard in chunks, with their keys hashed: a step of Python a row is spared. Every shard gets a seed,
also without rows, so that each part of the state is there at the commit.
"""

from __future__ import annotations

import abc
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.coders import FastPrimitivesCoder
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.errors import IncompleteBatch
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.rows.columns import whole_batch
from beam_exactly_once.state.arrow_rows import ArrowRows
from beam_exactly_once.state.bundle import StateBundle
from beam_exactly_once.state.garbage import no_collection
from beam_exactly_once.state.keyed_chunk import KeyedChunk, chunks_by_shard
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.shard_seed import OperatorTask, ShardSeed, shards_of
from beam_exactly_once.state.state_list import Slice
from beam_exactly_once.state.updates import Operator, Update, combine_fn_of, grouped, lifted
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.coders import JsonCoder, OneOfCoder, RecordBatchCoder
from beam_exactly_once.transforms.reports import RowsSent, gathered
from beam_exactly_once.transforms.stateful.waiting_rows import WaitingRows
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import refuse_two_attempts

MAX_CHUNK_ROWS = 1 << 16
"""Rows that a bundle gathers before it hashes and sends them."""
MAX_CHUNK_BYTES = 32 << 20
"""How large these may be, judged by one in :data:`SAMPLED_ROWS`."""
SAMPLED_ROWS = 1 << 10
MAX_UNDIVIDED_OFFSETS = 1 << 17
"""A worker that is alone takes a batch of up to so many offsets as one shard, whose rows are in memory at once."""
REPORTS = "reports"
"""Tag of what the commit gathers."""


class SentToShard(abc.ABC):  # noqa: B024 (a union with a name that Beam can have a coder for)
    """A :class:`ShardSeed` once, and :class:`KeyedChunk` of rows."""


class _SeedCoder(JsonCoder):
    value_type = ShardSeed


class _KeyedChunkCoder(beam.coders.Coder):
    """Keys and numbers as Arrow has them, values as Beam has values of any type. Never stored."""

    _columns = RecordBatchCoder()
    _values = FastPrimitivesCoder()
    _KEY, _NUMBER = "key.", "number."
    """What names of columns begin with."""

    def encode(self, value: KeyedChunk) -> bytes:
        """Columns, then values."""
        columns = {"hash": pa.array(value.hashes), "key": value.keys, "count": pa.array(value.counts)}
        columns |= {f"{self._NUMBER}{place}": pa.array(column) for place, column in enumerate(value.columns)}
        if value.times_ms is not None:
            columns["time"] = pa.array(value.times_ms)
        if value.shown_keys is not None:
            shown = zip(value.shown_keys.schema.names, value.shown_keys.columns, strict=True)
            columns |= {f"{self._KEY}{name}": column for name, column in shown}
        encoded = self._columns.encode(pa.record_batch(columns))
        return b"".join(
            (len(encoded).to_bytes(8, "little"), encoded, self._values.encode((value.rows_in, value.values)))
        )

    def decode(self, encoded: bytes) -> KeyedChunk:
        """The inverse of :meth:`encode`."""
        end = 8 + int.from_bytes(encoded[:8], "little")
        batch = self._columns.decode(encoded[8:end])
        with no_collection():
            rows_in, values = self._values.decode(encoded[end:])
        names = batch.schema.names
        numbers = tuple(batch.column(name).to_numpy() for name in names if name.startswith(self._NUMBER))
        keys = {name.removeprefix(self._KEY): batch.column(name) for name in names if name.startswith(self._KEY)}
        shown = pa.RecordBatch.from_arrays(list(keys.values()), names=list(keys)) if keys else None
        hashes, counts = (batch.column(name).to_numpy() for name in ("hash", "count"))
        times_ms = batch.column("time").to_numpy() if "time" in names else None
        return KeyedChunk(
            hashes, batch.column("key"), rows_in, counts, values, numbers, shown, times_ms, size_bytes=len(encoded)
        )

    def is_deterministic(self) -> bool:
        """Nobody groups by a chunk."""
        return False

    def to_type_hint(self) -> type[KeyedChunk]:
        """Chunks are what this encodes."""
        return KeyedChunk


class _SentCoder(OneOfCoder):
    value_type = SentToShard
    members = ((ShardSeed, _SeedCoder()), (KeyedChunk, _KeyedChunkCoder()))


SentToShard.register(ShardSeed)
SentToShard.register(KeyedChunk)
beam.coders.registry.register_coder(SentToShard, _SentCoder)


def _shards_of(of_operator: OperatorTask, task: BatchTask, shards: int) -> list[tuple[Slice, ...]]:
    """The slices of each shard of a batch. One worker gains nothing by many, unless their rows are more than it should hold."""
    ranges = {} if task.plan is None else task.plan.ranges
    offsets = sum(one.size for of_source in ranges.values() for one in of_source)
    is_whole = task.workers == 1 and offsets <= MAX_UNDIVIDED_OFFSETS
    return shards_of(of_operator.base.slices, 1 if is_whole else shards)


class SeedShards(StatelessDoFn):
    """Tells every shard on what it stands."""

    def __init__(self, operator: str, shards: int) -> None:
        self._operator = operator
        self._shards = shards

    def process(self, task: BatchTask) -> Iterator[tuple[int, ShardSeed]]:
        """One seed a shard."""
        of_operator = task.operators[self._operator]
        for number, slices in enumerate(_shards_of(of_operator, task, self._shards)):
            yield (
                number,
                ShardSeed(
                    task.stream_id,
                    task.attempt,
                    of_operator.hash_seed,
                    slices,
                    of_operator.base.fired_ms,
                    of_operator.fires_to_ms,
                    of_operator.now_ms,
                ),
            )


class GatherPairs(StatelessDoFn):
    """Gathers pairs, for ToShards: it runs for every record, so it takes nothing else."""

    _coder = FastPrimitivesCoder()

    def start_bundle(self) -> None:
        """Forget what a failed bundle left."""
        self._pairs: list[tuple[Any, Any]] = []
        self._look_at = 1
        """When there are so many, it is looked how large they are."""
        self._looked_at = self._size_bytes = 0

    def process(self, pair: tuple[Any, Any]) -> list[Any] | None:
        """Keep it; give all when there are enough."""
        pairs = self._pairs
        pairs.append(pair)
        return [self._all()] if len(pairs) >= self._look_at and self._are_enough() else None

    def _are_enough(self) -> bool:
        """Whether they are many or large; those that came since the last look are as large as the newest."""
        pairs = self._pairs
        newest_bytes = self._size_of(pairs[-1])
        self._size_bytes += newest_bytes * (len(pairs) - self._looked_at)
        if len(pairs) >= MAX_CHUNK_ROWS or self._size_bytes >= MAX_CHUNK_BYTES:
            return True
        self._looked_at = len(pairs)
        room = (MAX_CHUNK_BYTES - self._size_bytes) // newest_bytes + 1
        self._look_at = min(len(pairs) + min(room, SAMPLED_ROWS), MAX_CHUNK_ROWS)
        return False

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Give the rest."""
        if self._pairs:
            yield GlobalWindows.windowed_value(self._all(), MIN_TIMESTAMP)

    def _size_of(self, pair: tuple[Any, Any]) -> int:
        try:
            return len(self._coder.encode(pair))
        except Exception:  # what is combined where it is need not travel
            return sys.getsizeof(pair[1])

    def _all(self) -> tuple[list[Any], list[Any]]:
        pairs, self._pairs = self._pairs, []
        self._look_at, self._looked_at, self._size_bytes = 1, 0, 0
        return [key for key, _ in pairs], [value for _, value in pairs]


class GatherBatches(StatelessDoFn):
    """Gathers small batches of Arrow of one schema, for ToShards, without columns that nobody reads."""

    def __init__(self, arrow: ArrowRows) -> None:
        self._arrow = arrow

    def start_bundle(self) -> None:
        """Forget what a failed bundle left."""
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._size_bytes = 0

    def process(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Keep it; give all when there are enough, or one with another schema comes."""
        if not isinstance(batch, pa.RecordBatch):
            return [*self._all(), batch]  # which is refused
        batch = self._arrow.needed(batch)
        given = self._all() if self._batches and self._batches[0].schema != batch.schema else []
        if batch.num_rows:
            self._batches.append(batch)
            self._rows += batch.num_rows
            self._size_bytes += batch.nbytes
        is_enough = self._rows >= MAX_CHUNK_ROWS or self._size_bytes >= MAX_CHUNK_BYTES
        return [*given, *self._all()] if is_enough else given

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Give the rest."""
        for batch in self._all():
            yield GlobalWindows.windowed_value(batch, MIN_TIMESTAMP)

    def _all(self) -> list[pa.RecordBatch]:
        batches, self._batches, self._rows, self._size_bytes = self._batches, [], 0, 0
        return [whole_batch(batches)] if batches else []


class OperatorDoFn(StatelessDoFn):
    """Sets up the ``CombineFn`` of its operator before the first bundle, and tears it down in the end, as Beam does."""

    _update: Any = None

    def setup(self) -> None:
        """Of the worker's own copy."""
        fn = combine_fn_of(self._update)
        if fn is not None:
            fn.setup()

    def teardown(self) -> None:
        """The inverse of :meth:`setup`."""
        fn = combine_fn_of(self._update)
        if fn is not None:
            fn.teardown()


class ToShards(OperatorDoFn):
    """Sends gathered rows on by the hash of their keys; reports how many."""

    def __init__(self, operator: str, update: Operator, shards: int) -> None:
        self._operator = operator
        self._update = update
        self._shards = shards

    def start_bundle(self) -> None:
        """Forget what a failed bundle left."""
        self._rows: int | None = None
        self._rows_late = 0

    def process(self, rows: Any, task: BatchTask) -> Iterator[tuple[int, KeyedChunk]]:
        """Hash and group them, cut where shards end."""
        of_operator = task.operators[self._operator]
        chunk = grouped(self._update, rows, of_operator.hash_seed, self._operator)
        in_time = self._update.in_time(chunk, of_operator.base.fired_ms)
        self._rows_late += chunk.rows_in - in_time.rows_in
        yield from self._sent(in_time, task)

    def _sent(self, chunk: KeyedChunk, task: BatchTask) -> Iterator[tuple[int, KeyedChunk]]:
        self._rows = (self._rows or 0) + chunk.rows_in
        shards = _shards_of(task.operators[self._operator], task, self._shards)
        firsts = [shard[0].first_hash for shard in shards]
        for shard, cut in chunks_by_shard(chunk, np.array(firsts, np.uint64)):
            yield shard, lifted(self._update, cut)

    def finish_bundle(self) -> Iterator[Any]:
        """Say how many rows there were."""
        if self._rows is not None:
            report = gathered(RowsSent(self._operator, self._rows, self._rows_late))
            yield beam.pvalue.TaggedOutput(REPORTS, GlobalWindows.windowed_value(report, MIN_TIMESTAMP))


class ChangeShards(OperatorDoFn, abc.ABC):
    """Changes the state of shards; at the end of the bundle, one object and one report."""

    def __init__(self, operator: str, checkpoint: StoreLocation, cache: StateCache) -> None:
        self._operator = operator
        self._checkpoint = checkpoint
        self._cache = cache
        self._bundle: StateBundle[Operator] | None = None

    @abc.abstractmethod
    def _opened(self, seed: ShardSeed) -> StateBundle[Operator]:
        """A bundle for the attempt of ``seed``."""

    @abc.abstractmethod
    def _emitted(self, bundle: Any, seed: ShardSeed, chunks: list[KeyedChunk]) -> Iterable[Any]:
        """What a shard emits."""

    def start_bundle(self) -> None:
        """Forget what a failed bundle left; its object stays for the sweep."""
        self._bundle = None

    def process(self, of_shard: tuple[int, Iterable[Any]]) -> Iterable[Any]:
        """Change one shard, and emit what the operator says."""
        seeds: list[ShardSeed] = []
        rows = WaitingRows(self._cache, _KeyedChunkCoder())
        for sent in of_shard[1]:
            if isinstance(sent, ShardSeed):
                seeds.append(sent)
            else:
                rows.add(sent)
        if len(seeds) != 1:
            raise IncompleteBatch(
                f"the runner gave shard {of_shard[0]} of operator {self._operator!r} {len(seeds)} seeds. Nothing was committed, "
                "and nothing is lost: start again to replay the batch."
            )
        (seed,) = seeds
        if self._bundle is None:
            self._bundle = self._opened(seed)
        refuse_two_attempts(self._bundle.attempt, seed.attempt)
        return self._in_turns(seed, rows) if rows.are_on_disk else self._emitted(self._bundle, seed, rows.in_memory)

    def _in_turns(self, seed: ShardSeed, rows: WaitingRows) -> Iterator[Any]:
        bundle = self._bundle
        for one, chunks in rows.turns(seed.slices):
            yield from self._emitted(bundle, replace(seed, slices=(one,)), chunks)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Write the object."""
        bundle, self._bundle = self._bundle, None
        if bundle is not None:
            report = gathered(bundle.finish())
            yield beam.pvalue.TaggedOutput(REPORTS, GlobalWindows.windowed_value(report, MIN_TIMESTAMP))


class UpdateShards(ChangeShards):
    """Updates the states of all keys of a shard at once."""

    def __init__(self, operator: str, update: Update, checkpoint: StoreLocation, cache: StateCache) -> None:
        super().__init__(operator, checkpoint, cache)
        self._update = update

    def _opened(self, seed: ShardSeed) -> StateBundle[Update]:
        return StateBundle(self._operator, self._update, self._checkpoint.store, self._cache, seed)

    def _emitted(self, bundle: StateBundle[Update], seed: ShardSeed, chunks: list[KeyedChunk]) -> Iterable[Any]:
        return bundle.update(seed, chunks)
