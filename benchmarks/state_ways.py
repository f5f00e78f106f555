"""Ways to count words that come in batches, each run in a process of its own: with state by key, and as plain Beam does it."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.combiners import CountCombineFn
from apache_beam.transforms.window import FixedWindows, GlobalWindows, TimestampedValue

from beam_exactly_once import (
    AggregateByWindow,
    BatchProgress,
    EventTime,
    ExactlyOnceStream,
    ReadFromKafka,
    Record,
    StateCache,
    StatefulCombinePerKey,
    UpdateStateByKey,
    WriteToFiles,
)
from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import StoreCalls, watching
from state_machine import anonymous_mb

TOPIC = "words"
CHUNK_WORDS = 10_000
"""Words that come of one record."""
MINUTE_MS = 60_000
"""The words of a batch happened within so long."""
LOADED_AT_ONCE = 500_000
"""Words a batch, while the state is filled."""
SETTLING_BATCHES = 16
"""Behind the batches that fill the state: those leave two large sections in each slice, and a batch makes one of them a base."""
SCHEMA = pa.schema([("word", pa.string()), ("count", pa.int64())])


@dataclass(frozen=True)
class Work:
    """What a way has to do."""

    way: str
    keys: int
    """Different words that there are, all of them known before the first batch that is measured."""
    words: int
    """A batch."""
    batches: int
    """That are measured, behind one that is not."""
    zipf: float | None = None
    """Exponent of their distribution; None: all words are equally frequent."""


@dataclass
class Chunks:
    """What records stand for: their value is a number here. A function of the graph finds it, since all is one process."""

    load: range = field(default_factory=lambda: range(0))
    drawn: list[np.ndarray[Any, Any]] = field(default_factory=list)
    pairs: list[list[tuple[str, int]]] = field(default_factory=list)
    batches: list[pa.RecordBatch] = field(default_factory=list)
    chunk_ms: int = MINUTE_MS
    """The words of a chunk happened within so long."""

    def numbers(self, chunk: int) -> np.ndarray[Any, Any]:
        if chunk < len(self.load):
            return np.arange(self.load[chunk], self.load[chunk] + CHUNK_WORDS)
        return self.drawn[self.place(chunk)]

    def place(self, chunk: int) -> int:
        """Among those that were drawn, which come again and again."""
        return (chunk - len(self.load)) % len(self.drawn)


CHUNKS = Chunks()


def words_of(numbers: np.ndarray[Any, Any]) -> list[str]:
    return [f"word-{number:08d}" for number in numbers.tolist()]


def pairs_of(record: Record) -> list[tuple[str, int]]:
    """Built beforehand, but for those that fill the state."""
    chunk = int(record.value or b"")
    if chunk >= len(CHUNKS.load):
        return CHUNKS.pairs[CHUNKS.place(chunk)]
    return [(word, 1) for word in words_of(CHUNKS.numbers(chunk))]


def batch_of(record: Record) -> pa.RecordBatch:
    chunk = int(record.value or b"")
    if chunk >= len(CHUNKS.load):
        return CHUNKS.batches[CHUNKS.place(chunk)]
    words = words_of(CHUNKS.numbers(chunk))
    return pa.RecordBatch.from_arrays([pa.array(words), pa.array([1] * len(words))], schema=SCHEMA)


def draw(work: Work, chunks: int, seed: int = 7) -> list[np.ndarray[Any, Any]]:
    random, words = np.random.default_rng(seed), min(CHUNK_WORDS, work.words)
    if work.zipf is None:
        return [random.integers(0, work.keys, words) for _ in range(chunks)]
    shares = np.arange(1, work.keys + 1, dtype=np.float64) ** -work.zipf
    reached = np.cumsum(shares / shares.sum())
    return [np.minimum(np.searchsorted(reached, random.random(words)), work.keys - 1) for _ in range(chunks)]


def counted(values: list[int], state: int | None) -> int:
    return (state or 0) + sum(values)


def nothing(_: Any) -> Iterable[Any]:
    """What a sink does with rows is no part of the measure."""
    return ()


def stateless(words: Any) -> Any:
    return words | beam.FlatMap(pairs_of) | beam.CombinePerKey(sum)


def update(words: Any) -> Any:
    return words | beam.FlatMap(pairs_of) | UpdateStateByKey(counted)


def any_function(words: Any) -> Any:
    """A ``CombineFn`` that is not known to be a sum."""
    return words | beam.FlatMap(pairs_of) | StatefulCombinePerKey(lambda values: sum(values))


def typed_sum(words: Any) -> Any:
    return words | beam.FlatMap(pairs_of) | StatefulCombinePerKey(sum)


def arrow(words: Any) -> Any:
    return words | beam.Map(batch_of) | StatefulCombinePerKey({"count": sum}, key_columns=["word"])


def timed(record: Record) -> list[tuple[str, int]]:
    """Words and when they happened: within the time of their chunk."""
    first_ms = record.timestamp_ms
    return [(word, first_ms + place % CHUNKS.chunk_ms) for place, (word, _) in enumerate(pairs_of(record))]


def timed_batch(record: Record) -> pa.RecordBatch:
    batch = batch_of(record)
    return batch.append_column("at", pa.array(record.timestamp_ms + np.arange(batch.num_rows) % CHUNKS.chunk_ms))


def stateless_windows(words: Any) -> Any:
    """Beam's own: what a window has in one batch."""
    return (
        words
        | beam.FlatMap(timed)
        | beam.MapTuple(lambda word, at_ms: TimestampedValue((word, 1), at_ms / 1000))
        | beam.WindowInto(FixedWindows(60))
        | beam.CombinePerKey(sum)
        | "Whole" >> beam.WindowInto(GlobalWindows())
    )


