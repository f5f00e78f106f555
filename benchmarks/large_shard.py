"""Memory of one shard of one batch whose rows are many, with and without a limit.

    python benchmarks/large_shard.py [--rows 500000]

Values are text of 100 letters. Rows come as from another worker, one chunk after the other. Memory is the process's own, apart
from files that are mapped, above what it had before. The rows go to a function; the last line has a ``CombineFn``.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beam_exactly_once import StateCache, StatefulCombinePerKey, UpdateStateByKey
from beam_exactly_once.checkpoint import Attempt, Checkpoint, StreamWriter
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.state.shard_seed import ShardSeed
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.updates import grouped, lifted
from beam_exactly_once.transforms.stateful.keyed_state import MAX_CHUNK_ROWS, UpdateShards, _KeyedChunkCoder
from state_machine import anonymous_mb, cpu_s
from support import apart

HASH_SEED = bytes(16).hex()
CODER = _KeyedChunkCoder()
WAYS = {
    "many keys, 10 GB": {"keys": "many", "max_memory_mb": 10_000},
    "many keys, 16 MB": {"keys": "many", "max_memory_mb": 16},
    "one key, 16 MB": {"keys": "one", "max_memory_mb": 16},
    "one key, combined, 16 MB": {"keys": "one", "max_memory_mb": 16, "combined": True},
}


def counted(values: list[str], state: int | None) -> int:
    return (state or 0) + len(values)


def how_many(values: Any) -> int:
    """Of values, or of sums of them: not known to be a count."""
    return sum(one if isinstance(one, int) else 1 for one in values)


def written(update: Any, rows: int, keys: str, file: Any) -> list[int]:
    """The chunks one behind the other; how long each is."""
    sizes = []
    for first in range(0, rows, MAX_CHUNK_ROWS):
        numbers = range(first, min(first + MAX_CHUNK_ROWS, rows))
        of_rows = (
            [f"key-{number if keys == 'many' else 0:09d}" for number in numbers],
            [f"{one:0100d}" for one in numbers],
        )
        sizes.append(file.write(CODER.encode(lifted(update, grouped(update, of_rows, HASH_SEED, "counts")))))
    file.seek(0)
    return sizes


def measure(work: dict[str, Any]) -> dict[str, float]:
    step: Any = StatefulCombinePerKey(how_many) if work.get("combined") else UpdateStateByKey(counted)
    update = step._update()
    with tempfile.TemporaryDirectory() as folder, Path(folder, "rows").open("w+b") as file:
        sizes = written(update, work["rows"], work["keys"], file)
        location = StoreLocation(f"{folder}/checkpoint", None)
        checkpoint = Checkpoint.open(open_object_store(location.uri))
        claim = StreamWriter.claim(checkpoint, owner="benchmark", claimed_at_ms=0)
        attempt = Attempt(claim.writer_epoch, 0, "0" * 8)
        seed = ShardSeed(checkpoint.stream_id, attempt, HASH_SEED, StateList.empty().slices, 0, 0, 0)
        cache = StateCache(f"{folder}/cache", max_memory_bytes=work["max_memory_mb"] << 20)
        shards = UpdateShards("counts", update, location, cache)

        def sent() -> Iterator[Any]:
            yield seed
            yield from (CODER.decode(file.read(size_bytes)) for size_bytes in sizes)

        def run() -> None:
            shards.start_bundle()
            for _ in shards.process((0, sent())):
                pass
            list(shards.finish_bundle())

        most_mb, done = [before_mb := anonymous_mb()], threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                most_mb.append(anonymous_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        spent_s = cpu_s(run)
        done.set()
        watcher.join()
    return {"mb_sent": sum(sizes) / 2**20, "mb_more": max(most_mb) - before_mb, "cpu_s": spent_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    rows = parser.parse_args().rows
    print(f"{rows:,} rows\n{'keys, max_memory_bytes':<28}{'MB sent':>10}{'MB more':>10}{'CPU s':>10}")
    for name, work in WAYS.items():
        found = apart("large_shard:measure", {**work, "rows": rows})
        print(f"{name:<28}{found['mb_sent']:>10.0f}{found['mb_more']:>10.0f}{found['cpu_s']:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
