"""Looks for partitions, one behind the other, driven by hand."""

from __future__ import annotations

from typing import Any

from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)

from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.logs.opening import LogSettings
from beam_exactly_once.planning.start import Start
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.topics import OnDataLoss
from beam_exactly_once.transforms.reading.find_partitions import FindPartitions, Found, FoundTracker, _FoundCoder
from beam_exactly_once.transforms.reading.follow_ranges import ReadTimes
from beam_exactly_once.transforms.reading.growing_range import NO_END
from beam_exactly_once.transforms.reading.partition_time import PartitionTime
from beam_exactly_once.transforms.reading.range_group import PlannedRange
from support.hand_made_stream import HandClock


class Search:
    """Looks of one DoFn, one behind the other."""

    def __init__(
        self,
        cluster: MemoryKafka,
        selection: Any,
        start: Start,
        times: ReadTimes,
        on_data_loss: OnDataLoss = "fail",
        settings: LogSettings = KafkaSettings("memory:9092"),  # noqa: B008 (it cannot be changed)
    ) -> None:
        self.cluster, self.clock = cluster, HandClock()
        self.doing = FindPartitions(settings, selection, start, times, on_data_loss, self.clock)
        self.found, self.state = Found(), (-(1 << 40), 0)

    def look(self, place: Any = b"") -> list[PlannedRange]:
        tracker = ThreadsafeRestrictionTracker(FoundTracker(self.found))
        estimator = ThreadsafeWatermarkEstimator(PartitionTime(self.state))
        with self.cluster.serving():
            emitted = list(self.doing.process(place, RestrictionTrackerView(tracker), estimator))
        tracker.check_done()
        deferred = tracker.deferred_status()
        assert deferred is not None
        coder = _FoundCoder()
        self.found, self.state = coder.decode(coder.encode(deferred[0])), estimator.get_estimator_state()
        return [planned for one in emitted for planned in one.value.ranges]


def found(ranges: list[PlannedRange]) -> list[tuple[str, int, int]]:
    assert {one.offsets.stop for one in ranges} <= {NO_END}
    return sorted((one.offsets.topic, one.offsets.partition, one.offsets.start) for one in ranges)