def windows(words: Any) -> Any:
    by_window = AggregateByWindow(CountCombineFn(), FixedWindows(60), event_time_by=_itself, on_late="drop")
    return words | beam.FlatMap(timed) | by_window


def windows_arrow(words: Any) -> Any:
    by_window = AggregateByWindow(
        {"count": sum}, FixedWindows(60), event_time_by="at", key_columns=["word"], on_late="drop"
    )
    return words | beam.Map(timed_batch) | by_window


def _itself(at_ms: int) -> int:
    return at_ms


WAYS: dict[str, Callable[[Any], Any]] = {
    one.__name__: one
    for one in (stateless, update, any_function, typed_sum, arrow, stateless_windows, windows, windows_arrow)
}
WITHOUT_STATE = ("stateless", "naive", "stateless_windows")
WITH_TIMES = ("windows", "windows_arrow")


def measure(argument: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds a batch and more of one way, as JSON."""
    work = Work(**argument)
    fills = work.way not in (*WITHOUT_STATE, *WITH_TIMES)
    CHUNKS.load = range(0, work.keys if fills else 0, CHUNK_WORDS)
    a_batch = max(1, work.words // CHUNK_WORDS)
    CHUNKS.drawn = draw(work, a_batch * (work.batches + 1))
    CHUNKS.chunk_ms = MINUTE_MS // a_batch
    if work.way.endswith("arrow"):
        CHUNKS.batches = [
            pa.RecordBatch.from_arrays([pa.array(words_of(one)), pa.array([1] * len(one))], schema=SCHEMA)
            for one in CHUNKS.drawn
        ]
    else:
        CHUNKS.pairs = [[(word, 1) for word in words_of(one)] for one in CHUNKS.drawn]
    with tempfile.TemporaryDirectory() as folder:
        return naive(work, Path(folder)) if work.way == "naive" else in_a_stream(work, Path(folder))


# -- in a stream ---------------------------------------------------------------------------------------------------


def in_a_stream(work: Work, folder: Path) -> dict[str, Any]:
    """One start that fills the state, one in which that settles, one that is measured."""
    calls = StoreCalls(None, lambda: None)
    memory = MemoryKafka({TOPIC: 1})
    seen = Seen(calls)
    with memory.serving(), watching(calls):
        chunk = itertools.count()
        if len(CHUNKS.load):
            settling = SETTLING_BATCHES * work.words // CHUNK_WORDS
            for chunks, words in ((len(CHUNKS.load), LOADED_AT_ONCE), (settling, work.words)):
                append(memory, itertools.islice(chunk, chunks))
                run(work, folder, words, seen)
        seen.moments.clear()
        append(memory, itertools.islice(chunk, len(CHUNKS.drawn)))
        run(work, folder, work.words, seen)
    requests = [Seen.requests(calls.log[before.calls : after.calls]) for before, after in seen.between]
    return {
        "cpu_s": statistics.median(after.cpu_s - before.cpu_s for before, after in seen.between),
        "wall_s": statistics.median(after.wall_s - before.wall_s for before, after in seen.between),
        "anonymous_mb": max(moment.anonymous_mb for moment in seen.moments),
        "requests": {method: max(one.get(method, 0) for one in requests) for method in ("put", "get", "list")},
        "keys": keys_of(f"{folder}/checkpoint"),
    }


def append(memory: MemoryKafka, chunks: Iterable[int]) -> None:
    memory.append([Record(TOPIC, 0, value=b"%d" % chunk, timestamp_ms=chunk * CHUNKS.chunk_ms) for chunk in chunks])


def run(work: Work, folder: Path, words_a_batch: int, seen: Seen) -> None:
    stream = ExactlyOnceStream(
        f"{folder}/checkpoint",
        listeners=[seen.note],
        state_cache=StateCache(f"{folder}/cache"),
        allow_per_batch=work.way in WITHOUT_STATE,
    )
    words = stream | ReadFromKafka(
        "memory:9092",
        [TOPIC],
        max_batch_offsets=max(1, words_a_batch // CHUNK_WORDS),
        event_time=EventTime(out_of_order_s=10) if work.way in WITH_TIMES else None,
    )
    emitted = WAYS[work.way](words)
    _ = emitted | "Nothing" >> beam.FlatMap(nothing) | WriteToFiles(f"{folder}/output", format="json")
    stream.run()


@dataclass(frozen=True)
class Moment:
    """The end of a batch."""

    cpu_s: float
    wall_s: float
    anonymous_mb: float
    calls: int


class Seen:
    """Takes the measures when a batch ends."""

    def __init__(self, calls: StoreCalls) -> None:
        self.moments: list[Moment] = []
        self._calls = calls

    def note(self, _: BatchProgress) -> None:
        moment = Moment(time.process_time(), time.perf_counter(), anonymous_mb(), len(self._calls.log))
        self.moments.append(moment)

    @property
    def between(self) -> list[tuple[Moment, Moment]]:
        """Of each batch but the first."""
        return list(zip(self.moments, self.moments[1:], strict=False))

    @staticmethod
    def requests(log: Sequence[tuple[str, str]]) -> dict[str, int]:
        """By what is paid for."""
        found: dict[str, int] = {}
        for method, _ in log:
            paid = {"put_if_absent": "put", "publish": "put", "get_range": "get"}.get(method, method)
            found[paid] = found.get(paid, 0) + 1
        return found


def keys_of(location: str) -> int:
    """That the newest marker says are remembered."""
    checkpoint = Checkpoint.open_existing(open_object_store(location))
    marker = checkpoint.newest_marker() if checkpoint else None
    assert marker is not None
    return sum(int(one["keys"]) for one in marker.state.values())


# -- as plain Beam can do it -----------------------------------------------------------------------------------------


def naive(work: Work, folder: Path) -> dict[str, Any]:
    """State is a collection: each batch reads all of it from a file, groups it with the new words, and writes it."""
    counts = pa.table({"word": words_of(np.arange(work.keys)), "count": np.ones(work.keys, np.int64)})
    pq.write_table(counts, folder / "0.parquet")
    spent = []
    a_batch = work.words // CHUNK_WORDS
    for batch in range(work.batches):
        began_s = time.process_time()
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            before = pipeline | beam.Create([str(folder / f"{batch}.parquet")]) | beam.FlatMap(rows_of)
            records = [
                Record(TOPIC, 0, value=b"%d" % chunk) for chunk in range(batch * a_batch, batch * a_batch + a_batch)
            ]
            words = pipeline | "New" >> beam.Create(records) | "Pairs" >> beam.FlatMap(pairs_of)
            after = {"new": words, "state": before} | beam.CoGroupByKey() | beam.MapTuple(both)
            _ = after | beam.ParDo(ToFile(str(folder / f"{batch + 1}.parquet")))
        spent.append(time.process_time() - began_s)
    return {"cpu_s": statistics.median(spent)}


def rows_of(path: str) -> Iterator[tuple[str, int]]:
    table = pq.read_table(path)
    return zip(table.column("word").to_pylist(), table.column("count").to_pylist(), strict=True)


def both(word: str, found: dict[str, list[int]]) -> tuple[str, int]:
    return word, sum(found["new"]) + sum(found["state"])


class ToFile(beam.DoFn):
    """All rows into one file; good enough where there is one bundle."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._rows: list[tuple[str, int]] = []

    def start_bundle(self) -> None:
        self._rows = []

    def process(self, row: tuple[str, int]) -> None:
        self._rows.append(row)

    def finish_bundle(self) -> None:
        if self._rows:
            words, counts = zip(*self._rows, strict=True)
            pq.write_table(pa.table({"word": words, "count": counts}), self._path)
