"""Streams on Prism, Beam's runner for one machine: another program, which the translated graph is sent to again and
again."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
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

from beam_exactly_once import (
    BatchProgress,
    ExactlyOnceStream,
    ProgressListener,
    ReadFromKafka,
    Record,
    WriteToFiles,
    read_batches,
)
from beam_exactly_once.errors import EXIT_DONE, DataLoss, StepFailed
from beam_exactly_once.kafka import EmbeddedBroker, produce
from beam_exactly_once.pipelines.kafka_to_files import main
from beam_exactly_once.pipelines.runners.job_server import MAX_PRISM_RUNS
from beam_exactly_once.pipelines.worker_pool.pool import running_worker_pool
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from beam_exactly_once.transforms.reading import read_ranges
from services.streams.to_files import values_in
from services.streams.topics import Topic
from services.streams.unlucky import assert_names_step_and_offsets, failing, numbers
from support.held_reader import hold, splits_wanted

PARTITIONS = 2
Step = Callable[["beam.PCollection[Any]"], "beam.PCollection[Any]"]

# Of a job that failed, Prism forgets the worker before the worker's streams have ended: Beam's threads say so.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.runs_on("PrismRunner"),
]


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({"orders": PARTITIONS}) as broker:
        yield broker


def send(broker: EmbeddedBroker, numbers: Iterable[int]) -> None:
    for _ in produce(broker.bootstrap_servers, "orders", PARTITIONS, (b"%d" % number for number in numbers)):
        pass


class Stream:
    """A topic to JSON files by Prism."""

    def __init__(self, prism_location: str, folder: Path) -> None:
        self.options = ["--runner=PrismRunner", f"--prism_location={prism_location}"]
        self.output = folder / "output"
        self.checkpoint = folder / "checkpoint"
        self.progress: list[BatchProgress] = []
        self.listeners: list[ProgressListener] = [self.progress.append]

    def run(
        self, bootstrap_servers: str, topic: str = "orders", *, through: Step, schema: pa.Schema, **read: object
    ) -> None:
        options = PipelineOptions(self.options)
        with ExactlyOnceStream(str(self.checkpoint), options=options, listeners=self.listeners) as stream:
            rows = through(stream | ReadFromKafka(bootstrap_servers, [topic], **read))
            _ = rows | WriteToFiles(str(self.output), format="json", schema=schema)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Of all files that manifests name."""
        for batch in read_batches(str(self.output)):
            for file in batch.files:
                yield from map(orjson.loads, Path(file.uri).read_bytes().splitlines())

    def numbers(self) -> list[int]:
        return sorted(row["number"] for row in self.rows())


@pytest.fixture
def stream(prism_location: str, tmp_path: Path) -> Stream:
    return Stream(prism_location, tmp_path)


NUMBERS = pa.schema([("number", pa.int64())])
COUNTS = pa.schema([("key", pa.int64()), ("count", pa.int64())])


def children() -> list[str]:
    return [child.name() for child in psutil.Process().children(recursive=True)]


def test_batches_come_exactly_once_from_one_prism(stream: Stream, broker: EmbeddedBroker) -> None:
    send(broker, range(100))
    before = children().count("prism")

    stream.run(broker.bootstrap_servers, through=numbers, schema=NUMBERS, max_batch_offsets=30)

    assert stream.numbers() == list(range(100))
    assert [(batch.records_read, batch.rows_written) for batch in stream.progress] == [
        (count, {"files": count}) for count in (30, 30, 30, 10)
    ]
    assert children().count("prism") <= before + 1

    send(broker, range(100, 150))
    stream.run(broker.bootstrap_servers, through=numbers, schema=NUMBERS)
    assert stream.numbers() == list(range(150))


def test_a_group_by_key_groups_one_batch(stream: Stream, broker: EmbeddedBroker) -> None:
    send(broker, range(60))

    def counts(records: beam.PCollection[Record]) -> beam.PCollection[dict[str, int]]:
        return (
            records
            | beam.Map(lambda record: (int(record.value) % 3, 1))
            | beam.CombinePerKey(sum)
            | beam.MapTuple(lambda key, count: {"key": key, "count": count})
        )

    stream.run(broker.bootstrap_servers, through=counts, schema=COUNTS, max_batch_offsets=30)

    found = list(stream.rows())
    assert len(found) == 2 * 3
    totals: Counter[int] = Counter()
    for row in found:
        totals[row["key"]] += row["count"]
    assert totals == {0: 20, 1: 20, 2: 20}


