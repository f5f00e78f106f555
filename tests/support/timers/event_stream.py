"""A stream with event time, whose clock and whose records' times are set by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam

from beam_exactly_once import EventTime, ExactlyOnceStream, Record
from beam_exactly_once.checkpoint.records import SourceCommit, SourcePlan
from support.stream_under_test import StreamUnderTest
from support.timers.timed_stream import NEW_YEAR_MS, RunningClock

TEN_SECONDS_LATE = EventTime(out_of_order_s=10)


class EventStream(StreamUnderTest):
    """Two partitions of ``orders``; times are seconds since ``NEW_YEAR``."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster.add_partitions("orders", 2)
        self.clock = RunningClock()
        self.arguments: dict[str, Any] = {}
        """Of the stream."""
        self.read: dict[str, Any] = {"event_time": TEN_SECONDS_LATE, "max_batch_offsets": None}

    def happen(self, partition: int, *times_s: float, topic: str = "orders") -> None:
        """Records that happened then."""
        self.cluster.append(
            Record(topic, partition, timestamp_ms=ms_of(at_s), timestamp_type=1, value=b"x") for at_s in times_s
        )

    def run_at(self, at_s: float, build: Callable[[Any], object] | None = None, **read: Any) -> None:
        """One life that starts then."""
        self.clock.seconds = at_s
        self.run_with(build or _leave, **{**self.read, **read})

    def new_stream(self, location: str) -> ExactlyOnceStream:
        stream = ExactlyOnceStream(location, listeners=[self.progress.append], **self.arguments)
        stream._clock = self.clock
        return stream

    def planned(self) -> list[SourcePlan]:
        """What each batch planned."""
        checkpoint = self.checkpoint()
        plans = map(checkpoint.read_plan, checkpoint.plan_ids(above=-1))
        return [plan.sources["kafka"] for plan in plans if plan is not None]

    def committed(self) -> list[SourceCommit]:
        """Where each batch left the source."""
        checkpoint = self.checkpoint()
        markers = map(checkpoint.read_marker, sorted(checkpoint.marker_ids()))
        return [marker.sources["kafka"] for marker in markers if marker is not None]

    def watermarks_s(self) -> list[float | None]:
        """Of each planned batch."""
        return [seconds_of(plan.watermark_ms) for plan in self.planned()]


def ms_of(at_s: float) -> int:
    return NEW_YEAR_MS + int(at_s * 1000)


def seconds_of(at_ms: int | None) -> float | None:
    return None if at_ms is None else (at_ms - NEW_YEAR_MS) / 1000


def _leave(records: Any) -> None:
    _ = records | "Leave" >> beam.Map(_nothing)


def _nothing(record: Any) -> Iterable[Any]:
    return ()
