"""The seam by which one translated graph runs again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.metrics.execution import MetricKey, MetricResult
from apache_beam.metrics.metricbase import MetricName
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.runners.repeated_run import RepeatedRun, repeating_runner
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.commit_counts import CommitCounts

NOTHING = RepeatedRun(lambda run_task: None, beam.Pipeline)


class Result:
    """A run whose runner reports committed values alone, as Prism does."""

    def __init__(self, **committed: int) -> None:
        self._committed = committed

    def metrics(self) -> Any:
        return self

    def query(self, _: Any) -> dict[str, list[MetricResult]]:
        return {
            "counters": [
                MetricResult(MetricKey("step", MetricName("beam_exactly_once", name)), value, None)
                for name, value in self._committed.items()
            ]
        }


def test_a_committed_zero_counts_as_zero() -> None:
    counted = CommitCounts.read(Result(**{"records_read.orders": 7, "committed": 0}))  # type: ignore[arg-type]

    assert counted == CommitCounts(records_read={"orders": 7}, committed=0)


def test_a_runner_that_cannot_run_a_graph_again_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="BundleBasedDirectRunner"):
        repeating_runner("BundleBasedDirectRunner", PipelineOptions([]), NOTHING)


@pytest.mark.parametrize("given", [FnApiRunner(), PortableRunner()], ids=lambda runner: type(runner).__name__)
def test_a_runner_that_is_given_stays_as_it_is(given: Any) -> None:
    before = dict(vars(given))

    repeating = repeating_runner(given, PipelineOptions([]), NOTHING)

    assert repeating is not given
    assert isinstance(repeating, type(given))
    assert vars(given) == before


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--experiments=data_buffer_time_limit_ms=5"], None),
        ([], EmbeddedPythonGrpcEnvironment(data_buffer_time_limit_ms=5)),
    ],
)
def test_data_that_is_to_be_flushed_by_time_is_refused(options: list[str], environment: Any, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="data_buffer_time_limit_ms"),
        MemoryKafka({"orders": 1}).serving(),
        ExactlyOnceStream(
            str(tmp_path / "checkpoint"),
            options=PipelineOptions(options),
            runner=FnApiRunner(default_environment=environment),
        ) as stream,
    ):
        _ = stream | ReadFromKafka("memory:9092", ["orders"]) | WriteToFiles(str(tmp_path / "output"))
    assert not (tmp_path / "checkpoint").exists()