def test_a_failed_batch_names_step_and_offsets_and_runs_again(stream: Stream, broker: EmbeddedBroker) -> None:
    send(broker, range(20))

    with pytest.raises(StepFailed) as raised:
        stream.run(broker.bootstrap_servers, through=failing, schema=NUMBERS)
    assert_names_step_and_offsets(raised.value)
    assert stream.numbers() == []

    stream.run(broker.bootstrap_servers, through=numbers, schema=NUMBERS)
    assert stream.numbers() == list(range(20))


@pytest.mark.parametrize("on_data_loss", ["fail", "skip"])
def test_records_deleted_between_plan_and_read(stream: Stream, broker: EmbeddedBroker, on_data_loss: Any) -> None:
    send(broker, range(20))

    def delete() -> None:
        for partition in range(PARTITIONS):
            broker.delete_records("orders", partition, 4)

    def run(on_data_loss: Any) -> None:
        stream.run(broker.bootstrap_servers, through=numbers, schema=NUMBERS, on_data_loss=on_data_loss)

    with watching(StoreCalls(KillPoint("put_if_absent", "offsets/", 1), delete)):
        if on_data_loss == "fail":
            with pytest.raises(DataLoss, match="no longer holds offset 0"):
                run("fail")
            assert stream.numbers() == []
        run("skip")

    assert stream.numbers() == list(range(8, 20))
    assert [(batch.records_read, sum(batch.offsets_lost.values())) for batch in stream.progress] == [(12, 8)]


@pytest.mark.parametrize("part", ["worker", "Prism"])
def test_a_part_that_is_lost_in_a_batch_and_the_driver_goes_on(
    stream: Stream, broker: EmbeddedBroker, prism_location: str, tmp_path: Path, part: str
) -> None:
    send(broker, range(60))

    with running_worker_pool("localhost", 0, []) as port:
        stream.options += ["--environment_type=EXTERNAL", f"--environment_config=localhost:{port}"]
        killing = killed_once(tmp_path / "killed", prism_location if part == "Prism" else None)
        stream.run(broker.bootstrap_servers, through=killing, schema=NUMBERS, max_batch_offsets=20)

    assert stream.numbers() == list(range(60))
    assert [(one.batch_id, one.writer_epoch, one.attempts_lost > 0) for one in stream.progress] == [
        (0, 1, False),
        (1, stream.progress[1].writer_epoch, True),
        (2, stream.progress[1].writer_epoch, False),
    ]


def killed_once(mark: Path, program: str | None) -> Step:
    """A step that kills its own worker, or the Prism of this test, at one record, and at no other time."""
    driver = os.getpid()

    def killing(record: Record) -> Record:
        import contextlib

        if int(record.value) == 30:
            with contextlib.suppress(FileExistsError), mark.open("x"):
                if program is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                for one in psutil.Process(driver).children(recursive=True):
                    if one.exe() == program:
                        one.kill()
        return record

    return lambda records: numbers(records | beam.Map(killing).with_output_types(Record))


def test_a_long_range_of_a_real_broker_in_parts(stream: Stream, new_topic: Callable[..., Topic]) -> None:
    """More offsets than one initial split, so that several readers share a partition."""
    count = 300_000
    topic = new_topic()
    for _ in produce(topic.bootstrap_servers, topic.name, 1, (b"%d" % number for number in range(count))):
        pass

    stream.run(topic.bootstrap_servers, topic.name, through=numbers, schema=NUMBERS)

    assert stream.numbers() == list(range(count))
    assert [batch.records_read for batch in stream.progress] == [count]


def with_transactions(topic: Topic) -> None:
    """Aborted records, and the markers of all, at the start, at the end and between."""
    topic.send_aborted(b"%d" % -number for number in range(1, 60))
    for first in range(0, 300, 100):
        topic.send_committed(b"%d" % number for number in range(first, first + 60))
        topic.send_aborted([b"-1000"] * 20)
        topic.send(b"%d" % number for number in range(first + 60, first + 100))
    topic.send_aborted([b"-1000"] * 60)


def compacted(topic: Topic) -> None:
    """Every third record is left; also none of the first and of the last before the open segment, which is not compacted."""
    padding = b" " * 20_000
    for number in range(300):
        lasts = number % 3 == 1 and number < 290
        topic.send([b"%d" % number + padding], key=b"%d" % number if lasts else b"replaced")
    left = topic.wait_compacted(max_records=160)
    assert left[0] == 1
    topic.committed = Counter(b"%d" % offset + padding for offset in left)


