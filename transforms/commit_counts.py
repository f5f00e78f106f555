"""What a commit counts, from the worker that commits to the driver that tells of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apache_beam.metrics import Metrics
from apache_beam.metrics.execution import MetricResult

from beam_exactly_once.checkpoint import Marker

NAMESPACE = "beam_exactly_once"
_BY_NAME = ("records_read", "bytes_read", "rows_written", "records_rejected", "offsets_lost", "rows_late")
_SINGLE = ("commit_us", "publish_us", "committed")


@dataclass(frozen=True, slots=True)
class CommitCounts:
    """Counters of one run of a graph. Those that a runner does not report are 0.

    Attributes:
        records_read, bytes_read, offsets_lost: of each source.
        rows_written: of each sink.
        records_rejected: of each step.
        rows_late: of each operator that goes by event time.
        commit_us, publish_us: microseconds that each took.
        committed: 1 if this run's own attempt decided the batch; 0 if it did not, or the runner does not tell.
    """

    records_read: Mapping[str, int] = field(default_factory=dict)
    bytes_read: Mapping[str, int] = field(default_factory=dict)
    rows_written: Mapping[str, int] = field(default_factory=dict)
    records_rejected: Mapping[str, int] = field(default_factory=dict)
    offsets_lost: Mapping[str, int] = field(default_factory=dict)
    rows_late: Mapping[str, int] = field(default_factory=dict)
    commit_us: int = 0
    publish_us: int = 0
    committed: int = 0

    @classmethod
    def of(cls, marker: Marker, *, commit_us: int, committed: bool) -> CommitCounts:
        """What a commit says of the marker that decided its batch."""
        return cls(
            {name: source.records_read for name, source in marker.sources.items()},
            {name: source.bytes_read for name, source in marker.sources.items()},
            marker.rows_written,
            marker.records_rejected,
            marker.offsets_lost,
            marker.rows_late,
            commit_us,
            committed=int(committed),
        )

    def report(self) -> None:
        """Set the counters, on the worker."""
        for name in _BY_NAME:
            for whose, value in getattr(self, name).items():
                Metrics.counter(NAMESPACE, f"{name}.{whose}").inc(value)
        for name in _SINGLE:
            value = getattr(self, name)
            if value:
                Metrics.counter(NAMESPACE, name).inc(value)

    @classmethod
    def read(cls, counters: Iterable[MetricResult]) -> CommitCounts:
        """What a run has counted, in the driver: its counters, among those of the user."""
        by_name: dict[str, Any] = {name: {} for name in _BY_NAME}
        single: dict[str, Any] = {}
        for counter in counters:
            if counter.key.metric.namespace != NAMESPACE:
                continue
            # Portable runners report no attempted value, and Beam then takes a committed 0 for none.
            name, dot, whose = counter.key.metric.name.partition(".")
            (by_name[name] if dot else single)[whose or name] = int(counter.result or 0)
        return cls(**by_name, **single)
