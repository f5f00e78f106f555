"""The graph of an operator with state.

    (key, value) ─▶ ToShards ─┐
    task ────────▶ SeedShards ┴▶ GroupByKey ─▶ UpdateShards ─▶ what it emits
                                                    └────────▶ StateChange, for the commit

Rows reach the worker of their shard in chunks, with their keys hashed: a step of Python a row is spared. Every shard gets a seed,
also without rows, so that each part of the state is there at the commit.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
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
from beam_exactly_once.state.bundle import StateBundle
from beam_exactly_once.state.cache import StateCache
from beam_exactly_once.state.keyed_chunk import KeyedChunk, chunks_by_shard, grouped_pairs
from beam_exactly_once.state.shard_seed import ShardSeed, shards_of
from beam_exactly_once.state.updates import Operator, Update
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.coders import JsonCoder, OneOfCoder, RecordBatchCoder
from beam_exactly_once.transforms.reports import RowsSent, gathered
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import refuse_two_attempts

MAX_CHUNK_ROWS = 1 << 14
"""Rows that a bundle gathers before it hashes and sends them."""
REPORTS = "reports"
"""Tag of what the commit gathers."""


class SentToShard(abc.ABC):  # noqa: B024 (a union with a name that Beam can have a coder for)
    """A :class:`ShardSeed` once, and :class:`KeyedChunk` of rows."""


class _SeedCoder(JsonCoder):
    value_type = ShardSeed


class _KeyedChunkCoder(beam.coders.Coder):
    """Keys as Arrow has them, values as Beam has values of any type. Never stored."""

    _keys = RecordBatchCoder()
    _values = FastPrimitivesCoder()

    def encode(self, value: KeyedChunk) -> bytes:
        """Keys, then values."""
        keys = self._keys.encode(pa.record_batch({"hash": pa.array(value.hashes), "key": value.keys}))
        rest = self._values.encode((value.rows_in, value.values))
        return len(keys).to_bytes(8, "little") + keys + bytes(rest)

    def decode(self, encoded: bytes) -> KeyedChunk:
        """The inverse of :meth:`encode`."""
        end = 8 + int.from_bytes(encoded[:8], "little")
        batch = self._keys.decode(encoded[8:end])
        rows_in, values = self._values.decode(encoded[end:])
        return KeyedChunk(batch.column("hash").to_numpy(), batch.column("key"), values, rows_in)

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


class SeedShards(StatelessDoFn):
    """Tells every shard on what it stands."""

    def __init__(self, operator: str, shards: int) -> None:
        self._operator = operator
        self._shards = shards

    def process(self, task: BatchTask) -> Iterator[tuple[int, ShardSeed]]:
        """One seed a shard."""
        of_operator = task.operators[self._operator]
        for number, slices in enumerate(shards_of(of_operator.base.slices, self._shards)):
            yield (
                number,
                ShardSeed(
                    task.stream_id,
                    task.attempt,
                    of_operator.hash_seed,
                    slices,
                    of_operator.base.fired_ms,
                    of_operator.fires_to_ms,
                ),
            )


class ToShards(StatelessDoFn):
    """Gathers rows, and sends them on by the hash of their keys; reports how many."""

    def __init__(self, operator: str, update: Operator, shards: int) -> None:
        self._operator = operator
        self._update = update
        self._shards = shards

    def start_bundle(self) -> None:
        """Forget what a failed bundle left."""
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._rows = 0
        self._task: BatchTask | None = None

    def process(self, pair: tuple[Any, Any], task: BatchTask) -> Iterator[tuple[int, KeyedChunk]] | None:
        """Keep it; send a chunk when there are enough."""
        key, value = pair
        self._keys.append(key)
        self._values.append(value)
        self._task = task
        return self._send() if len(self._keys) >= MAX_CHUNK_ROWS else None

    def finish_bundle(self) -> Iterator[Any]:
        """Send the rest, and say how many rows there were."""
        if self._task is None:
            return
        for sent in self._send():
            yield GlobalWindows.windowed_value(sent, MIN_TIMESTAMP)
        report = gathered(RowsSent(self._operator, self._rows))
        yield beam.pvalue.TaggedOutput(REPORTS, GlobalWindows.windowed_value(report, MIN_TIMESTAMP))

    def _send(self) -> Iterator[tuple[int, KeyedChunk]]:
        assert self._task is not None
        keys, values, self._keys, self._values = self._keys, self._values, [], []
        self._rows += len(keys)
        if not keys:
            return
        of_operator = self._task.operators[self._operator]
        groups = grouped_pairs(keys, values, of_operator.hash_seed, self._operator)
        firsts = [shard[0].first_hash for shard in shards_of(of_operator.base.slices, self._shards)]
        yield from chunks_by_shard(groups, self._update.lifted, np.array(firsts, np.uint64))


class ChangeShards(StatelessDoFn, abc.ABC):
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
        chunks: list[KeyedChunk] = []
        for sent in of_shard[1]:
            (seeds if isinstance(sent, ShardSeed) else chunks).append(sent)
        if len(seeds) != 1:
            raise IncompleteBatch(
                f"the runner gave shard {of_shard[0]} of operator {self._operator!r} {len(seeds)} seeds. Nothing was committed, "
                "and nothing is lost: start again to replay the batch."
            )
        (seed,) = seeds
        if self._bundle is None:
            self._bundle = self._opened(seed)
        refuse_two_attempts(self._bundle.attempt, seed.attempt)
        return self._emitted(self._bundle, seed, chunks)

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
