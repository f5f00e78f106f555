"""State by key where workers are other threads and processes: by value, over several starts, killed in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import (
    CheckpointAt,
    ExactlyOnceStream,
    GroupState,
    JsonState,
    MapGroupsWithState,
    ReadFromKafka,
    Record,
    StatefulCombinePerKey,
    WriteToFiles,
)
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.streams.topics import Topic
from support.ending import ends_with

PROCESSES = ["--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]


PORTABLE = [
    pytest.param("prism", marks=pytest.mark.runs_on("PrismRunner")),
    pytest.param("flink", marks=pytest.mark.runs_on("FlinkRunner cluster")),
]


@pytest.fixture(params=[pytest.param("processes", marks=pytest.mark.runs_on("DirectRunner")), *PORTABLE])
def options(request: pytest.FixtureRequest) -> PipelineOptions:
    match request.param:
        case "prism":
            location = request.getfixturevalue("prism_location")
            return PipelineOptions(["--runner=PrismRunner", f"--prism_location={location}"])
        case "flink":
            return PipelineOptions(request.getfixturevalue("shared_flink"))
        case _:
            return PipelineOptions(PROCESSES)


def keyed(record: Record) -> tuple[str, int]:
    number = int(record.value or b"")
    return f"key {number % 7}", number


def row_of(emitted: tuple[str, Any], what: str) -> dict[str, Any]:
    key, value = emitted
    return {"what": what, "key": key, "value": value}


def session(key: str, numbers: list[int], state: GroupState[list[int]]) -> Iterator[tuple[str, list[int]]]:
    """The numbers of a key, at the first start behind them."""
    if state.timed_out:
        yield key, state.value or []
        state.remove()
    else:
        state.update(sorted([*(state.value or []), *numbers]))
        state.set_timeout(state.now_ms + 1)


def run(
    source: Topic, folder: Path, options: PipelineOptions, *, sessions: bool = False, place: str = "", **of_stream: Any
) -> None:
    """One start of sums by key, and of sessions if asked for, to files."""
    with ExactlyOnceStream(f"{folder}/checkpoint{place}", options=options, **of_stream) as stream:
        read = ReadFromKafka(source.bootstrap_servers, [source.name], max_batch_offsets=30)
        numbers = stream | read | beam.Map(keyed)
        emitted = {"sums": numbers | StatefulCombinePerKey(sum, name="sums")}
        if sessions:
            emitted["sessions"] = numbers | MapGroupsWithState(session, state=JsonState(), name="sessions")
        rows = [values | f"Row-{what}" >> beam.Map(row_of, what) for what, values in emitted.items()]
        _ = rows | beam.Flatten() | WriteToFiles(f"{folder}/output{place}", format="json")


def newest(what: str, output: Path) -> dict[str, Any]:
    """The last that was written of each key."""
    rows = [orjson.loads(line) for file in sorted(output.glob("*.json")) for line in file.read_bytes().splitlines()]
    return {row["key"]: row["value"] for row in rows if row["what"] == what}


def of_keys(numbers: range) -> dict[str, list[int]]:
    return {f"key {key}": [number for number in numbers if number % 7 == key] for key in range(7)}


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
    assert newest("sums", tmp_path / "output") == {key: sum(numbers) for key, numbers in of_keys(range(100)).items()}


@pytest.mark.parametrize("options", PORTABLE, indirect=True)
def test_timeouts_fire_and_operators_are_dropped_and_carried_along(
    new_topic: Callable[..., Topic], options: PipelineOptions, tmp_path: Path
) -> None:
    source = new_topic()
    source.send([b"%d" % number for number in range(20)])
    run(source, tmp_path, options, sessions=True)
    assert newest("sessions", tmp_path / "output") == {}

    run(source, tmp_path, options, sessions=True)  # there is nothing to read
    assert newest("sessions", tmp_path / "output") == of_keys(range(20))

    source.send([b"%d" % number for number in range(20, 30)])
    run(source, tmp_path, options, without=["operators/sessions"])
    assert newest("sums", tmp_path / "output") == {key: sum(numbers) for key, numbers in of_keys(range(30)).items()}

    source.send([b"%d" % number for number in range(30, 40)])
    run(source, tmp_path, options, place="-2", continue_from=CheckpointAt(f"{tmp_path}/checkpoint"))
    assert newest("sums", tmp_path / "output-2") == {key: sum(numbers) for key, numbers in of_keys(range(40)).items()}


def stop() -> None:
    raise RuntimeError("killed here")
