"""Streams as one unbounded pipeline on Prism: the batches are those of any other trigger, also when parts of it are killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
import psutil
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import TimestampedValue

from beam_exactly_once import (
    AvailableNow,
    BatchProgress,
    Continuous,
    ExactlyOnceStream,
    ProcessingTime,
    ReadFromKafka,
    Record,
    Trigger,
    WriteToFiles,
    read_batches,
)
from beam_exactly_once.errors import StepFailed, UnsupportedPipeline
from beam_exactly_once.kafka import EmbeddedBroker, produce
from services.streams.unlucky import assert_names_step_and_offsets, failing, numbers
from support.lives import values_in
from support.wal.streams import append, run_to_files, sweep
from support.wal.streams import numbers as wal_numbers

PARTITIONS = 2
Step = Callable[["beam.PCollection[Any]"], "beam.PCollection[Any]"]

# Of a job that failed, Prism forgets the worker before the worker's streams have ended: Beam's threads say so.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.runs_on("PrismRunner", trigger="Continuous"),
]

NUMBERS = pa.schema([("number", pa.int64())])
COUNTS = pa.schema([("key", pa.int64()), ("count", pa.int64())])


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({"orders": PARTITIONS}) as broker:
        yield broker


def send(broker: EmbeddedBroker, values: Iterable[object]) -> None:
    for _ in produce(broker.bootstrap_servers, "orders", PARTITIONS, (str(value).encode() for value in values)):
        pass


def children() -> list[str]:
    return [child.name() for child in psutil.Process().children(recursive=True)]


class Stream:
    """Topic orders to JSON files."""

    def __init__(self, prism_location: str, folder: Path, broker: EmbeddedBroker) -> None:
        self.options = PipelineOptions(["--runner=PrismRunner", f"--prism_location={prism_location}"])
        self.broker = broker
        self.output, self.checkpoint = folder / "output", folder / "checkpoint"
        self.progress: list[BatchProgress] = []
        self.sent = 0

    def send(self, count: int) -> None:
        send(self.broker, range(self.sent, self.sent + count))
        self.sent += count

    def run(
        self,
        trigger: Trigger,
        through: Step = numbers,
        schema: pa.Schema = NUMBERS,
        max_batch_offsets: int = 10,
        **stream: Any,
    ) -> None:
        with ExactlyOnceStream(
            str(self.checkpoint), trigger=trigger, options=self.options, listeners=self.progress.append, **stream
        ) as pipeline:
            read = ReadFromKafka(self.broker.bootstrap_servers, ["orders"], max_batch_offsets=max_batch_offsets)
            rows = through(pipeline | read)
            _ = rows | WriteToFiles(str(self.output), format="json", schema=schema)

    def rows(self, name: str = "output") -> list[dict[str, Any]]:
        """Of all files that manifests name."""
        output = self.output.parent / name
        files = [file for batch in read_batches(str(output)) for file in batch.files]
        return [orjson.loads(line) for file in files for line in Path(file.uri).read_bytes().splitlines()]

    def numbers(self) -> list[int]:
        return sorted(row["number"] for row in self.rows())


@pytest.fixture
def stream(prism_location: str, tmp_path: Path, broker: EmbeddedBroker) -> Stream:
    return Stream(prism_location, tmp_path, broker)


def test_triggers_take_turns(stream: Stream) -> None:
    """At every start any of them goes on where the one before stopped; a continuous job leaves no Prism behind."""
    stream.send(40)
    prisms = children().count("prism")
    stream.run(Continuous(0.1), max_batches=4)
    assert children().count("prism") == prisms
    assert [batch.batch_id for batch in stream.progress] == [0, 1, 2, 3]
    assert stream.numbers() == list(range(40))

    stream.send(10)
    stream.run(AvailableNow())
    assert stream.numbers() == list(range(50))
    stream.send(10)
    stream.run(Continuous(0), max_batches=1)
    stream.send(10)
    stream.run(ProcessingTime(0), max_batches=1)

    assert stream.numbers() == list(range(70))
    assert sum(batch.records_read for batch in stream.progress) == 70
    assert {batch.rows_written["files"] for batch in stream.progress} == {10}


def test_a_write_ahead_log(prism_location: str, tmp_path: Path) -> None:
    """What the stream has not finished with stays, whatever a sweep may take."""
    options = PipelineOptions(["--runner=PrismRunner", f"--prism_location={prism_location}"])

    def write_more(progress: BatchProgress) -> None:
        if progress.batch_id == 0:
            append(tmp_path, wal_numbers(range(20, 30)), partition=1)
            sweep(tmp_path)

    append(tmp_path, wal_numbers(range(20)))
    run_to_files(
        tmp_path,
        stream_trigger=Continuous(0),
        stream_max_batches=2,
        stream_options=options,
        stream_listeners=write_more,
    )
    append(tmp_path, wal_numbers(range(30, 40)))
    sweep(tmp_path)
    run_to_files(tmp_path)

    assert values_in(tmp_path / "output") == sorted(wal_numbers(range(40)))


def test_what_a_step_groups_is_one_batch(stream: Stream) -> None:
    """Also with rows that wait for the end of a bundle, and beside what is the same for all batches."""

    class InPairs(beam.DoFn):
        def start_bundle(self) -> None:
            self._waiting: list[Any] = []

        def process(self, row: Any) -> None:
            self._waiting.append(row)

        def finish_bundle(self) -> Iterator[Any]:
            yield from map(beam.transforms.window.GlobalWindows.windowed_value, self._waiting)

    def counts(records: beam.PCollection[Record]) -> beam.PCollection[dict[str, int]]:
        pipeline = records.pipeline
        modulus = beam.pvalue.AsSingleton(pipeline | "modulus" >> beam.Create([3]))
        return (
            records
            | beam.Map(lambda record: int(record.value))
            | beam.Reshuffle()
            | beam.ParDo(InPairs())
            | beam.Map(lambda number, modulus: (number % modulus, 1), modulus)
            | beam.CombinePerKey(sum)
            | beam.MapTuple(lambda key, count: {"key": key, "count": count})
        )

    stream.send(90)
    stream.run(Continuous(0.1), counts, COUNTS, max_batch_offsets=30, max_batches=3)

    assert Counter((row["key"], row["count"]) for row in stream.rows()) == {(key, 10): 3 for key in range(3)}


def test_times_of_ones_own_are_refused(stream: Stream) -> None:
    """They would take elements out of the window of their batch, and nobody would miss them."""
    stream.send(10)

    def timed(records: beam.PCollection[Record]) -> beam.PCollection[dict[str, int]]:
        return numbers(records) | beam.Map(lambda row: TimestampedValue(row, 1_767_225_600))

    with pytest.raises(UnsupportedPipeline, match=r"timestamp of their own.* use trigger=ProcessingTime"):
        stream.run(Continuous(0), timed)
    assert stream.rows() == []


def test_an_error_of_a_step_ends_the_stream_as_in_micro_batches(stream: Stream) -> None:
    stream.send(20)
    with pytest.raises(StepFailed) as raised:
        stream.run(Continuous(0), failing, max_batch_offsets=20)
    assert_names_step_and_offsets(raised.value)
    assert stream.numbers() == []

    stream.run(AvailableNow())
    assert stream.numbers() == list(range(20))