@pytest.mark.parametrize(
    ("fill", "config"),
    [
        (with_transactions, {}),
        (compacted, {"cleanup_policy": "compact", "segment_bytes": 1 << 20, "min_cleanable_dirty_ratio": "0.01"}),
    ],
)
def test_a_range_is_split_while_it_is_read(
    stream: Stream,
    new_topic: Callable[..., Topic],
    monkeypatch: pytest.MonkeyPatch,
    fill: Callable[[Topic], None],
    config: dict[str, object],
) -> None:
    """Prism asks for a split of a bundle that makes no progress: a slow step behind the reader is waited for."""
    monkeypatch.setattr(read_ranges, "MAX_CHUNK_RECORDS", 10)
    topic = new_topic(**config)
    fill(topic)

    def slowly(records: beam.PCollection[Record]) -> beam.PCollection[dict[str, int]]:
        return numbers(records | beam.Map(hold).with_output_types(Record))

    with splits_wanted(3) as splits:
        stream.run(topic.bootstrap_servers, topic.name, through=slowly, schema=NUMBERS)

    assert len(splits.granted) >= 3
    assert stream.numbers() == sorted(int(value) for value in topic.committed.elements())
    assert [batch.records_read for batch in stream.progress] == [topic.committed.total()]


def end_orphans(program: str, mark: str) -> None:
    """Prism outlives a driver that was killed; end those that inherited this mark."""
    for process in psutil.process_iter(["exe"]):
        if process.info["exe"] == program and mark in process.environ().values():
            process.kill()
            process.wait()


@pytest.mark.runs_on("PrismRunner", storage="S3")
@pytest.mark.parametrize("kill_after", ["stage::2", "put_if_absent:commits/:2"])
def test_the_ready_made_pipeline_killed_and_started_again(
    prism_location: str, new_topic: Callable[..., Topic], bucket: str, kill_after: str
) -> None:
    topic, mark = new_topic(2), secrets.token_hex(8)
    for number in range(4):
        topic.send_committed([b"%d-%d" % (number, one) for one in range(50)], partition=number % 2)
        topic.send_aborted([b"never"], partition=number % 2)
    command = [
        f"--bootstrap-servers={topic.bootstrap_servers}",
        f"--topics={topic.name}",
        f"--output-location={bucket}/output",
        f"--checkpoint-location={bucket}/checkpoint",
        "--max-batch-offsets=60",
        "--runner=PrismRunner",
        f"--prism_location={prism_location}",
    ]
    module = "beam_exactly_once.pipelines.kafka_to_files"
    watched = ["-m", "beam_exactly_once.testing.crashing", "--kill_after", kill_after, module]
    environment = {**os.environ, "MARK": mark}
    try:
        killed = subprocess.run(
            [sys.executable, *watched, *command], env=environment, check=False, stderr=subprocess.DEVNULL
        )
    finally:
        end_orphans(prism_location, mark)
    assert killed.returncode == -signal.SIGKILL

    assert main(command) == EXIT_DONE

    assert values_in(f"{bucket}/output") == topic.committed


def test_a_batch_may_take_longer_than_beam_waits_for_a_job_server(stream: Stream, broker: EmbeddedBroker) -> None:
    send(broker, range(10))

    def slow(records: beam.PCollection[Record]) -> beam.PCollection[dict[str, int]]:
        def wait(row: dict[str, int]) -> dict[str, int]:
            time.sleep(0.3)
            return row

        return numbers(records) | beam.Map(wait)

    stream.options.append("--job_server_timeout=1")
    stream.run(broker.bootstrap_servers, through=slow, schema=NUMBERS)
    assert stream.numbers() == list(range(10))


def test_150_batches_keep_memory_flat(stream: Stream, broker: EmbeddedBroker) -> None:
    send(broker, range(150))
    seen: list[tuple[int, int, int]] = []

    def look(progress: BatchProgress) -> None:
        process = psutil.Process()
        (prism,) = [child for child in process.children(recursive=True) if child.name() == "prism"]
        seen.append((process.memory_info().rss, process.num_threads(), prism.memory_info().rss))

    stream.listeners.append(look)
    stream.run(broker.bootstrap_servers, through=numbers, schema=NUMBERS, max_batch_offsets=1)

    assert len(seen) == 150
    rss, threads, prism_rss = ([one[index] for one in seen] for index in range(3))
    assert max(rss[50:]) <= max(rss[:50]) + 25_000_000
    assert max(threads[50:]) <= max(threads[:50]) + 20
    # A Prism keeps a little of each job; the next one is no larger where it is as old as the first one was.
    assert max(prism_rss[:MAX_PRISM_RUNS]) <= max(prism_rss[:50]) + 30_000_000
    assert max(prism_rss[MAX_PRISM_RUNS:]) <= max(prism_rss[:50]) + 20_000_000
    assert stream.numbers() == list(range(150))
