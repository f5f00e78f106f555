"""State by key where workers are other threads and processes: by value, over several starts, killed in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import AvailableNow, CheckpointAt
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.streams.numbers_in_time import expected, newest, of_keys, run
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


def test_sums_windows_joins_and_slides_go_on_over_batches_starts_and_a_kill(
    new_topic: Callable[..., Topic], options: PipelineOptions, tmp_path: Path
) -> None:
    source = new_topic(2)
    place = (source.bootstrap_servers, source.name)
    for start in (0, 50):
        for partition in range(2):
            source.send([b"%d" % number for number in range(start, start + 50) if number % 2 == partition], partition)
        if start:
            kill = StoreCalls(KillPoint("put_if_absent", "offsets/", 2), stop)
            with watching(kill), ends_with("killed here"):
                run(place, tmp_path, options, windows=True)
        run(
            place,
            tmp_path,
            options,
            windows=True,
            trigger=AvailableNow(drain=bool(start)),
        )
    assert newest("sums", tmp_path / "output") == {key: sum(numbers) for key, numbers in of_keys(range(100)).items()}
    for what, found in expected(100).items():
        assert newest(what, tmp_path / "output") == found


@pytest.mark.parametrize("options", PORTABLE, indirect=True)
def test_timeouts_fire_and_operators_are_dropped_and_carried_along(
    new_topic: Callable[..., Topic], options: PipelineOptions, tmp_path: Path
) -> None:
    source = new_topic()
    place = (source.bootstrap_servers, source.name)
    source.send([b"%d" % number for number in range(20)])
    run(place, tmp_path, options, sessions=True)
    assert newest("sessions", tmp_path / "output") == {}

    run(place, tmp_path, options, sessions=True)  # there is nothing to read
    assert newest("sessions", tmp_path / "output") == of_keys(range(20))

    source.send([b"%d" % number for number in range(20, 30)])
    run(place, tmp_path, options, without=["operators/sessions"])
    assert newest("sums", tmp_path / "output") == {key: sum(numbers) for key, numbers in of_keys(range(30)).items()}

    source.send([b"%d" % number for number in range(30, 40)])
    run(
        place,
        tmp_path,
        options,
        place="-2",
        continue_from=CheckpointAt(f"{tmp_path}/checkpoint"),
    )
    assert newest("sums", tmp_path / "output-2") == {key: sum(numbers) for key, numbers in of_keys(range(40)).items()}


def stop() -> None:
    raise RuntimeError("killed here")
