"""State by key where workers are other threads and processes: by value, over several starts, killed in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, StatefulCombinePerKey, WriteToFiles
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.streams.flink_streams import local_options
from services.streams.topics import Topic
from support.ending import ends_with

PROCESSES = ["--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.fixture(
    params=[
        pytest.param("processes", marks=pytest.mark.runs_on("DirectRunner")),
        pytest.param("prism", marks=pytest.mark.runs_on("PrismRunner")),
        pytest.param("flink", marks=pytest.mark.runs_on("FlinkRunner [local]")),
    ]
)
def options(request: pytest.FixtureRequest) -> PipelineOptions:
    match request.param:
        case "prism":
            location = request.getfixturevalue("prism_location")
            return PipelineOptions(["--runner=PrismRunner", f"--prism_location={location}"])
        case "flink":
            return PipelineOptions(local_options(request.getfixturevalue("flink_job_server_jar")))
        case _:
            return PipelineOptions(PROCESSES)


def keyed(record: Record) -> tuple[str, int]:
    number = int(record.value or b"")
    return f"key {number % 7}", number


def row_of(key: str, total: int) -> dict[str, Any]:
    return {"key": key, "total": total}


def run(source: Topic, folder: Path, options: PipelineOptions) -> None:
    with ExactlyOnceStream(f"{folder}/checkpoint", options=options) as stream:
        _ = (
            stream
            | ReadFromKafka(source.bootstrap_servers, [source.name], max_batch_offsets=30)
            | beam.Map(keyed)
            | StatefulCombinePerKey(sum)
            | beam.MapTuple(row_of)
            | WriteToFiles(f"{folder}/output", format="json")
        )


def totals(folder: Path) -> dict[str, int]:
    """The last that was written of each key."""
    files = sorted((folder / "output").glob("*.json"))
    rows = [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]
    return {row["key"]: row["total"] for row in rows}


def test_sums_go_on_over_batches_starts_and_a_kill(
    new_topic: Callable[..., Topic], options: PipelineOptions, tmp_path: Path
) -> None:
    source = new_topic(2)
    for start in (0, 50):
        for partition in range(2):
            source.send([b"%d" % number for number in range(start, start + 50) if number % 2 == partition], partition)
        if start:
            kill = StoreCalls(KillPoint("put_if_absent", "offsets/", 2), stop)
            with watching(kill), ends_with("killed here"):
                run(source, tmp_path, options)
        run(source, tmp_path, options)
    expected: Counter[str] = Counter()
    for number in range(100):
        expected[f"key {number % 7}"] += number
    assert totals(tmp_path) == expected


def stop() -> None:
    raise RuntimeError("killed here")
