"""``ForEachBatch``: what user code gets, how often, and that its one rule makes it exactly-once."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import BatchRows, ExactlyOnceStream, ForEachBatch, ReadFromKafka
from beam_exactly_once.checkpoint import Checkpoint, StreamWriter
from beam_exactly_once.errors import ConfigurationError, Fenced, StagedOutputMissing, StepFailed, UnsupportedPipeline
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.ending import ends_with, kill
from support.stream_under_test import StreamUnderTest, number_of
from support.user_code import CALLS, HOOKS, noting, noting_arrow, storing

pytestmark = pytest.mark.runs_on("DirectRunner", storage="memory")

NUMBERS = pa.schema([("number", pa.int64())])


class Stream(StreamUnderTest):
    """Numbers of a topic to user code."""

    @property
    def calls(self) -> list[tuple[int, list[Any]]]:
        return CALLS[self.location]

    def run(self, fn: Callable[[BatchRows], None] | None = None) -> None:
        call = ForEachBatch(fn or noting(self.location, itemgetter("number")), schema=NUMBERS)
        self.run_with(lambda records: records | beam.Map(lambda one: {"number": number_of(one)}) | call)


@pytest.fixture
def stream() -> Stream:
    return Stream()


def stored(database: str) -> list[int]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [number for (number,) in connection.execute("select number from numbers order by number")]


def test_each_batch_in_order_also_those_without_rows(stream: Stream) -> None:
    stream.produce(1, 2)
    stream.cluster.skip("orders", 0, 2)
    stream.produce(3)
    stream.run()
    assert stream.calls == [(0, [1, 2]), (1, []), (2, [3])]


def test_the_newest_batch_comes_again_at_each_start(stream: Stream) -> None:
    stream.produce(1, 2, 3)
    for _ in range(4):
        stream.run()
    assert stream.calls == [(0, [1, 2]), (1, [3]), (1, [3]), (1, [3]), (1, [3])]


def test_arrow_batches(stream: Stream) -> None:
    stream.produce(1, 2)
    stream.run(noting_arrow(stream.location, lambda batch: (batch.schema, batch.to_pylist())))
    assert stream.calls == [(0, [(NUMBERS, [{"number": 1}, {"number": 2}])])]


@pytest.mark.parametrize("as_arrow", [False, True])
def test_kafka_records_need_no_schema(stream: Stream, as_arrow: bool) -> None:
    note = noting(stream.location, lambda row: (row["offset"], row["value"]))
    stream.produce(7, 8)
    with stream.cluster.serving(), ExactlyOnceStream(stream.location) as pipeline:
        _ = pipeline | ReadFromKafka("memory:9092", ["orders"], as_arrow=as_arrow) | ForEachBatch(note)
    assert stream.calls == [(0, [(0, b"7"), (1, b"8")])]


def test_an_error_of_user_code_ends_the_stream_and_the_call_comes_again(stream: Stream) -> None:
    stream.produce(1, 2, 3, 4)

    def fail_at_1(batch_id: int) -> None:
        if batch_id == 1:
            raise ZeroDivisionError("of user code")

    HOOKS["call", stream.location] = fail_at_1
    with ends_with("of user code"):
        stream.run()
    assert stream.checkpoint().read_marker(1) is not None, "the batch is committed all the same"
    assert stream.calls == [(0, [1, 2])]
    del HOOKS["call", stream.location]
    stream.run()
    assert stream.calls == [(0, [1, 2]), (1, [3, 4])]


@pytest.mark.parametrize(
    "killed",
    [
        KillPoint("put_if_absent", "offsets/", 2),
        KillPoint("put_if_absent", "staging/rows/", 2),
        KillPoint("put_if_absent", "commits/", 2),
        KillPoint("get", "staging/rows/", 2),
        KillPoint("delete", "staging/rows/", 1),
    ],
    ids=str,
)
def test_the_rule_makes_it_exactly_once_under_kills(stream: Stream, tmp_path: Path, killed: KillPoint) -> None:
    """Killed after that call of batch 1 to the store, by user code's own transaction left open or not begun."""
    database = str(tmp_path / "numbers.db")
    stream.produce(0, 1, 2, 3, 4)
    calls = StoreCalls(killed, kill)
    with watching(calls), contextlib.suppress(StepFailed, RuntimeError):
        stream.run(storing(database))
    stream.run(storing(database))
    stream.run(storing(database))
    assert stored(database) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("batch_id", [0, 1, 2])
def test_the_rule_when_user_code_dies_before_its_own_commit(stream: Stream, tmp_path: Path, batch_id: int) -> None:
    database = str(tmp_path / "numbers.db")

    def kill_there(now: int) -> None:
        if now == batch_id:
            kill()

    stream.produce(0, 1, 2, 3, 4)
    HOOKS["commit", database] = kill_there
    with ends_with("killed here"):
        stream.run(storing(database))
    assert stored(database) == list(range(2 * batch_id))
    del HOOKS["commit", database]
    stream.run(storing(database))
    assert stored(database) == [0, 1, 2, 3, 4]


