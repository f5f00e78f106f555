"""What state by key costs, each figure beside its bar.

    python benchmarks/state.py [--size small|full] [--only SECTION …] [--rounds 3] [--json]

- ``ways``: words counted in batches, CPU time against Beam's ``CombinePerKey(sum)`` without state, each in a process of its own
  on FnApiRunner, and against state as a collection that each batch reads, groups and writes (``naive``). 95 of 100 words are
  different ones; with ``zipf``, 14 of 100. ``fixed``: ten words a batch.
- ``windows``: the same words counted by minutes of event time, against Beam's own ``CombinePerKey(sum)`` in windows, which end
  with the batch; each batch is a minute.
- ``large``: a small batch over few keys and over many; memory, apart from files that are mapped; requests.
- ``restart``: a process without a local cache opens all sections; the store is the local disk.
- ``memory``: what keys need, apart from files that are mapped, while they come and then; on Linux with glibc.
- ``collide``: keys made to have one hash against others. ``slices``: sections a slice after many batches of one bundle.
- ``flat``: thousands of batches with time to live.
- ``slides``: windows of 60 slides, with the inverse of a sum and without. Each batch brings a value of each key, and closes a
  window.
- ``due``: windows that close, a thousand of many, and many at once.

The last seven run bundles, the checks of the commit, markers and sweeps as a stream does, but without Beam. Machines have other
work, too: hence CPU time, ratios within a round, and the median of rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import operator
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import FixedWindows

from beam_exactly_once import AggregateByWindow, StateCache
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.state.hashing import _GOLDEN, _mixed
from beam_exactly_once.state.near.cache import SectionCache
from beam_exactly_once.state.section import fetch_from
from beam_exactly_once.state.updates import Update
from beam_exactly_once.state.windows.slides import SlideEach
from beam_exactly_once.state.windows.windows import Windows
from beam_exactly_once.transforms.stateful.by_key import DeduplicateByKey, StatefulCombinePerKey
from state_machine import SlideMachine, StateMachine, WindowMachine, anonymous_mb, cpu_s, most_anonymous_mb
from support import apart

MINUTE_MS = 60_000


@dataclass(frozen=True)
class Size:
    """How much is done."""

    keys: int
    words: int
    batches: int
    few_keys: int
    many_keys: int
    restart_keys: int
    memory_keys: int
    collisions: int
    slice_batches: int
    flat_batches: int
    flat_rows: int
    slide_keys: int


SIZES = {
    "small": Size(100_000, 20_000, 2, 20_000, 200_000, 200_000, 200_000, 5_000, 40, 200, 500, 16_000),
    "full": Size(1_000_000, 100_000, 5, 100_000, 10_000_000, 10_000_000, 3_000_000, 20_000, 300, 5_000, 500, 50_000),
}


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    bar: str = ""

    def line(self) -> str:
        return f"{self.name:<58}{self.value:>12,.2f}   {self.bar}"


def of_way(way: str, size: Size, **other: Any) -> dict[str, Any]:
    work = {"way": way, "keys": size.keys, "words": size.words, "batches": size.batches, **other}
    found: dict[str, Any] = apart("state_ways:measure", work)
    return found


def ways(size: Size, rounds: int) -> Iterator[Figure]:
    for zipf, bars in (
        (None, {"update": ">= 1.5", "any_function": "", "typed_sum": ">= 3", "arrow": ">= 3"}),
        (1.2, {"update": "", "typed_sum": "", "arrow": ">= 3.5"}),
    ):
        spent: dict[str, list[float]] = {}
        for _ in range(rounds):
            for way in ("stateless", *bars):
                spent.setdefault(way, []).append(of_way(way, size, zipf=zipf)["cpu_s"])
        words = "uniform words" if zipf is None else f"Zipf {zipf} words"
        yield Figure(f"CombinePerKey, {words}: CPU ms a batch", 1000 * statistics.median(spent["stateless"]))
        for way, bar in bars.items():
            ratios = [one / other for one, other in zip(spent["stateless"], spent[way], strict=True)]
            yield Figure(f"{way}, {words}: times as fast", statistics.median(ratios), bar)
    large = 6 * size.words  # what a batch costs whatever is in it is a larger part of a smaller one
    beam_s, arrow_s = (of_way(way, size, zipf=1.2, words=large, batches=1)["cpu_s"] for way in ("stateless", "arrow"))
    yield Figure(f"arrow, Zipf 1.2 words, {large:,} a batch: times as fast", beam_s / arrow_s, ">= 3.5")
    naive = of_way("naive", size, batches=1)["cpu_s"]
    yield Figure("update, uniform words: times as fast as naive", naive / of_way("update", size)["cpu_s"], ">= 25")


def fixed(size: Size, rounds: int) -> Iterator[Figure]:
    for way in ("stateless", "arrow"):
        spent_s = (of_way(way, size, keys=10_000, words=10, batches=12)["cpu_s"] for _ in range(rounds))
        yield Figure(f"{way}, 10 words: CPU ms a batch", 1000 * statistics.median(spent_s))


def windows(size: Size, rounds: int) -> Iterator[Figure]:
    for zipf, words in ((None, "uniform words"), (1.2, "Zipf 1.2 words")):
        spent: dict[str, list[float]] = {}
        for _ in range(rounds):
            for way in ("stateless_windows", "windows", "windows_arrow"):
                spent.setdefault(way, []).append(of_way(way, size, zipf=zipf)["cpu_s"])
        beam_ms = 1000 * statistics.median(spent["stateless_windows"])
        yield Figure(f"CombinePerKey in windows, {words}: CPU ms a batch", beam_ms)
        for way, bar in (("windows", ""), ("windows_arrow", ">= 2")):
            ratios = [one / other for one, other in zip(spent["stateless_windows"], spent[way], strict=True)]
            yield Figure(f"{way}, {words}: times as fast", statistics.median(ratios), bar)


def large(size: Size, rounds: int) -> Iterator[Figure]:
    words = min(10_000, size.words)
    few, many = (of_way("update", size, keys=keys, words=words, batches=9) for keys in (size.few_keys, size.many_keys))
    alone = of_way("stateless", size, keys=size.few_keys, words=words, batches=9)
    yield Figure(
        f"a batch over {size.many_keys:,} keys by one over {size.few_keys:,}", many["cpu_s"] / few["cpu_s"], "<= 1.6"
    )
    yield Figure(f"anonymous MB at {size.many_keys:,} keys", many["anonymous_mb"], "<= 300")
    yield Figure("anonymous MB without state", alone["anonymous_mb"])
    for method, bar in (("put", "<= 1, and 1 where a base is written"), ("get", "<= 1"), ("list", "0")):
        more = few["requests"][method] - alone["requests"][method]
        yield Figure(f"{method} a batch more than without state, at most", more, bar)


def machine(folder: Path, update: Update, **more: Any) -> StateMachine:
    return StateMachine(update, open_object_store(f"{folder}/checkpoint"), StateCache(f"{folder}/cache"), **more)


def totals() -> Update:
    return StatefulCombinePerKey({"count": sum}, key_columns=["key"])._update()


def batch(numbers: np.ndarray[Any, Any]) -> pa.RecordBatch:
    return pa.record_batch({"key": pa.array(numbers), "count": np.ones(len(numbers), np.int64)})


def fill(one: StateMachine, keys: int) -> None:
    for first in range(0, keys, 500_000):
        one.run(batch(np.arange(first, min(first + 500_000, keys))))


def restart(size: Size, rounds: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        one = machine(Path(folder), totals())
        fill(one, size.restart_keys)
        sections, fetch = one.list.sections, fetch_from(one.store)

        def cold() -> float:
            cache = SectionCache(StateCache(tempfile.mkdtemp(dir=folder)))
            return cpu_s(lambda: [cache.get_all(slice_.sections, fetch) for slice_ in one.list.slices])

        yield Figure(
            f"restart without a cache, {size.restart_keys:,} keys: CPU us a key",
            1e6 * statistics.median(cold() for _ in range(rounds)) / size.restart_keys,
            "<= 0.3 and transfer",
        )
        yield Figure("bytes a key in the store", sum(section.size_bytes for section in sections) / size.restart_keys)


def memory(size: Size, rounds: int) -> Iterator[Figure]:
    """Of a process that has brought all keys in large batches: with what the allocators keep of these, and without."""
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        one = machine(Path(folder), totals())
        yield Figure("anonymous MB without state", anonymous_mb())
        most_mb = most_anonymous_mb(lambda: fill(one, size.memory_keys))
        yield Figure(f"anonymous MB while {size.memory_keys:,} keys come, at most", most_mb, "<= 300")
        yield Figure(f"anonymous MB behind {size.memory_keys:,} keys", anonymous_mb())
        pa.default_memory_pool().release_unused()
        ctypes.CDLL(None).malloc_trim(0)
        yield Figure("the same, without what allocators keep", anonymous_mb(), "<= 300")
        for _ in range(4):
            one.run(batch(random.integers(0, size.memory_keys, 10_000)))
        yield Figure("anonymous MB behind batches of 10,000 rows then", anonymous_mb(), "<= 300")


def colliding(count: int, hash_seed: str) -> list[bytes]:
    """Keys of one hash, for who knows the seed: 16 bytes, of which the second word undoes what the first has done."""
    first, second = np.frombuffer(bytes.fromhex(hash_seed), "<u8").astype(np.uint64)
    with np.errstate(over="ignore"):
        begin = np.uint64(17) * _GOLDEN ^ first
    free = np.frombuffer(np.random.default_rng(3).bytes(8 * count), "<u8").astype(np.uint64)
    words = free & ~np.uint64(0xFF) | np.uint64(ord("b"))  # the tag of bytes
    undo = _mixed(begin ^ words) ^ second
    tables = np.stack([words, undo], axis=1).astype("<u8")
    return [row.tobytes()[1:] + b"\0" for row in tables]


def collide(size: Size, rounds: int) -> Iterator[Figure]:
    spent: dict[str, list[float]] = {"normal": [], "colliding": []}
    for _ in range(rounds):
        for name, of_name in spent.items():
            with tempfile.TemporaryDirectory() as folder:
                one = machine(Path(folder), StatefulCombinePerKey(sum)._update())
                keys = colliding(size.collisions, one.hash_seed)
                if name == "normal":
                    keys = [key[::-1] for key in keys]
                rows = keys, [1] * len(keys)
                of_name.append(cpu_s(lambda one=one, rows=rows: [one.run(rows) for _ in range(3)]))
                if name == "colliding" and sum(bool(slice_.sections) for slice_ in one.list.slices) != 1:
                    raise AssertionError("they do not collide")
    ratios = [one / other for one, other in zip(spent["colliding"], spent["normal"], strict=True)]
    yield Figure(f"{size.collisions:,} keys of one hash by normal ones: CPU", statistics.median(ratios), "<= 3")


def slices(size: Size, rounds: int) -> Iterator[Figure]:
    random = np.random.default_rng(5)
    for count in (16, 64, 300):
        with tempfile.TemporaryDirectory() as folder:
            one, most = machine(Path(folder), totals(), slices=count), 0
            one.run(batch(np.arange(size.keys // 10)))
            one.rows.clear()
            for _ in range(size.slice_batches):
                one.run(batch(random.integers(0, size.keys // 10, size.keys // 1000)))
                most = max(most, one.references)
            yield Figure(f"references a slice, {count} slices, one bundle: most", most, "<= 12")
            yield Figure(
                f"rows written a row changed, {count} slices", one.rows["written"] / one.rows["changed"], "<= 4"
            )


def flat(size: Size, rounds: int) -> Iterator[Figure]:
    """A batch a minute of which each has its own keys, forgotten after 50 minutes; each tenth of the batches is one sample."""
    random = np.random.default_rng(11)
    tenth = size.flat_batches // 10
    with tempfile.TemporaryDirectory() as folder:
        one = machine(Path(folder), DeduplicateByKey(ttl_s=50 * 60)._update(), retain_batches=20)
        samples: list[dict[str, float]] = []
        for number in range(size.flat_batches):
            keys = random.integers(0, 1 << 40, size.flat_rows).tolist()
            one.run((keys, keys), now_ms=number * MINUTE_MS)
            if number % tenth == tenth - 1:
                samples.append(sample(one, tenth))
                progress(f"flat: {number + 1} of {size.flat_batches} batches, {samples[-1]}")
    for name in samples[0]:
        before, after = ([one[name] for one in half] for half in (samples[3:5], samples[-2:]))
        yield Figure(
            f"{name}: last fifth by fourth and fifth tenth", statistics.mean(after) / statistics.mean(before), "flat"
        )


def slides(size: Size, rounds: int) -> Iterator[Figure]:
    """Both ways in one process, batch by batch in turn, behind a batch that fills the windows."""
    windows = Windows(60 * MINUTE_MS, MINUTE_MS)
    keys = list(range(size.slide_keys))
    with tempfile.TemporaryDirectory() as folder:
        ways_: dict[str, SlideMachine] = {}
        for way, inverse_fn in (("inverse", operator.sub), ("anew", None)):
            each = SlideEach(operator.add, inverse_fn, windows, lambda value: value)
            place = f"{folder}/{way}"
            ways_[way] = SlideMachine(each, open_object_store(f"{place}/checkpoint"), StateCache(f"{place}/cache"))
        spent: dict[str, list[float]] = {way: [] for way in ways_}
        for number in range(60, 61 + 5 * rounds):
            minutes = range(1, 61) if number == 60 else [number]
            rows = keys * len(minutes), [minute * MINUTE_MS for minute in minutes for _ in keys]  # a value is its time
            for way, one in ways_.items():
                cost_s = cpu_s(lambda one=one, rows=rows, number=number: one.run(rows, now_ms=(number + 1) * MINUTE_MS))
                if number > 60:
                    spent[way].append(cost_s)
            anew, inverse = (sorted(ways_[way].results) for way in ("anew", "inverse"))
            if anew != inverse or len(anew) < len(keys):
                raise AssertionError("the two ways give different results")
    for way, name in (("inverse", "with the inverse"), ("anew", "without")):
        yield Figure(f"60 slides, {name}: CPU us a key and window", 1e6 * statistics.mean(spent[way]) / len(keys))
    ratio = sum(spent["anew"]) / sum(spent["inverse"])
    yield Figure("60 slides, with the inverse: times as fast as without", ratio, ">= 5")


def due(size: Size, rounds: int) -> Iterator[Figure]:
    """A thousand windows that close, of few and of many; then all of the many at once.

    Those that close lie anywhere in the sections of all that was read. The state is at rest: merges are what rows cost that came
    before, and ``slices`` says how much.
    """
    closing_s: dict[int, float] = {}
    for count in (size.few_keys, size.many_keys):
        with tempfile.TemporaryDirectory() as folder:
            one, minutes = window_machine(Path(folder)), count // 1000
            for first in range(0, count, 500_000):
                keys = np.arange(first, min(first + 500_000, count))
                one.run(timed(keys, keys % minutes * MINUTE_MS))
            rest(one)
            spent = [closing(one, minute, 1000) for minute in range(1, 5 * rounds + 1)]
            closing_s[count] = statistics.median(spent)
            yield Figure(f"1,000 windows close of {count:,}: CPU ms", 1000 * closing_s[count])
            if count == size.many_keys:
                before_mb, one.most_anonymous_mb, left = anonymous_mb(), 0.0, count - 5000 * rounds
                all_s = closing(one, minutes, left)
                yield Figure(f"{left:,} windows close at once: CPU us each", 1e6 * all_s / left)
                yield Figure("anonymous MB before that", before_mb)
                yield Figure("anonymous MB while they do, at most", one.most_anonymous_mb)
    yield Figure("1,000 of many by 1,000 of few", closing_s[size.many_keys] / closing_s[size.few_keys], "<= 3")


def closing(one: WindowMachine, minute: int, count: int) -> float:
    """CPU seconds of a batch that closes so many windows up to this minute."""
    given = one.given
    spent_s = cpu_s(lambda: one.run(timed([]), now_ms=minute * MINUTE_MS))
    if one.given - given != count:
        raise AssertionError(f"{one.given - given} windows closed")
    return spent_s


def rest(one: StateMachine) -> None:
    """Batches without rows, until there is nothing to merge."""
    written = None
    while written != one.rows["written"]:
        written = one.rows["written"]
        one.run(timed([]))


def window_machine(folder: Path) -> WindowMachine:
    by_minute = AggregateByWindow(
        {"count": sum}, FixedWindows(60), event_time_by="at", key_columns=["key"], on_late="drop"
    )
    places = open_object_store(f"{folder}/checkpoint"), StateCache(f"{folder}/cache")
    return WindowMachine(by_minute._update(), *places)


def timed(keys: Any, at_ms: Any = 0) -> pa.RecordBatch:
    keys = np.asarray(keys, np.int64)
    return batch(keys).append_column("at", pa.array(np.broadcast_to(np.int64(at_ms), len(keys))))


def sample(one: StateMachine, batches: int) -> dict[str, float]:
    """What is there now, and what a batch has cost since the last sample."""
    entries = list(one.store.list(""))
    marker_bytes = len(one.store.get(max(entry.key for entry in entries if entry.key.startswith("commits/"))) or b"")
    spent_s, one.spent_s = sum(one.spent_s.values()), type(one.spent_s)()
    start = SectionCache(StateCache(one.cache.location))
    opened_s = cpu_s(lambda: [start.get_all(each.sections, fetch_from(one.store)) for each in one.list.slices])
    return {
        "keys": one.list.keys,
        "objects": len(entries),
        "bytes": sum(len(one.store.get(entry.key) or b"") for entry in entries),
        "marker bytes": marker_bytes,
        "references": one.references,
        "CPU ms a batch": round(1000 * spent_s / batches, 2),
        "CPU ms of a start": round(1000 * opened_s, 2),
    }


SECTIONS: dict[str, Callable[[Size, int], Iterator[Figure]]] = {
    one.__name__: one for one in (ways, fixed, windows, large, restart, memory, collide, slices, flat, slides, due)
}


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--only", nargs="*", default=list(SECTIONS), choices=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    flags = parser.parse_args()
    figures: dict[str, float] = {}
    print(f"state: {flags.size}\n{'what':<58}{'measured':>12}   bar", flush=True)
    for name in flags.only:
        began_s = time.perf_counter()
        for figure in SECTIONS[name](SIZES[flags.size], flags.rounds):
            print(figure.line(), flush=True)
            figures[figure.name] = round(figure.value, 3)
        progress(f"{name}: {time.perf_counter() - began_s:.0f} s")
    if flags.json:
        print(json.dumps({"benchmark": "state", "size": flags.size, "figures": figures}))


if __name__ == "__main__":
    main()
