"""Streams that remember keys across batches: by value, through restarts, kills and replays."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import orjson
import pyarrow as pa
import pytest

from beam_exactly_once import (
    DeduplicateByKey,
    ExactlyOnceStream,
    ReadFromKafka,
    StatefulCombinePerKey,
    UpdateStateByKey,
    WriteToFiles,
    WriteToSql,
)
from beam_exactly_once.checkpoint import layout
from beam_exactly_once.checkpoint.resolution import propose, resolve
from beam_exactly_once.clock import SYSTEM_CLOCK
from beam_exactly_once.errors import (
    CheckpointHole,
    ConfigurationError,
    CorruptObject,
    PipelineChanged,
    UnfitRow,
    UnsupportedPipeline,
)
from beam_exactly_once.state.types import JsonState
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.checkpoints import overwrite
from support.command_line import run
from support.ending import ends_with, kill
from support.keyed_stream import COUNTS, KeyedStream, counted, keyed, row_of
from support.stream_under_test import number_of

pytestmark = pytest.mark.runs_on("DirectRunner")

Step = Callable[[Any], Any]
"""Applies an operator to pairs."""


@pytest.fixture
def stream(tmp_path: Path) -> KeyedStream:
    return KeyedStream(tmp_path)


def counts(numbers: Any) -> dict[int, int]:
    return dict(Counter(number % 10 for number in numbers))


def test_counts_go_on_from_batch_to_batch_and_from_start_to_start(stream: KeyedStream) -> None:
    stream.produce(*range(25))
    stream.run()
    assert stream.newest() == counts(range(25))
    stream.produce(*range(25, 40))
    stream.run(max_batch_offsets=7)
    stream.run()
    assert stream.newest() == counts(range(40))


def test_each_batch_emits_the_keys_that_it_touched(stream: KeyedStream) -> None:
    stream.produce(1, 11, 2, 21)
    stream.run()
    assert stream.written()[0] == (1, 2)
    assert sorted(stream.written()[1:]) == [(1, 3), (2, 1)]


@pytest.mark.parametrize(
    ("fn", "result"),
    [
        (sum, sum),
        (max, max),
        (beam.combiners.CountCombineFn(), len),
        (beam.combiners.MeanCombineFn(), lambda numbers: sum(numbers) / len(numbers)),
        (beam.combiners.TopCombineFn(2), lambda numbers: sorted(numbers)[-2:][::-1]),
    ],
    ids=["sum", "max", "count", "mean", "top"],
)
def test_a_combine_fn_goes_on(stream: KeyedStream, fn: Any, result: Callable[[list[int]], Any]) -> None:
    for start in (0, 17):
        stream.produce(*range(start, start + 17))
        stream.run("Combine" >> StatefulCombinePerKey(fn), max_batch_offsets=5)
    by_key: dict[int, list[int]] = {}
    for number in range(34):
        by_key.setdefault(number % 10, []).append(number)
    assert stream.newest() == {key: result(numbers) for key, numbers in by_key.items()}


class Scaled(beam.CombineFn):  # type: ignore[misc]
    """A sum of values times something that is opened where it runs."""

    closed: ClassVar[list[int]] = []

    def setup(self) -> None:
        self.factor = 3

    def teardown(self) -> None:
        self.closed.append(self.factor)

    def create_accumulator(self) -> int:
        return 0

    def add_input(self, accumulator: int, value: int) -> int:
        return accumulator + self.factor * value

    def merge_accumulators(self, accumulators: Iterable[int]) -> int:
        return self.factor * sum(accumulators) // self.factor

    def extract_output(self, accumulator: int) -> int:
        return accumulator


def test_a_combine_fn_is_set_up_where_it_runs_and_torn_down(stream: KeyedStream) -> None:
    Scaled.closed.clear()
    stream.produce(1, 2, 11)
    stream.run("Combine" >> StatefulCombinePerKey(Scaled()))
    assert stream.newest() == {1: 36, 2: 6}
    assert set(Scaled.closed) == {3}


def test_a_total_may_have_any_size(stream: KeyedStream) -> None:
    """Ints of 64 bits, which is what Beam knows as int, add up to more."""
    most = 2**63 - 1
    stream.produce(*[most] * 5)
    pairs = "Typed" >> beam.Map(lambda pair: pair).with_output_types(tuple[int, int])
    text = "Text" >> beam.MapTuple(lambda key, value: (key, str(value)))
    stream.run(pairs | beam.Reshuffle() | StatefulCombinePerKey(sum) | text)
    assert stream.newest() == {most % 10: str(5 * most)}


def test_batches_of_arrow_go_on(tmp_path: Path) -> None:
    stream = KeyedStream(tmp_path)

    def of_arrow(record: Any) -> pa.RecordBatch:
        number = number_of(record)
        return pa.record_batch({"key": [number % 3], "value": [number], "rows": [number]})

    for start in (0, 17):
        stream.produce(*range(start, start + 17))
        spent = StatefulCombinePerKey({"value": sum, "rows": len}, key_columns=["key"])
        write = WriteToFiles(str(stream.output), format="json")
        stream.run_with(lambda records: records | beam.Map(of_arrow) | spent | write, max_batch_offsets=5)  # noqa: B023
    files = sorted(stream.output.glob("*.json"))
    newest = {row["key"]: row for file in files for row in map(orjson.loads, file.read_bytes().splitlines())}
    assert newest == {
        key: {"key": key, "value": sum(range(key, 34, 3)), "rows": len(range(key, 34, 3))} for key in range(3)
    }


def test_the_first_pair_of_each_key_passes(stream: KeyedStream) -> None:
    stream.produce(*range(15), 3, 12)
    stream.run("Once" >> DeduplicateByKey(ttl_s=None))
    stream.produce(5, 25)
    stream.run("Once" >> DeduplicateByKey(ttl_s=None))
    assert sorted(stream.written()) == [(number, number) for number in range(10)]


def test_a_key_is_forgotten_where_the_function_says_so(stream: KeyedStream) -> None:
    """And begins again with its next value."""

    def until_two(values: list[int], state: int | None) -> int | None:
        total = (state or 0) + len(values)
        return total if total < 2 else None

    stream.produce(1, 2, 11, 3, 21, 4)
    stream.run("Until" >> UpdateStateByKey(until_two))
    of_one = [value for key, value in stream.written() if key == 1]
    assert of_one == [1, None, 1]


def test_a_key_is_forgotten_after_its_time(stream: KeyedStream) -> None:
    stream.produce(1, 2, 3)
    stream.run("Once" >> DeduplicateByKey(ttl_s=0.001))
    stream.produce(1)
    stream.run("Once" >> DeduplicateByKey(ttl_s=0.001))
    assert sorted(stream.written()) == [(1, 1), (1, 1), (2, 2), (3, 3)]


def test_two_operators_of_one_stream(tmp_path: Path) -> None:
    stream = KeyedStream(tmp_path)
    stream.produce(*range(12))

    def build(records: Any) -> None:
        pairs = records | beam.Map(keyed)
        first = pairs | UpdateStateByKey(counted, name="first")
        second = pairs | UpdateStateByKey(counted, name="second")
        _ = (first, second) | beam.Flatten() | beam.MapTuple(row_of) | WriteToFiles(str(stream.output), format="json")

    stream.run_with(build)
    assert sorted(Counter(stream.written()).values()) == [2] * len(set(stream.written()))
    with pytest.raises(ConfigurationError, match="two operators are named 'update_state_by_key'"):
        stream.run_with(
            lambda records: [
                records | f"P{n}" >> beam.Map(keyed) | f"U{n}" >> UpdateStateByKey(counted) for n in range(2)
            ]
        )


# -- killed, replayed, passed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["offsets/", "state/", "commits/", "operators/"])
@pytest.mark.parametrize("occurrence", [1, 2])
def test_killed_after_a_write(stream: KeyedStream, prefix: str, occurrence: int) -> None:
    stream.produce(*range(6), *range(6))
    if prefix != "operators/" or occurrence == 1:
        with watching(StoreCalls(KillPoint("put_if_absent", prefix, occurrence), kill)), ends_with("killed here"):
            stream.run()
    stream.run()
    assert stream.newest() == dict.fromkeys(range(6), 2)


@pytest.mark.parametrize("outcome", ["skipped", "abandoned"])
def test_a_batch_that_an_operator_passed_leaves_the_state_as_it_was(stream: KeyedStream, outcome: Any) -> None:
    stream.produce(1, 1, 1, 1)
    with watching(StoreCalls(KillPoint("put_if_absent", "offsets/", 2), kill)), ends_with("killed here"):
        stream.run()
    resolve(propose(stream.store(), 1, outcome), owner="ann", clock=SYSTEM_CLOCK)
    stream.produce(1)
    stream.run()
    assert stream.newest() == {1: 3 if outcome == "skipped" else 5}


def test_a_state_object_that_is_gone_or_damaged_is_said(stream: KeyedStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never taken for no state. Another machine has no copy."""
    stream.produce(1, 2)
    stream.run()
    store = stream.store()
    (key,) = (entry.key for entry in store.list(layout.STATE))
    body = store.get(key)
    assert body is not None
    stream.produce(1)
    without_cache(monkeypatch)
    overwrite(store, key, lambda body: body[::-1])
    with pytest.raises(CorruptObject, match=key):
        stream.run()
    store.delete([key])
    with pytest.raises(CheckpointHole, match=key):
        stream.run()
    store.put_if_absent(key, body)
    stream.run()
    assert stream.newest() == {1: 2, 2: 1}


