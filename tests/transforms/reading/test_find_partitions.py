"""Partitions are found as long as a pipeline runs, each once, and begin where they should."""

from __future__ import annotations

from typing import Any

import pytest
from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)

from beam_exactly_once import EventTime, Record, TopicPartition
from beam_exactly_once.clock import now_ms
from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.kafka import KafkaSettings, selection_of
from beam_exactly_once.planning.start import Start, start_of
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.reading.find_partitions import (
    FindPartitions,
    Found,
    FoundTracker,
    _FoundCoder,
)
from beam_exactly_once.transforms.reading.follow_ranges import ReadTimes
from beam_exactly_once.transforms.reading.growing_range import NO_END
from beam_exactly_once.transforms.reading.partition_time import PartitionTime
from beam_exactly_once.transforms.reading.range_group import PlannedRange
from support.hand_made_stream import HandClock


class Search:
    """Looks of one DoFn, one behind the other."""

    def __init__(self, cluster: MemoryKafka, selection: Any, start: Start, times: ReadTimes) -> None:
        self.cluster, self.clock = cluster, HandClock()
        self.doing = FindPartitions(KafkaSettings("memory:9092"), selection, start, times, self.clock)
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


@pytest.fixture
def cluster() -> MemoryKafka:
    kafka = MemoryKafka({"orders-a": 2})
    kafka.append(Record("orders-a", 0, value=b"x") for _ in range(5))
    return kafka


def found(ranges: list[PlannedRange]) -> list[tuple[str, int, int]]:
    assert {one.offsets.stop for one in ranges} <= {NO_END}
    return sorted((one.offsets.topic, one.offsets.partition, one.offsets.start) for one in ranges)


def test_the_first_begin_as_they_are_told_and_those_that_appear_at_their_earliest(cluster: MemoryKafka) -> None:
    search = Search(cluster, selection_of((), "orders-.*"), start_of("latest"), ReadTimes())
    assert found(search.look()) == [("orders-a", 0, 5), ("orders-a", 1, 0)]
    assert search.look() == []

    cluster.add_partitions("orders-a", 3)
    cluster.add_partitions("orders-b", 1)
    cluster.append(Record("orders-b", 0, value=b"x") for _ in range(3))
    assert found(search.look()) == [("orders-a", 2, 0), ("orders-b", 0, 0)]

    cluster.delete_topic("orders-a")
    cluster.add_partitions("orders-a", 1)
    (again,) = search.look()
    assert found([again]) == [("orders-a", 0, 0)]
    assert again.topic_id == cluster.ids()["orders-a"]
    assert search.look() == []


@pytest.mark.parametrize(
    ("place", "first"),
    [("orders-a", [("orders-a", 0, 0), ("orders-a", 1, 0)]), (TopicPartition("orders-a", 1), [("orders-a", 1, 0)])],
)
def test_an_element_may_say_what_is_read(cluster: MemoryKafka, place: Any, first: list[tuple[str, int, int]]) -> None:
    search = Search(cluster, None, start_of("earliest"), ReadTimes())
    assert found(search.look(place)) == first
    with pytest.raises(UnfitRow, match="takes names of topics and TopicPartition, and got a int"):
        search.look(17)


@pytest.mark.parametrize("idle_s", [60.0, None])
def test_the_search_holds_up_no_watermark(cluster: MemoryKafka, idle_s: float | None) -> None:
    times = ReadTimes(EventTime(out_of_order_s=10, idle_s=idle_s))
    search = Search(cluster, selection_of(["orders-a"], None), start_of("earliest"), times)
    search.look()
    assert search.state[0] == now_ms(search.clock) - 10_000


def test_all_the_looks_to_come_are_given_away_or_none() -> None:
    tracker = FoundTracker(Found())
    assert tracker.try_split(0.5) is None
    with pytest.raises(ValueError, match="its rest was not put off"):
        tracker.check_done()
    assert tracker.try_split(0) == (Found(is_over=True), Found())
    assert not tracker.try_claim(Found({}))
    assert tracker.is_bounded()
