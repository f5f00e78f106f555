"""The metrics of the user's steps, of all batches of a stream together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from apache_beam.metrics.execution import MetricResult
from apache_beam.metrics.metric import MetricResults, MetricsFilter

from beam_exactly_once.transforms.commit_counts import NAMESPACE

_KINDS = (
    MetricResults.COUNTERS,
    MetricResults.DISTRIBUTIONS,
    MetricResults.GAUGES,
    MetricResults.STRINGSETS,
    MetricResults.BOUNDED_TRIES,
)


class StreamMetrics(MetricResults):
    """What ``stream.result.metrics()`` is: counters summed, and other metrics put together, over the batches that were run.

    A batch that failed does not count, and one that is replayed counts in the start that replays it.
    """

    def __init__(self) -> None:
        self._values: dict[str, dict[Any, Any]] = {kind: {} for kind in _KINDS}

    def add(self, of_batch: Mapping[str, Iterable[MetricResult]]) -> None:
        """Add what a run of the graph reports."""
        for kind in _KINDS:
            values = self._values[kind]
            for one in of_batch.get(kind, ()):
                value = one.attempted if one.committed is None else one.committed
                if one.key.metric.namespace != NAMESPACE and value is not None:
                    values[one.key] = _together(values[one.key], value) if one.key in values else value

    def query(self, filter: MetricsFilter | None = None) -> dict[str, list[MetricResult]]:
        """As of any pipeline's result in Beam."""
        return {
            kind: [MetricResult(key, value, value) for key, value in values.items() if self.matches(filter, key)]
            for kind, values in self._values.items()
        }


def _together(one: Any, other: Any) -> Any:
    if isinstance(one, int):
        return one + other
    if isinstance(one, set):
        return one | other
    if hasattr(one, "combine"):
        return one.combine(other)
    return type(one)(one.data.combine(other.data))
