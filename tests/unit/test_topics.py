"""Which topics are not those that were read, and what is known of what they held."""

from __future__ import annotations

from typing import Any

import pytest

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka.selection import TopicPattern, selection_of
from beam_exactly_once.offsets import LogBounds, OffsetRange, TopicPartition
from beam_exactly_once.topics import (
    ReplacedTopic,
    changed_ids,
    gone_message,
    replaced_message,
    replaced_topics,
    unread_of,
)


def place(partition: int, topic: str = "orders") -> TopicPartition:
    return TopicPartition(topic, partition)


NEXT_OFFSETS = {place(1): 7, place(0): 5, place(0, "payments"): 3}


def test_an_unknown_id_is_no_change() -> None:
    expected = {"orders": "a", "payments": "b", "gone": "c"}
    assert changed_ids(expected, {"orders": "a", "payments": "x", "new": "n"}) == ["payments"]
    assert changed_ids({}, {"orders": "a"}) == []


def test_a_replaced_topic_keeps_its_places() -> None:
    replaced = replaced_topics(NEXT_OFFSETS, {"orders": "old", "payments": "p"}, {"orders": "new", "payments": "p"})
    assert replaced == {"orders": ReplacedTopic("old", {0: 5, 1: 7})}
    assert replaced_message(replaced, {"orders": "new"}) == (
        "topic orders was deleted and recreated: its id is new, but the stream has read the topic with id old, partition 0 up "
        "to 5, partition 1 up to 7. What that one still held is lost"
    )


def test_what_a_replaced_topic_is_known_to_have_held() -> None:
    replaced = {"orders": ReplacedTopic("old", {0: 5, 1: 7})}
    bounds = {
        place(0): LogBounds(0, 9),
        place(1): LogBounds(0, 7),
        place(2): LogBounds(2, 4),
        place(0, "payments"): LogBounds(0, 90),
    }
    assert unread_of(replaced, bounds) == [OffsetRange("orders", 0, 5, 9), OffsetRange("orders", 2, 2, 4)]
    assert unread_of({}, bounds) == []


def test_many_topics_are_counted_not_listed() -> None:
    message = gone_message([f"t{number}" for number in range(9)], {place(0, "t0"): 4}, "topic_pattern='t.'")
    assert message.startswith("topic_pattern='t.' no longer finds: topic t0, read partition 0 up to 4; topic t1, read ")
    assert "; and 4 more. What" in message


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("orders", ["orders"]),
        ("orders.*", ["orders", "orders-eu"]),
        (".*", ["a.orders", "orders", "orders-eu"]),
        ("__.*", ["__consumer_offsets"]),
        ("^__consumer.*$", ["__consumer_offsets"]),
        ("(?!orders-).*", ["a.orders", "orders"]),
    ],
)
def test_a_pattern_matches_whole_names(pattern: str, matches: list[str]) -> None:
    names = ["orders", "orders-eu", "a.orders", "__consumer_offsets"]
    assert list(TopicPattern(pattern).matching(names)) == matches
    assert selection_of(pattern=pattern).gone(names) == set(matches)
    assert selection_of(topics=["orders"]).gone(names) == set()


def test_exactly_one_way_to_select() -> None:
    for wrong in ({}, {"topics": ("a",), "pattern": "a"}, {"topics": {"a": [0]}, "pattern": ""}):
        with pytest.raises(ConfigurationError, match="exactly one"):
            selection_of(**wrong)


def test_partitions_by_topic() -> None:
    selection = selection_of({"orders": [1, 0], "payments": [3]})
    assert selection.partitions_in({}) == [place(1), place(0), place(3, "payments")]
    assert [selection.is_read(one) for one in (place(0), place(2))] == [True, False]
    assert str(selection) == "topics={'orders': [1, 0], 'payments': [3]}"


@pytest.mark.parametrize(
    ("topics", "complaint"),
    [
        ("orders", r"topics='orders' must be a list of topics: topics=\['orders'\]"),
        (["orders", "orders"], "names one of its topics twice"),
        ([7], "must be a list of names of topics"),
        ({"orders": []}, "must list different partitions by their numbers"),
        ({"orders": [0, 0]}, "must list different partitions"),
        ({"orders": ["0"]}, "must list different partitions"),
        ({"orders": [-1]}, "must list different partitions"),
        ({"orders": 0}, "must list different partitions"),
        ({7: [0]}, "must be a list of names of topics"),
    ],
)
def test_topics_that_are_none_are_refused(topics: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        selection_of(topics)