def test_the_rule_when_each_attempt_makes_other_rows(stream: Stream, tmp_path: Path) -> None:
    """What is stored of a batch is what its winning attempt made, whole."""
    database = str(tmp_path / "numbers.db")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    stream.produce(*range(20))
    for _ in range(12):
        calls = StoreCalls(KillPoint("any", "", chance.randint(10, 60)), kill)
        attempt = chance.randint(1, 10**6)
        with (
            watching(calls),
            contextlib.suppress(StepFailed, RuntimeError),
            stream.cluster.serving(),
            ExactlyOnceStream(stream.location) as pipeline,
        ):
            _ = (
                pipeline
                | ReadFromKafka("memory:9092", ["orders"], max_batch_offsets=2)
                | beam.Map(lambda record, attempt=attempt: {"number": number_of(record) + 100 * attempt})
                | ForEachBatch(storing(database), schema=NUMBERS)
            )
    stream.run(storing(database))
    of_batches = stored_in_order(database)
    assert sorted(number % 100 for number in of_batches) == list(range(20))
    for first, second in zip(of_batches[::2], of_batches[1::2], strict=True):
        assert first // 100 == second // 100, "one attempt made the whole batch"


def stored_in_order(database: str) -> list[int]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [number for (number,) in connection.execute("select number from numbers order by rowid")]


def test_a_driver_that_was_replaced_before_the_call_does_not_make_it(stream: Stream) -> None:
    """One GET looks for a newer driver between the check of the commit and the call."""
    stream.produce(0, 1)
    replaced = StoreCalls(KillPoint("get", "writers/", 2), lambda: claim(stream))
    with watching(replaced), pytest.raises(Fenced):
        stream.run()
    assert stream.checkpoint().read_marker(0) is not None
    assert stream.calls == []
    stream.run()
    assert stream.calls == [(0, [0, 1])]


def claim(stream: Stream) -> None:
    StreamWriter.claim(Checkpoint.open(open_object_store(stream.location)), owner="newer", claimed_at_ms=1)


def test_the_rule_when_a_call_is_late(stream: Stream, tmp_path: Path) -> None:
    """A driver sleeps between the check and the call's transaction, while a newer one goes on by two batches."""
    database = str(tmp_path / "numbers.db")
    follow = storing(database)

    def sleep_first(batch_id: int) -> None:
        if not woken:
            woken.append(batch_id)
            stream.run(follow)

    stream.produce(0, 1, 2, 3, 4)
    woken: list[int] = []
    HOOKS["begin", database] = sleep_first
    with pytest.raises(Fenced):
        stream.run(follow)
    assert woken == [0]
    assert stored(database) == [0, 1, 2, 3, 4]


def test_a_new_checkpoint_is_another_stream_to_the_rule(stream: Stream, tmp_path: Path) -> None:
    database = str(tmp_path / "numbers.db")
    stream.produce(0, 1, 2)
    stream.run(storing(database))
    store = open_object_store(stream.location)
    store.delete([entry.key for entry in store.list()])
    stream.run(storing(database))
    assert stored(database) == [0, 0, 1, 1, 2, 2]


def test_rows_that_are_gone_are_no_success_even_if_user_code_thinks_so(stream: Stream) -> None:
    def never_mind(rows: BatchRows) -> None:
        with contextlib.suppress(Exception):
            list(rows)

    stream.produce(0, 1)
    staged_then_lost = StoreCalls(
        KillPoint("put_if_absent", "commits/", 1),
        lambda: open_object_store(stream.location).delete(staged(stream)),
    )
    with watching(staged_then_lost), pytest.raises(StagedOutputMissing):
        stream.run(never_mind)


def staged(stream: Stream) -> list[str]:
    return [entry.key for entry in open_object_store(stream.location).list("staging/rows/")]


def test_what_is_published_is_swept_from_staging(stream: Stream) -> None:
    """All but the newest batch, which the next start needs."""
    stream.produce(0, 1, 2, 3)
    stream.run()
    stream.run()
    assert ["00000000000000000001-" in key for key in staged(stream)] == [True]


@pytest.mark.parametrize(
    ("fn", "arguments"),
    [("no function", {}), (print, {"name": "a b"}), (print, {"schema": {"number": int}})],
    ids=["fn", "name", "schema"],
)
def test_what_it_refuses(fn: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ForEachBatch(fn, **arguments)


def test_outside_of_a_stream() -> None:
    with pytest.raises(UnsupportedPipeline, match="ForEachBatch works only in an ExactlyOnceStream"):
        _ = beam.Pipeline() | beam.Create([{"number": 1}]) | ForEachBatch(print, schema=NUMBERS)


def test_two_of_them_need_names(stream: Stream) -> None:
    stream.produce(1)
    first, second = f"{stream.location}-first", f"{stream.location}-second"
    with stream.cluster.serving(), ExactlyOnceStream(stream.location) as pipeline:
        numbers = (
            pipeline | ReadFromKafka("memory:9092", ["orders"]) | beam.Map(lambda record: {"number": number_of(record)})
        )
        _ = numbers | "First" >> ForEachBatch(noting(first, itemgetter("number")), schema=NUMBERS)
        with pytest.raises(ConfigurationError, match="two sinks are named 'for_each_batch'"):
            _ = numbers | "Unnamed" >> ForEachBatch(noting(second, itemgetter("number")), schema=NUMBERS)
        _ = numbers | "Second" >> ForEachBatch(noting(second, itemgetter("number")), schema=NUMBERS, name="second")
    assert CALLS[first] == CALLS[second] == [(0, [1])]
