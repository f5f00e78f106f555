"""One operator without Beam: its bundles, the check at the commit, markers and sweeps are the real ones, batch after batch."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker, StreamWriter
from beam_exactly_once.checkpoint.retention import Retention
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.randomness import new_token
from beam_exactly_once.state.bundle import StateBundle
from beam_exactly_once.state.keyed_chunk import KeyedChunk, chunks_by_shard
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.shard_seed import ShardSeed, shards_of
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.updates import grouped, lifted
from beam_exactly_once.state.upkeep.sweeping import sweep_state
from beam_exactly_once.state.windows.bundle import WindowBundle
from beam_exactly_once.state.windows.operator import WindowResult
from beam_exactly_once.state.windows.slide_bundle import SlideBundle

OPERATOR = "counts"
SHARDS = 1  # as in a stream on one worker


class StateMachine:
    """Batches of one operator, each of one bundle.

    Args:
        update: what it does.
        store: the checkpoint location.
        cache: of the machine.
        slices: of the state.
        retain_batches: markers that stay.
    """

    bundle: type[StateBundle[Any]] = StateBundle

    def __init__(
        self, update: Any, store: ObjectStore, cache: StateCache, *, slices: int = 16, retain_batches: int = 100
    ) -> None:
        self.update = update
        self.store = store
        self.cache = cache
        self.checkpoint = Checkpoint.open(store)
        self.writer = StreamWriter.claim(self.checkpoint, owner="benchmark", claimed_at_ms=0)
        self.hash_seed = bytes(range(16)).hex()
        self.list = StateList.empty(slices=slices)
        self.batch_id = 0
        self.spent_s: Counter[str] = Counter()
        """CPU time, by what was done."""
        self.rows = Counter[str]()
        """What the batches changed, and what was written for it."""
        self._retain_batches = retain_batches
        self._retention = Retention(self.checkpoint, retain_batches)

    def run(self, rows: Any, now_ms: int = 0) -> None:
        """One batch."""
        attempt = Attempt(self.writer.writer_epoch, self.batch_id, new_token())
        shards = shards_of(self.list.slices, SHARDS)
        with self._timed("group"):
            chunk = self._grouped(rows)
            firsts = np.array([one[0].first_hash for one in shards], np.uint64)
            of_shards = {number: lifted(self.update, one) for number, one in chunks_by_shard(chunk, firsts)}
        stands_on = self.checkpoint.stream_id, attempt, self.hash_seed
        seeds = [ShardSeed(*stands_on, slices, self.list.fired_ms, now_ms, now_ms) for slices in shards]
        bundle = self.bundle(OPERATOR, self.update, self.store, self.cache, seeds[0])
        with self._timed("update"):
            for number, seed in enumerate(seeds):
                self._change(bundle, seed, [of_shards.pop(number)] if number in of_shards else [])
        keys, rows_sent = len(chunk.hashes), chunk.rows_in
        del chunk, rows  # of a stream, they are gone by then as well
        with self._timed("finish"):
            change = bundle.finish()
        self.rows["changed"] += keys
        self.rows["written"] += sum(one.section.rows for one in change.slices if one.section is not None)
        after = self.list.behind([change], operator=OPERATOR, attempt=attempt, fired_ms=now_ms, rows_sent=rows_sent)
        with self._timed("marker"):
            marker = Marker(self.batch_id, "committed", attempt, {}, {}, now_ms, state={OPERATOR: after.to_json()})
            decided = self.writer.create_marker(marker).record
            self.list = StateList.from_json(decided.state[OPERATOR])
        if self._retention.is_due(self.batch_id):
            with self._timed("sweep"):
                oldest = self.batch_id - self._retain_batches + 1
                sweep_state(self.writer, oldest_retained=oldest, newest={OPERATOR: self.list})
                self._retention.sweep_all(self.batch_id)
        self.batch_id += 1

    def _grouped(self, rows: Any) -> KeyedChunk:
        return grouped(self.update, rows, self.hash_seed, OPERATOR)

    def _change(self, bundle: Any, seed: ShardSeed, chunks: list[KeyedChunk]) -> None:
        bundle.update(seed, chunks)

    @property
    def references(self) -> int:
        """The most sections of one slice."""
        return max(len(one.sections) for one in self.list.slices)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began_s = time.process_time()
        yield
        self.spent_s[what] += time.process_time() - began_s


class SlideMachine(StateMachine):
    """Of a ``ReduceByKeyAndWindow``; keeps the results of a batch."""

    bundle = SlideBundle

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.results: list[WindowResult] = []

    def _grouped(self, rows: Any) -> KeyedChunk:
        self.results = []
        bounds = {"closed_ms": self.list.fired_ms, "latest_ms": 1 << 60}
        found = self.update.sorted_out(rows, hash_seed=self.hash_seed, operator=OPERATOR, **bounds)
        if len(found.late_rows):
            raise AssertionError("rows are late")
        return found.chunk

    def _change(self, bundle: Any, seed: ShardSeed, chunks: list[KeyedChunk]) -> None:
        for results in bundle.aggregate(seed, chunks):
            self.results += results


class WindowMachine(SlideMachine):
    """Of an ``AggregateByWindow`` of batches of Arrow; counts the rows that a batch gives, and keeps none."""

    bundle = WindowBundle

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.given = 0
        self.most_anonymous_mb = 0.0

    def _change(self, bundle: Any, seed: ShardSeed, chunks: list[KeyedChunk]) -> None:
        for results in bundle.aggregate(seed, chunks):
            self.given += sum(one.num_rows for one in results)
            self.most_anonymous_mb = max(self.most_anonymous_mb, anonymous_mb())


def anonymous_mb() -> float:
    """Memory of this process that no file is behind."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def most_anonymous_mb(work: Callable[[], Any]) -> float:
    """The most of it while this process does something, by a look each 10 ms."""
    ends, most = threading.Event(), [0.0]

    def watch() -> None:
        while not ends.wait(0.01):
            most[0] = max(most[0], anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        ends.set()
        watcher.join()
    return most[0]


def cpu_s(work: Callable[[], Any]) -> float:
    """CPU time of this process while it does something."""
    began_s = time.process_time()
    work()
    return time.process_time() - began_s