def without_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a new machine."""
    from beam_exactly_once.state import bundle
    from beam_exactly_once.state.near import cache

    monkeypatch.setattr(bundle, "section_cache", lambda settings: cache.SectionCache(cache.StateCache(max_bytes=0)))


def test_what_is_swept_is_not_needed(stream: KeyedStream, monkeypatch: pytest.MonkeyPatch) -> None:
    without_cache(monkeypatch)

    def run() -> None:
        write = WriteToFiles(str(stream.output), format="json")
        with stream.cluster.serving(), ExactlyOnceStream(stream.location, retain_batches=2) as pipeline:
            records = pipeline | ReadFromKafka("memory:9092", ["orders"], max_batch_offsets=1)
            _ = records | beam.Map(keyed) | COUNTS | "Row" >> beam.MapTuple(row_of) | write

    stream.produce(*([1, 2] * 12))
    run()
    stream.produce(1, 2)
    run()
    assert stream.newest() == {1: 13, 2: 13}
    assert len(list(stream.store().list(layout.STATE))) < 20


# -- changed ---------------------------------------------------------------------------------------------------------


def test_other_code_between_the_same_operators_finds_its_state(stream: KeyedStream) -> None:
    stream.produce(1, 2)
    stream.run()
    stream.produce(1)
    stream.run("Other label" >> UpdateStateByKey(lambda values, state: (state or 0) + len(values), shards=3))
    assert stream.newest() == {1: 2, 2: 1}


@dataclasses.dataclass
class Seen:
    times: int = 0
    last: int = -1


def seen(values: list[int], state: Seen | None) -> Seen:
    state = state or Seen()
    return Seen(state.times + len(values), max(state.last, *values))


@dataclasses.dataclass
class SeenThen:
    """As an earlier version of the code had it."""

    times: int = 0


def seen_then(values: list[int], state: SeenThen | None) -> SeenThen:
    return SeenThen((state.times if state else 0) + len(values))


def test_a_field_with_a_default_may_be_added(stream: KeyedStream) -> None:
    stream.produce(1, 11)
    plain = "Plain" >> beam.MapTuple(lambda key, value: (key, dataclasses.asdict(value)))
    stream.run(("Seen" >> UpdateStateByKey(seen_then, state=JsonState(SeenThen), name="seen")) | plain)
    stream.produce(21)
    stream.run(("Seen" >> UpdateStateByKey(seen, state=JsonState(Seen), name="seen")) | plain)
    assert stream.newest() == {1: {"times": 3, "last": 21}}


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (
            UpdateStateByKey(counted, name="other"),
            "knows an operator 'update_state_by_key'.*without=",
        ),
        (StatefulCombinePerKey(sum, name="update_state_by_key"), "had kind='update_state_by_key', now"),
    ],
)
def test_a_changed_operator_is_refused(stream: KeyedStream, operator: Any, message: str) -> None:
    stream.produce(1)
    stream.run()
    with pytest.raises(PipelineChanged, match=message):
        stream.run(operator)


def test_a_key_that_cannot_be_kept_is_refused_by_its_type(stream: KeyedStream) -> None:
    stream.produce(1)
    with pytest.raises(UnfitRow, match="float"):
        stream.run(beam.MapTuple(lambda key, value: (float(key), value)) | COUNTS)


def test_verify_knows_what_an_operator_keeps(stream: KeyedStream) -> None:
    stream.produce(1, 2)
    stream.run()
    verified = run("verify", stream.location)
    assert (verified.exit_code, "state/" in verified.stdout) == (0, False)


# -- graphs that would count twice -----------------------------------------------------------------------------------


def test_totals_of_totals_are_refused(stream: KeyedStream) -> None:
    def build(records: Any) -> None:
        counts = records | beam.Map(keyed) | UpdateStateByKey(counted, name="counts")
        by_count = counts | beam.MapTuple(lambda key, count: (count, key)) | beam.Reshuffle()
        _ = by_count | StatefulCombinePerKey(sum, name="keys")

    with pytest.raises(UnsupportedPipeline, match="'keys' is behind operator 'counts', which emits a key again"):
        stream.run_with(build)


def test_behind_a_deduplication_all_may_be_counted(stream: KeyedStream) -> None:
    stream.produce(1, 11, 1, 11, 2)
    stream.run(
        "Once" >> beam.ParDo(lambda pair: [(pair[1], pair[0])]) | DeduplicateByKey(ttl_s=None) | swapped() | COUNTS
    )
    assert stream.newest() == {1: 2, 2: 1}


def swapped() -> beam.PTransform[Any, Any]:
    return "Swap" >> beam.MapTuple(lambda key, value: (value, key))


def test_a_direct_sink_beside_state_is_refused(tmp_path: Path) -> None:
    stream = ExactlyOnceStream(str(tmp_path / "checkpoint"))
    counts = stream | ReadFromKafka("memory:9092", ["orders"]) | beam.Map(keyed) | COUNTS
    _ = counts | beam.MapTuple(row_of) | WriteToSql(f"sqlite:///{tmp_path}/x.db", "counts", direct=True)
    with pytest.raises(UnsupportedPipeline, match=r"direct=True, and the stream keeps state \(update_state_by_key\)"):
        stream.run()
