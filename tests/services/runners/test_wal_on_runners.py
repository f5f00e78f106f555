"""A stream from a write-ahead log on an S3 server and on a GCS server, with workers of several runners, by value.

What only they can show: the reader goes to workers with its settings, is split there, and asks for segments ahead.
"""

from __future__ import annotations

from collections import Counter

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.streams.to_files import values_in
from support.ending import ends_with, kill
from support.wal.streams import append, numbers, run_to_files, sweep


@pytest.fixture(
    params=[
        pytest.param("direct-bucket", marks=pytest.mark.runs_on("DirectRunner", storage="S3")),
        pytest.param("direct-gcs_bucket", marks=pytest.mark.runs_on("DirectRunner", storage="GCS")),
        pytest.param("prism-bucket", marks=pytest.mark.runs_on("PrismRunner", storage="S3")),
        pytest.param("flink-bucket", marks=pytest.mark.runs_on("FlinkRunner cluster", storage="S3")),
    ]
)
def place_and_options(request: pytest.FixtureRequest) -> tuple[str, PipelineOptions]:
    runner, _, bucket = request.param.partition("-")
    match runner:
        case "prism":
            flags = ["--runner=PrismRunner", f"--prism_location={request.getfixturevalue('prism_location')}"]
        case "flink":
            flags = request.getfixturevalue("shared_flink")
        case _:
            flags = []
    return request.getfixturevalue(bucket), PipelineOptions(flags)


def test_a_log_is_read_once_through_kills_of_the_driver_and_of_a_worker(
    place_and_options: tuple[str, PipelineOptions],
) -> None:
    place, options = place_and_options
    append(place, numbers(range(60)))
    append(place, numbers(range(60, 80)), partition=1)
    for method, key in (
        ("put_if_absent", "offsets/"),
        ("stage", ""),
    ):  # a batch is planned; a worker reads and writes it
        with watching(StoreCalls(KillPoint(method, key, 2), kill)), ends_with("killed here"):
            run_to_files(place, stream_options=options)
    append(place, numbers(range(80, 90)))  # behind another claim
    run_to_files(place, stream_options=options)
    assert values_in(f"{place}/output") == Counter(numbers(range(90)))
    assert sweep(place) > [0, 0]
