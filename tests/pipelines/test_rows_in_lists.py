"""Rows that travel in lists: the same rows, errors and counters as row by row."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.transforms.window import TimestampedValue

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles, read_batches
from beam_exactly_once.errors import StepFailed
from beam_exactly_once.pipelines import stream as streams
from beam_exactly_once.testing import MemoryKafka, run_in_memory
from beam_exactly_once.transforms.in_lists import functions

pytestmark = pytest.mark.runs_on("DirectRunner")

Row = dict[str, Any]
COUNTED = Metrics.counter("test", "counted")
VALUES = [b"%d" % number for number in range(40)]


def value(record: Record) -> Row:
    assert record.value is not None
    return {"n": int(record.value)}


def counted(row: Row) -> Row:
    COUNTED.inc()
    return row


def thrice_the_odd(row: Row) -> Iterator[Row]:
    for copy in range(3 if row["n"] % 2 else 0):
        yield {**row, "copy": copy}


def stamped(row: Row) -> Any:
    return TimestampedValue(row, row["n"]) if row["n"] % 2 else row


def with_time(row: Row, time: Any = beam.DoFn.TimestampParam) -> Row:
    return {**row, "us": time.micros}


class Same(beam.DoFn):
    def process(self, row: Row) -> list[Row]:
        return [row]


STEPS: dict[str, Callable[[], beam.PTransform]] = {
    "Map": lambda: beam.Map(lambda row: {**row, "n": row["n"] + 1}),
    "Filter": lambda: beam.Filter(lambda row: row["n"] % 5),
    "FlatMap": lambda: beam.FlatMap(thrice_the_odd),
    "FlatMap of None": lambda: beam.FlatMap(lambda row: [row] if row["n"] % 3 else None),
    "times": lambda: beam.Map(stamped),
    "a parameter of Beam": lambda: beam.Map(with_time),
    "an argument": lambda: beam.Map(lambda row, more: {**row, "more": more}, 9),
    "a DoFn": lambda: beam.ParDo(Same()),
}


def written(steps: list[str]) -> list[str]:
    def build(stream: ExactlyOnceStream) -> None:
        rows = stream | ReadFromKafka("memory:9092", ["numbers"]) | "Value" >> beam.Map(value)
        for number, name in enumerate(steps):
            rows |= f"{name} {number}" >> STEPS[name]()
        _ = rows | WriteToFiles("s3://lake/rows", format="json")

    rows = run_in_memory(build, {"numbers": [VALUES]}).rows("files")
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_steps_make_the_same_rows_in_lists_and_one_by_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = random.Random(seed).choices(list(STEPS), k=6)
    print(steps)
    monkeypatch.setattr(functions, "MAX_MADE_ROWS", 4)
    in_lists = written(steps)
    monkeypatch.setattr(streams, "hand_on_in_lists", lambda pipeline: None)
    assert in_lists == written(steps)


class _Kinds(PipelineVisitor):
    def __init__(self) -> None:
        self.in_lists: list[str] = []

    def visit_transform(self, node: AppliedPTransform) -> None:
        if isinstance(node.transform, beam.ParDo) and getattr(node.transform.fn, "input_batch_converter", None):
            self.in_lists.append(node.full_label)


def read(stream: ExactlyOnceStream) -> Any:
    return stream | ReadFromKafka("memory:9092", ["numbers"]) | "Value" >> beam.Map(value)


def kafka() -> MemoryKafka:
    cluster = MemoryKafka({"numbers": 1})
    cluster.append(Record("numbers", 0, value=one) for one in VALUES)
    return cluster


def test_the_counters_of_a_function_are_those_of_its_step(tmp_path: Any) -> None:
    with kafka().serving(), ExactlyOnceStream(str(tmp_path / "checkpoint")) as stream:
        rows = read(stream) | "One" >> beam.Map(counted) | beam.Filter(lambda row: row["n"] < 30)
        _ = rows | "Other" >> beam.Map(counted) | WriteToFiles(str(tmp_path / "rows"), format="json")
    found = _Kinds()
    stream.visit(found)
    assert found.in_lists[:2] == ["Value", "One"]
    assert found.in_lists[-2:] == ["Other", "WriteToFiles/Blocks"]
    counters = stream.result.metrics().query()["counters"]
    assert {one.key.step: one.committed for one in counters} == {"One": 40, "Other": 30}


def test_rows_that_two_steps_read_are_single(tmp_path: Path) -> None:
    with kafka().serving(), ExactlyOnceStream(str(tmp_path / "checkpoint")) as stream:
        rows = read(stream)
        for name in ("a", "b"):
            marked = rows | f"Mark {name}" >> beam.Map(lambda row, name=name: {**row, "by": name})
            _ = marked | WriteToFiles(str(tmp_path / name), format="json", name=name)
    found = _Kinds()
    stream.visit(found)
    assert found.in_lists == ["Value"]
    for name in ("a", "b"):
        (batch,) = read_batches(str(tmp_path / name))
        texts = [Path(file.uri.removeprefix("file://")).read_text() for file in batch.files]
        rows_of_file = [json.loads(line) for text in texts for line in text.splitlines()]
        assert rows_of_file == [{"n": number, "by": name} for number in range(40)]


@pytest.mark.parametrize("failing", [beam.Map, beam.FlatMap])
def test_an_error_names_the_step_and_the_record_behind_steps_that_drop_and_multiply(
    failing: Any, tmp_path: Any
) -> None:
    stream = ExactlyOnceStream(str(tmp_path / "checkpoint"))
    rows = read(stream) | beam.Filter(lambda row: row["n"] % 5) | beam.FlatMap(thrice_the_odd)
    rows |= "Fail" >> failing(lambda row: [{"n": 1 // (row["n"] - 17)}])
    _ = rows | beam.Map(lambda row: row) | WriteToFiles(str(tmp_path / "rows"), format="json")
    with kafka().serving(), pytest.raises(StepFailed, match=r"step 'Fail' .* Read last: numbers-0 at offset 17\."):
        stream.run()
