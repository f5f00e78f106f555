"""Partitions are found as long as a pipeline runs, each once, and begin where they should."""

from __future__ import annotations

from typing import Any

import pytest

from beam_exactly_once import EventTime, Record, TopicPartition
from beam_exactly_once.clock import now_ms
from beam_exactly_once.errors import DataLoss, UnfitRow, UnknownTopic
from beam_exactly_once.kafka import selection_of
from beam_exactly_once.planning.start import start_of
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.reading.find_partitions import (
    Found,
    FoundTracker,
)
from beam_exactly_once.transforms.reading.follow_ranges import ReadTimes
from support.unbounded.search import Search, found


@pytest.fixture
def cluster() -> MemoryKafka:
    kafka = MemoryKafka({"orders-a": 2})
    kafka.append(Record("orders-a", 0, value=b"x") for _ in range(5))
    return kafka


def test_the_first_begin_as_they_are_told_and_those_that_appear_at_their_earliest(cluster: MemoryKafka) -> None:
    search = Search(cluster, selection_of((), "orders-.*"), start_of("latest"), ReadTimes(), "skip")
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


@pytest.mark.parametrize("topics", [["orders-a", "orders-b"], {"orders-a": [0], "orders-b": [0]}, "orders-.*"], ids=str)
def test_a_topic_that_is_gone_is_an_error_or_waited_for(cluster: MemoryKafka, topics: Any) -> None:
    cluster.add_partitions("orders-b", 1)
    selection = selection_of((), topics) if isinstance(topics, str) else selection_of(topics)
    failing = Search(cluster, selection, start_of("earliest"), ReadTimes())
    going_on = Search(cluster, selection, start_of("earliest"), ReadTimes(), "skip")
    failing.look(), going_on.look()

    cluster.delete_topic("orders-b")
    if not isinstance(topics, str):
        with pytest.raises(UnknownTopic, match="orders-b"):
            failing.look()
    assert going_on.look() == []

    cluster.add_partitions("orders-b", 1)
    with pytest.raises(DataLoss, match="orders-b: deleted and made anew while it was read"):
        failing.look()
    (again,) = going_on.look()
    assert (again.offsets.topic, again.topic_id) == ("orders-b", cluster.ids()["orders-b"])


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
