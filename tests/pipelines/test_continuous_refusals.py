"""What one unbounded pipeline cannot run, or is not proved to, is refused before anything runs, with what to use instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows, GlobalWindows

from beam_exactly_once import (
    Continuous,
    ExactlyOnceStream,
    ReadFromKafka,
    WriteToFiles,
    WriteToSql,
)
from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline

Build = Callable[[ExactlyOnceStream, "beam.PCollection[Any]"], Any]


def refused(folder: Path, build: Build, **stream: Any) -> str:
    def run() -> None:
        pipeline = ExactlyOnceStream(f"{folder}/checkpoint", trigger=Continuous(), runner="PrismRunner", **stream)
        build(pipeline, pipeline | ReadFromKafka("localhost:9092", ["orders"]))
        pipeline.run()

    with pytest.raises(UnsupportedPipeline) as raised:
        run()
    return str(raised.value)


def files(folder: Path) -> WriteToFiles:
    return WriteToFiles(f"{folder}/output", format="json")


@pytest.mark.parametrize("runner", ["DirectRunner", "FnApiRunner", "FlinkRunner"])
def test_other_runners(runner: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"use trigger=ProcessingTime|Use trigger=ProcessingTime"):
        ExactlyOnceStream(f"{tmp_path}/checkpoint", trigger=Continuous(), runner=runner)


def test_a_job_server_of_others(tmp_path: Path) -> None:
    options = PipelineOptions(["--runner=PrismRunner", "--job_endpoint=localhost:8073"])
    with pytest.raises(ConfigurationError, match="leave --job_endpoint out"):
        ExactlyOnceStream(f"{tmp_path}/checkpoint", trigger=Continuous(), options=options)


@pytest.mark.parametrize("windows", [FixedWindows(60), GlobalWindows()])
def test_windows_of_ones_own(tmp_path: Path, windows: Any) -> None:
    said = refused(tmp_path, lambda _, rows: rows | "mine" >> beam.WindowInto(windows) | files(tmp_path))
    assert said.startswith("step 'mine")
    assert "a step must not leave it" in said
    said = refused(tmp_path, lambda _, rows: rows | "mine" >> beam.WindowInto(windows) | beam.Map(print))
    assert "a step must not leave it" in said


def test_what_comes_from_elsewhere_is_only_a_side_input(tmp_path: Path) -> None:
    for build in (
        lambda stream, rows: (rows, stream | "mine" >> beam.Create([1])) | beam.Flatten() | beam.Map(print),
        lambda stream, rows: stream | "mine" >> beam.Create([1]) | files(tmp_path),
        lambda stream, rows: stream | "mine" >> beam.Create([1]) | beam.Map(print),
    ):
        assert "to a step as a side input" in refused(tmp_path, build)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda rows: rows | beam.WithKeys(1) | beam.GroupIntoBatches(2), "GroupIntoBatches"),
        (lambda rows: rows | WriteToSql("sqlite:///rows.db", "rows", direct=True), "direct=True of sink"),
    ],
)
def test_what_is_not_proved(tmp_path: Path, build: Callable[[Any], Any], named: str) -> None:
    said = refused(tmp_path, lambda _, rows: build(rows))
    assert named in said
    assert said.endswith("is not proved with trigger=Continuous(…) yet. Use trigger=ProcessingTime(…).")


def test_per_batch(tmp_path: Path) -> None:
    said = refused(tmp_path, lambda _, rows: rows | files(tmp_path), allow_per_batch=True)
    assert said.startswith("allow_per_batch=True is not proved")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"interval_s": -1}, "interval_s"), ({"max_batches_in_flight": 2}, "max_batches_in_flight")],
)
def test_numbers_that_are_not_possible(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Continuous(**arguments)
