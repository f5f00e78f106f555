"""What a user sets: where a stream begins, and the limits of a batch."""

from __future__ import annotations

import datetime
import json
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from beam_exactly_once.errors import ConfigurationError, DataLoss, NewerFormat
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.planning import BatchLimits, Start
from beam_exactly_once.planning.start import LogsNow


def orders(partition: int) -> TopicPartition:
    return TopicPartition("orders", partition)


BOUNDS = {orders(0): LogBounds(10, 20), orders(1): LogBounds(0, 0), orders(2): LogBounds(5, 9)}

STARTS = [
    Start.earliest(),
    Start.latest(),
    Start.at_timestamp(1_700_000_000_123),
    Start.at_offsets({orders(2): 7, orders(0): 15, TopicPartition("a-b", 3): 2**62}),
    Start.from_checkpoint("s3://checkpoints/orders", 41),
]


def no_lookup(partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
    raise AssertionError("only a timestamp asks Kafka for offsets by time")


def first(start: Start, checkpoint_offsets: Mapping[TopicPartition, int] | None = None) -> dict[TopicPartition, int]:
    return start.first_offsets(LogsNow(sorted(BOUNDS), BOUNDS, no_lookup, checkpoint_offsets))


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.kind)
def test_a_start_survives_json_and_pickle(start: Start) -> None:
    assert Start.from_json(json.loads(json.dumps(start.to_json()))) == start
    assert pickle.loads(pickle.dumps(start)) == start
    assert hash(pickle.loads(pickle.dumps(start))) == hash(start)


def test_the_json_of_a_start_says_what_it_needs_and_no_more() -> None:
    assert [start.to_json() for start in STARTS] == [
        {"kind": "earliest"},
        {"kind": "latest"},
        {"kind": "timestamp", "timestamp_ms": 1_700_000_000_123},
        {"kind": "offsets", "offsets": [["a-b", 3, 2**62], ["orders", 0, 15], ["orders", 2, 7]]},
        {"kind": "checkpoint", "checkpoint_location": "s3://checkpoints/orders", "batch_id": 41},
    ]


def test_a_start_of_a_newer_version_is_refused() -> None:
    with pytest.raises(NewerFormat, match="does not know the start 'by_header': upgrade"):
        Start.from_json({"kind": "by_header"})


def test_a_datetime_becomes_the_first_millisecond_not_before_it() -> None:
    utc = datetime.timezone.utc
    exact = datetime.datetime(2024, 5, 1, 12, 0, 0, 7000, tzinfo=utc)
    assert Start.at_timestamp(exact) == Start.at_timestamp(1_714_564_800_007)
    assert Start.at_timestamp(exact + datetime.timedelta(microseconds=1)) == Start.at_timestamp(1_714_564_800_008)
    elsewhere = exact.astimezone(datetime.timezone(datetime.timedelta(hours=-7)))
    assert Start.at_timestamp(elsewhere) == Start.at_timestamp(exact)


@pytest.mark.parametrize("timestamp", [-1, 1.5, True, "2024-05-01", datetime.datetime(1969, 1, 1).astimezone()])
def test_a_start_time_that_is_none_is_refused(timestamp: Any) -> None:
    with pytest.raises(ConfigurationError, match="a start time is a datetime, or an integer of milliseconds"):
        Start.at_timestamp(timestamp)


def test_a_datetime_without_time_zone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="2024-05-01T12:00:00 has no time zone"):
        Start.at_timestamp(datetime.datetime(2024, 5, 1, 12))


