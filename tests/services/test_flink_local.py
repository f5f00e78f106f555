"""Streams on a Flink inside the job server, with workers in the driver: no cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import apache_beam as beam
import psutil
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once.errors import EXIT_DONE
from beam_exactly_once.kafka import EmbeddedBroker, KafkaRecord, produce
from beam_exactly_once.pipelines import BatchProgress, ExactlyOnceStream
from beam_exactly_once.pipelines.kafka_to_files import main
from beam_exactly_once.transforms import ReadFromKafka, WriteToFiles
from services.flink_streams import local_options, values
from services.topics import Topic

NUMBERS = pa.schema([("number", pa.int64())])
COUNTS = pa.schema([("number", pa.int64()), ("count", pa.int64())])
JOB_SERVER_STARTS_MAX = 1
Step = Callable[["beam.PCollection[Any]"], "beam.PCollection[Any]"]


def children() -> Counter[str]:
    return Counter(child.name() for child in psutil.Process().children(recursive=True))


def command_of(topic: Topic, place: Path, options: Iterable[str]) -> list[str]:
    return [
        f"--bootstrap_servers={topic.bootstrap_servers}",
        f"--topics={topic.name}",
        f"--output={place}/output",
        f"--checkpoint_location={place}/checkpoint",
        "--max_offsets_per_batch=120",
        *options,
    ]


def run(place: Path, options: list[str], through: Step, schema: pa.Schema, **read: Any) -> list[BatchProgress]:
    """100 numbers of two partitions through a step into JSON files, in batches of 10 a partition."""
    progress: list[BatchProgress] = []
    with EmbeddedBroker({"orders": 2}) as broker:
        for _ in produce(broker.bootstrap_servers, "orders", 2, (b"%d" % number for number in range(100))):
            pass
        with ExactlyOnceStream(
            str(place / "checkpoint"), options=PipelineOptions(options), progress=[progress.append]
        ) as stream:
            rows = through(stream | ReadFromKafka(broker.bootstrap_servers, ["orders"], **read))
            _ = rows | WriteToFiles(str(place / "output"), file_format="json", schema=schema)
    return progress


def as_row(record: KafkaRecord) -> dict[str, int]:
    assert record.value is not None
    return {"number": int(record.value)}


def test_committed_records_come_exactly_once(
    new_topic: Callable[..., Topic], tmp_path: Path, flink_job_server_jar: str
) -> None:
    topic, before = new_topic(2), children()
    for number in range(4):
        topic.send_committed([b"%d-%d" % (number, one) for one in range(50)], partition=number % 2)
        topic.send_aborted([b"never"], partition=number % 2)

    assert main(command_of(topic, tmp_path, local_options(flink_job_server_jar))) == EXIT_DONE

    assert values(str(tmp_path)) == topic.committed
    assert children() == before


def test_many_batches_share_one_job_server_and_leave_nothing_behind(
    tmp_path: Path, flink_job_server_jar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a GroupByKey groups one batch."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    seen: list[tuple[int, int, int]] = []

    def counts(records: beam.PCollection[KafkaRecord]) -> beam.PCollection[dict[str, int]]:
        return (
            records
            | beam.Map(lambda record: (int(record.value) % 2, 1))
            | beam.CombinePerKey(sum)
            | beam.MapTuple(lambda number, count: {"number": number, "count": count})
        )

    process = psutil.Process()

    def look(progress: BatchProgress) -> None:
        seen.append((children()["java"], process.num_threads(), process.memory_info().rss))

    with EmbeddedBroker({"orders": 2}) as broker:
        for _ in produce(broker.bootstrap_servers, "orders", 2, (b"%d" % number for number in range(100))):
            pass
        options = PipelineOptions(local_options(flink_job_server_jar))
        with ExactlyOnceStream(str(tmp_path / "checkpoint"), options=options, progress=[look]) as stream:
            rows = counts(stream | ReadFromKafka(broker.bootstrap_servers, ["orders"], max_offsets_per_batch=5))
            _ = rows | WriteToFiles(str(tmp_path / "output"), file_format="json", schema=COUNTS)

    assert len(seen) == 20
    assert {java for java, _, _ in seen} == {1}
    assert seen[-1][1] <= seen[4][1] + 5, "threads grow with batches"
    assert seen[-1][2] - seen[4][2] < 15 * 1_000_000, "memory grows with batches"
    assert children()["java"] == 0
