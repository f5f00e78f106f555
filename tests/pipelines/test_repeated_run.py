"""The seam by which one translated graph runs again and again."""

from __future__ import annotations

from typing import Any

import pytest
from apache_beam.metrics.execution import MetricKey, MetricResult
from apache_beam.metrics.metricbase import MetricName
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.runners.repeated_run import counts_of, repeating_runner


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
    assert counts_of(Result(records=7, lost_offsets=0)) == {"records": 7, "lost_offsets": 0}  # type: ignore[arg-type]


def test_a_runner_that_cannot_run_a_graph_again_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="BundleBasedDirectRunner"):
        repeating_runner("BundleBasedDirectRunner", PipelineOptions([]), lambda run_task: None)
