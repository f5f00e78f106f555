"""Streams on a Flink inside the job server, with workers in the driver: no cluster."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
import psutil
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import BatchProgress, ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles, read_batches
from beam_exactly_once.errors import EXIT_DONE, StepFailed
from beam_exactly_once.kafka import EmbeddedBroker, produce
from beam_exactly_once.pipelines.kafka_to_files import main
from services.streams.flink_streams import WAIT_S, Gate, gated_command, local_options, started, values
from services.streams.topics import Topic
from services.streams.unlucky import assert_names_step_and_offsets, failing, numbers

pytestmark = pytest.mark.runs_on("FlinkRunner [local]")

NUMBERS = pa.schema([("number", pa.int64())])
COUNTS = pa.schema([("number", pa.int64()), ("count", pa.int64())])
RECORDS = 100
MAX_RSS_GROWTH_BYTES = 15_000_000
Step = Callable[["beam.PCollection[Any]"], "beam.PCollection[Any]"]


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """Holds the numbers below RECORDS, in two partitions."""
    with EmbeddedBroker({"orders": 2}) as broker:
        for _ in produce(broker.bootstrap_servers, "orders", 2, (b"%d" % number for number in range(RECORDS))):
            pass
        yield broker


class Stream:
    """Those numbers through a step into JSON files."""

    def __init__(self, folder: Path, job_server_jar: str, broker: EmbeddedBroker) -> None:
        self._folder = folder
        self._options = local_options(job_server_jar)
        self._bootstrap_servers = broker.bootstrap_servers
        self.seen: list[tuple[int, int, int]] = []
        """After each batch: Java programs of its own, threads, resident bytes."""
        self.others = children()["java"]

    def run(self, through: Step, schema: pa.Schema, **read: Any) -> None:
        options = PipelineOptions(self._options)
        with ExactlyOnceStream(f"{self._folder}/checkpoint", options=options, listeners=[self._look]) as stream:
            rows = through(stream | ReadFromKafka(self._bootstrap_servers, ["orders"], **read))
            _ = rows | WriteToFiles(f"{self._folder}/output", format="json", schema=schema)

    def _look(self, progress: BatchProgress) -> None:
        process = psutil.Process()
        self.seen.append((children()["java"] - self.others, process.num_threads(), process.memory_info().rss))

    def rows(self) -> list[dict[str, Any]]:
        files = [file for batch in read_batches(f"{self._folder}/output") for file in batch.files]
        return [orjson.loads(line) for file in files for line in Path(file.uri).read_bytes().splitlines()]


@pytest.fixture
def stream(tmp_path: Path, flink_job_server_jar: str, broker: EmbeddedBroker) -> Stream:
    return Stream(tmp_path, flink_job_server_jar, broker)


@pytest.fixture
def topic(new_topic: Callable[..., Topic]) -> Topic:
    """Committed and aborted records in every partition."""
    topic = new_topic(2)
    for partition in range(2):
        topic.send_committed([b"%d-%d" % (partition, number) for number in range(100)], partition=partition)
        topic.send_aborted([b"never"], partition=partition)
    return topic


def children(of: int | None = None) -> Counter[str]:
    return Counter(child.name() for child in psutil.Process(of).children(recursive=True))


def test_the_ready_made_pipeline(topic: Topic, tmp_path: Path, flink_job_server_jar: str) -> None:
    before = children()

    code = main(
        [
            f"--bootstrap-servers={topic.bootstrap_servers}",
            f"--topics={topic.name}",
            f"--output-location={tmp_path}/output",
            f"--checkpoint-location={tmp_path}/checkpoint",
            "--max-batch-offsets=120",
            *local_options(flink_job_server_jar),
        ]
    )

    assert code == EXIT_DONE
    assert values(str(tmp_path)) == topic.committed
    assert children() == before


def test_6_batches_share_one_job_server_and_leave_nothing_behind(stream: Stream) -> None:
    """And a GroupByKey groups one batch."""

    def counts(records: beam.PCollection[Record]) -> beam.PCollection[dict[str, int]]:
        return (
            records
            | beam.Map(lambda record: (int(record.value) % 2, 1))
            | beam.CombinePerKey(sum)
            | beam.MapTuple(lambda number, count: {"number": number, "count": count})
        )

    stream.run(counts, COUNTS, max_batch_offsets=18)

    assert len(stream.seen) == 6
    assert {java for java, _, _ in stream.seen} == {1}
    _, threads_early, rss_early = stream.seen[2]
    _, threads, rss = stream.seen[-1]
    assert threads <= threads_early + 2
    assert rss <= rss_early + MAX_RSS_GROWTH_BYTES
    assert children()["java"] == stream.others
    totals: Counter[int] = Counter()
    for row in stream.rows():
        totals[row["number"]] += row["count"]
    assert totals == {0: RECORDS / 2, 1: RECORDS / 2}
    assert len(stream.rows()) > 6, "groups of several batches were joined"


def test_a_failed_step_names_step_and_offsets_and_the_batch_runs_again(stream: Stream) -> None:
    with pytest.raises(StepFailed) as raised:
        stream.run(failing, NUMBERS)
    assert_names_step_and_offsets(raised.value)
    assert stream.rows() == []

    stream.run(numbers, NUMBERS)
    assert sorted(row["number"] for row in stream.rows()) == list(range(RECORDS))


def test_a_job_server_that_is_lost_in_a_batch_and_the_driver_goes_on(
    topic: Topic, tmp_path: Path, flink_job_server_jar: str
) -> None:
    gate = Gate(tmp_path / "gate")
    options = local_options(flink_job_server_jar)
    command = gated_command(topic.bootstrap_servers, topic.name, str(tmp_path), gate, options)
    with started(command) as driver:
        gate.wait_reached(driver)
        (java,) = [one for one in psutil.Process(driver.pid).children(recursive=True) if one.name() == "java"]
        java.kill()
        gate.open()
        assert driver.wait(WAIT_S) == EXIT_DONE
    assert values(str(tmp_path)) == topic.committed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_batch_end(topic: Topic, tmp_path: Path, flink_job_server_jar: str, number: int) -> None:
    gate = Gate(tmp_path / "gate")
    options = local_options(flink_job_server_jar)
    with started(gated_command(topic.bootstrap_servers, topic.name, str(tmp_path), gate, options)) as driver:
        gate.wait_reached(driver)
        os.killpg(driver.pid, number)  # as a terminal does: also to what the driver started
        gate.open()
        assert driver.wait(WAIT_S) == EXIT_DONE
    assert values(str(tmp_path)) == topic.committed


def test_the_job_server_of_a_killed_driver_ends(topic: Topic, tmp_path: Path, flink_job_server_jar: str) -> None:
    gate = Gate(tmp_path / "gate")
    options = local_options(flink_job_server_jar)
    with started(gated_command(topic.bootstrap_servers, topic.name, str(tmp_path), gate, options)) as driver:
        gate.wait_reached(driver)
        left = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    assert left
    _, alive = psutil.wait_procs(left, timeout=WAIT_S)
    assert alive == []
