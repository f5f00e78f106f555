"""What is forgotten by event time: a stop of the stream forgets nothing, and what comes again is known again."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import (
    DeduplicateByKey,
    EventTime,
    ReadFromKafka,
    Record,
    StatefulCombinePerKey,
    UpdateStateByKey,
    WriteToFiles,
)
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.testing import run_in_memory


def order(name: str, at_s: float) -> Record:
    return Record(value=name.encode(), timestamp_ms=int(1000 * at_s))


def through(operator: Any, batches: list[list[Record]], out_of_order_s: float = 0) -> Any:
    """What ``operator`` gives of pairs of a name and a time, batch by batch."""

    def build(stream: Any) -> None:
        read = ReadFromKafka("broker:9092", ["orders"], event_time=EventTime(out_of_order_s=out_of_order_s))
        pairs = stream | read | beam.Map(lambda record: (record.value.decode(), record.timestamp_ms))
        emitted = pairs | operator
        emitted | beam.MapTuple(lambda key, value: {"key": key, "value": value}) | WriteToFiles("out", format="json")

    return run_in_memory(build, {"orders": batches})


def given(run: Any) -> list[list[Any]]:
    return [sorted((row["key"], row["value"]) for row in batch) for batch in run.published["files"]]


def by_time(at_ms: int) -> int:
    return at_ms


def test_a_key_is_new_again_by_the_watermark() -> None:
    """By that of the batch before, as what is late is."""
    run = through(
        DeduplicateByKey(ttl_s=60, event_time_by=by_time),
        [[order("a", 1)], [order("a", 50), order("b", 70)], [order("a", 71)], [order("a", 72)]],
    )
    assert given(run) == [[("a", 1_000)], [("b", 70_000)], [], [("a", 72_000)]]


def test_what_is_sent_again_is_given_once_however_late_it_comes() -> None:
    """In the batch that comes behind a jump of the watermark, too, and where the key has been forgotten."""
    run = through(
        DeduplicateByKey(ttl_s=60, event_time_by=by_time),
        [[order("a", 1)], [order("z", 500)], [order("a", 1), order("z", 1_000)], [order("a", 1)]],
    )
    assert given(run) == [[("a", 1_000)], [("z", 500_000)], [], []]
    assert [dict(batch.rows_late) for batch in run.progress] == [{"deduplicate_by_key": late} for late in (0, 0, 0, 1)]


@pytest.mark.parametrize("seed", [7])
def test_which_keys_are_given_does_not_depend_on_where_batches_are_cut(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    orders = [order(f"{number}", 10 * number) for number in range(20)]
    again = [orders[chance.randrange(number + 1)] for number in range(20) if chance.random() < 0.7]
    sent = sorted([*orders, *again], key=lambda one: one.timestamp_ms + chance.randrange(40_000))
    for cuts in ([], sorted(chance.sample(range(1, len(sent)), 6)), range(1, len(sent), 2)):
        batches = [sent[start:stop] for start, stop in pairwise([0, *cuts, len(sent)])]
        run = through(DeduplicateByKey(ttl_s=90, event_time_by=by_time), batches, out_of_order_s=60)
        assert sorted(key for batch in given(run) for key, _ in batch) == sorted(map(str, range(20)))


def test_a_sum_is_forgotten_by_the_latest_of_its_values() -> None:
    run = through(
        UpdateStateByKey(lambda values, state: (state or 0) + len(values), ttl_s=60, event_time_by=by_time),
        [
            [order("a", 1), order("b", 1)],
            [order("a", 50)],
            [order("z", 100)],
            [order("y", 100)],
            [order("a", 2), order("b", 2)],
        ],
    )
    assert given(run) == [[("a", 1), ("b", 1)], [("a", 2)], [("z", 1)], [("y", 1)], [("a", 3), ("b", 1)]]


def test_columns_are_forgotten_by_a_column() -> None:
    def build(stream: Any) -> None:
        read = ReadFromKafka("broker:9092", ["orders"], as_arrow=True, event_time=EventTime(out_of_order_s=0))
        counts = StatefulCombinePerKey({"offset": len}, key_columns=["value"], ttl_s=60, event_time_by="timestamp_ms")
        emitted = stream | read | counts
        emitted | beam.Map(_named).with_output_types(pa.RecordBatch) | WriteToFiles("out", format="json")

    run = run_in_memory(
        build,
        {
            "orders": [
                [order("a", 1), order("b", 1)],
                [order("a", 50)],
                [order("z", 100)],
                [order("y", 100)],
                [order("a", 2), order("b", 2)],
            ]
        },
    )
    assert given(run) == [[("a", 1), ("b", 1)], [("a", 2)], [("z", 1)], [("y", 1)], [("a", 3), ("b", 1)]]


def _named(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.record_batch({"key": batch.column("value").cast(pa.string()), "value": batch.column("offset")})


def test_a_time_that_nothing_goes_by_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"event_time_by.*ttl_s"):
        DeduplicateByKey(ttl_s=None, event_time_by="at_ms")