@pytest.mark.parametrize(
    ("given_offsets", "complaint"),
    [
        ({}, "empty: name partitions, or use Start.earliest"),
        ({("orders", 0): 5}, "keyed by TopicPartition, got \\('orders', 0\\)"),
        ({orders(0): -2}, "partition orders-0: .* got -2. .* Start.latest"),
        ({orders(0): 1.0}, "partition orders-0: .* got 1.0"),
    ],
)
def test_start_offsets_that_are_none_are_refused(given_offsets: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Start.at_offsets(given_offsets)


def test_a_checkpoint_to_start_from_needs_a_location_and_a_batch() -> None:
    with pytest.raises(ConfigurationError, match="empty string"):
        Start.from_checkpoint("", 0)
    with pytest.raises(ConfigurationError, match="got -1"):
        Start.from_checkpoint("/checkpoints/orders", -1)


def test_start_offsets_do_not_change_behind_the_callers_back() -> None:
    mine = {orders(0): 15}
    start = Start.at_offsets(mine)
    mine[orders(0)] = 16
    assert start == Start.at_offsets({orders(0): 15})


def test_earliest_and_latest_are_the_ends_of_each_log() -> None:
    assert first(Start.earliest()) == {orders(0): 10, orders(1): 0, orders(2): 5}
    assert first(Start.latest()) == {orders(0): 20, orders(1): 0, orders(2): 9}


def test_a_timestamp_asks_for_all_partitions_once_and_stays_within_the_logs() -> None:
    asked = []

    def lookup(partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        asked.append((list(partitions), timestamp_ms))
        # Since the bounds were read: partition 1 grew or holds an open transaction; partition 2 lost its head.
        return {orders(0): 13, orders(1): 4, orders(2): 3}

    found = Start.at_timestamp(1234).first_offsets(LogsNow(sorted(BOUNDS), BOUNDS, lookup))
    assert asked == [([orders(0), orders(1), orders(2)], 1234)]
    assert found == {orders(0): 13, orders(1): 0, orders(2): 5}


def test_explicit_offsets_hold_and_the_other_partitions_begin_at_their_earliest() -> None:
    assert first(Start.at_offsets({orders(0): 15})) == {orders(0): 15, orders(1): 0, orders(2): 5}


@pytest.mark.parametrize("edge", [10, 20])
def test_explicit_offsets_may_be_the_ends_of_the_log(edge: int) -> None:
    assert first(Start.at_offsets({orders(0): edge}))[orders(0)] == edge


def test_an_explicit_offset_that_kafka_no_longer_has_is_data_loss() -> None:
    with pytest.raises(DataLoss) as raised:
        first(Start.at_offsets({orders(0): 9, orders(2): 4}))
    assert "orders-0: start offset 9, but the log holds [10, 20)" in str(raised.value)
    assert "orders-2: start offset 4, but the log holds [5, 9)" in str(raised.value)
    assert "Start.earliest()" in str(raised.value)


def test_an_explicit_offset_that_kafka_does_not_have_yet_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match=r"orders-0: start offset 21, but the log holds \[10, 20\)"):
        first(Start.at_offsets({orders(0): 21}))


def test_an_explicit_offset_of_a_partition_that_is_not_read_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="does not read: orders-7; payments-0"):
        first(Start.at_offsets({orders(0): 15, orders(7): 15, TopicPartition("payments", 0): 1}))


def test_a_checkpoints_offsets_are_passed_on_for_the_topics_that_are_read() -> None:
    stood_at = {orders(0): 3, orders(2): 30, orders(7): 1, TopicPartition("payments", 0): 8}
    assert first(Start.from_checkpoint("memory://a", 3), stood_at) == {
        orders(0): 3,
        orders(1): 0,
        orders(2): 30,
        orders(7): 1,
    }


def test_a_checkpoint_start_without_its_offsets_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="needs the next offsets"):
        first(Start.from_checkpoint("memory://a", 3))


@pytest.mark.parametrize("name", ["max_offsets", "max_bytes", "min_offsets"])
@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "10"])
def test_a_limit_that_is_no_positive_integer_is_refused(name: str, limit: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be an integer above 0"):
        BatchLimits(**{name: limit})


@pytest.mark.parametrize("delay_s", [0, -1.0, float("inf"), float("nan")])
def test_a_delay_without_end_or_length_is_refused(delay_s: float) -> None:
    with pytest.raises(ConfigurationError, match="max_delay_s must be a positive number of seconds"):
        BatchLimits(min_offsets=10, max_delay_s=delay_s)


def test_a_minimum_and_its_delay_need_each_other() -> None:
    with pytest.raises(ConfigurationError, match="need each other"):
        BatchLimits(min_offsets=10)
    with pytest.raises(ConfigurationError, match="need each other"):
        BatchLimits(max_delay_s=10)
    assert BatchLimits(min_offsets=10, max_delay_s=10).min_offsets == 10


def test_a_minimum_above_the_maximum_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="min_offsets=11 is above max_offsets=10"):
        BatchLimits(min_offsets=11, max_offsets=10, max_delay_s=1)
    assert BatchLimits(min_offsets=10, max_offsets=10, max_delay_s=1).max_offsets == 10
