"""Readers that say one watermark together: of two partitions driven by hand, what a runner hears of each."""

from __future__ import annotations

import pytest

from beam_exactly_once import EventTime, Record
from beam_exactly_once.clock import now_ms
from beam_exactly_once.kafka import selection_of
from beam_exactly_once.planning.start import start_of
from beam_exactly_once.planning.time_notes import timestamps_of
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.reading.follow_ranges import ReadTimes
from beam_exactly_once.transforms.reading.growing_range import seen_end
from beam_exactly_once.transforms.reading.one_watermark import OneWatermark
from support.unbounded.follower import Follower
from support.unbounded.search import Search

BEGINNING_MS = -(1 << 40)
"""What a hand-driven reader begins with."""


@pytest.fixture
def cluster() -> MemoryKafka:
    return MemoryKafka({"orders": 1, "returns": 1})


def two_readers(cluster: MemoryKafka) -> tuple[Follower, Follower]:
    """Of both partitions, as a search has found them."""
    times = ReadTimes(EventTime(out_of_order_s=10, idle_s=60), timestamps_of, OneWatermark())
    ranges = Search(cluster, selection_of(["orders", "returns"]), start_of("earliest"), times).look()
    first, second = (
        Follower(cluster, times, on_data_loss="skip", whole=one.offsets, topic_id=one.topic_id)
        for one in sorted(ranges, key=lambda one: one.offsets.topic)
    )
    return first, second


def send(cluster: MemoryKafka, topic: str, *at_ms: int) -> None:
    cluster.append(Record(topic, 0, value=b"x", timestamp_ms=one) for one in at_ms)


def test_none_says_more_than_another_one_began_with(cluster: MemoryKafka) -> None:
    first, second = two_readers(cluster)
    start_ms = now_ms(first.clock)
    send(cluster, "orders", start_ms)
    send(cluster, "returns", start_ms - 50_000)

    first.turn()
    second.turn()  # the first has come far, but whether the runner has what it gave out is known when its next turn begins
    first.turn()
    assert max(first.reached_ms + second.reached_ms) == BEGINNING_MS
    second.turn()
    first.turn()
    assert second.reached_ms[-1] == first.reached_ms[-1] == start_ms - 60_000

    send(cluster, "returns", start_ms - 5_000)
    second.turn()
    assert second.reached_ms[-1] == start_ms - 15_000  # its own: the first began with more
    first.turn()
    assert first.reached_ms[-1] == start_ms - 60_000
    second.turn()
    first.turn()
    assert first.reached_ms[-1] == start_ms - 15_000


def test_a_partition_that_is_gone_or_quiet_holds_up_nobody(cluster: MemoryKafka) -> None:
    first, second = two_readers(cluster)
    start_ms = now_ms(first.clock)
    send(cluster, "orders", start_ms)
    first.turn()
    second.turn()
    second.clock.seconds += 60
    second.turn()  # it is idle, and goes with the clock
    second.turn()
    first.turn()
    assert first.reached_ms[-1] == start_ms - 10_000
    send(cluster, "orders", start_ms + 90_000)
    first.clock.seconds += 90
    first.turn()
    assert first.reached_ms[-1] == start_ms + 50_000  # as far as the second began its last turn

    cluster.delete_topic("returns")
    second.turn()
    assert not second.waiting
    send(cluster, "orders", start_ms + 200_000)
    first.clock.seconds += 200
    first.turn()
    assert first.reached_ms[-1] == start_ms + 190_000


def test_nothing_is_split_off_that_nobody_would_wait_for(cluster: MemoryKafka) -> None:
    first, _ = two_readers(cluster)
    place = first.group.ranges[0].offsets.topic_partition
    before = seen_end(place)
    send(cluster, "orders", *range(before + 10))
    first.turn()
    assert seen_end(place) == before
