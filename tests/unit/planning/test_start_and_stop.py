"""Where a source begins and ends, as a user writes it: plain values, checked at once, and what they mean for the logs."""

from __future__ import annotations

import datetime
import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from beam_exactly_once.checkpoint import SourceCommit
from beam_exactly_once.errors import ConfigurationError, DataLoss
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.planning.continuing import CheckpointAt, offsets_behind
from beam_exactly_once.planning.start import FromGroup, LogsNow, start_of
from beam_exactly_once.planning.stop import passed_over, refuse_reversed, stop_of

UTC = datetime.timezone.utc


def orders(partition: int) -> TopicPartition:
    return TopicPartition("orders", partition)


def moment(milliseconds: int) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1, tzinfo=UTC) + datetime.timedelta(milliseconds=milliseconds)


BOUNDS = {orders(0): LogBounds(10, 20), orders(1): LogBounds(0, 0), orders(2): LogBounds(5, 9)}

GROUP = FromGroup("billing", "latest")
VALUES: list[Any] = [
    "earliest",
    "latest",
    moment(1_700_000_000_123),
    {"orders": {2: 7, 0: 15}, "a-b": {3: 2**62}},
    GROUP,
]


def no_lookup(partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
    raise AssertionError("only a moment asks Kafka for offsets by time")


NOW = LogsNow(sorted(BOUNDS), BOUNDS, no_lookup)


def first(start: Any) -> dict[TopicPartition, int]:
    return start_of(start).first_offsets(NOW)


def last(stop: Any) -> dict[TopicPartition, int]:
    return stop_of(stop).stop_offsets(NOW)


@pytest.mark.parametrize("value", VALUES, ids=["earliest", "latest", "moment", "offsets", "group"])
def test_starts_and_stops_travel(value: Any) -> None:
    for made in [start_of(value), *([] if value in ("earliest", GROUP) else [stop_of(value)])]:
        sent = pickle.loads(pickle.dumps(made))
        assert sent == made
        assert hash(sent) == hash(made)


def test_a_datetime_becomes_the_first_millisecond_not_before_it() -> None:
    exact = datetime.datetime(2024, 5, 1, 12, 0, 0, 7000, tzinfo=UTC)
    assert exact == moment(1_714_564_800_007)
    assert start_of(exact + datetime.timedelta(microseconds=1)) == start_of(moment(1_714_564_800_008))
    elsewhere = exact.astimezone(datetime.timezone(datetime.timedelta(hours=-7)))
    assert start_of(elsewhere) == start_of(exact)
    assert stop_of(elsewhere) == stop_of(exact)


@pytest.mark.parametrize("value", [-1, 1.5, True, None, "2024-05-01", ["orders"], b"latest"])
def test_what_says_no_start_and_no_stop_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"start=.* is not known; use 'earliest', 'latest', a datetime"):
        start_of(value)
    with pytest.raises(ConfigurationError, match=r"stop=.* is not known; use 'latest', a datetime"):
        stop_of(value)


def test_a_stop_at_the_earliest_would_read_nothing() -> None:
    with pytest.raises(ConfigurationError, match="stop='earliest' is not known"):
        stop_of("earliest")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (datetime.datetime(2024, 5, 1, 12), "=2024-05-01T12:00:00 has no time zone; give one"),
        (moment(-1), "lies before 1970"),
        ({}, "={} names no offset"),
        ({("orders", 0): 5}, r"has \('orders', 0\): 5; give offsets by topic and partition"),
        ({"orders": 5}, "has 'orders': 5; give offsets by topic and partition"),
        ({"orders": {0: -2}}, "partition 0 of orders has the offset -2; both are whole numbers"),
        ({"orders": {0: 1.0}}, "partition 0 of orders has the offset 1.0"),
        ({"orders": {"0": 1}}, "partition '0' of orders has the offset 1"),
        ({"orders": {0: True}}, "partition 0 of orders has the offset True"),
    ],
)
def test_moments_and_offsets_that_are_none_are_refused(value: Any, complaint: str) -> None:
    for argument, made in (("start", start_of), ("stop", stop_of)):
        with pytest.raises(ConfigurationError, match=complaint) as refused:
            made(value)
        assert str(refused.value).startswith(argument)


def test_offsets_do_not_change_behind_the_callers_back() -> None:
    mine = {"orders": {0: 15}}
    start, stop = start_of(mine), stop_of(mine)
    mine["orders"][0] = 16
    assert (start, stop) == (start_of({"orders": {0: 15}}), stop_of({"orders": {0: 15}}))


def test_earliest_and_latest_are_the_ends_of_each_log() -> None:
    assert first("earliest") == {orders(0): 10, orders(1): 0, orders(2): 5}
    assert first("latest") == {orders(0): 20, orders(1): 0, orders(2): 9}
    assert stop_of("latest").stop_offsets(NOW) == {orders(0): 20, orders(1): 0, orders(2): 9}


def test_a_moment_asks_for_all_partitions_once_and_stays_within_the_logs() -> None:
    asked = []

    def lookup(partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        asked.append((list(partitions), timestamp_ms))
        # Since the bounds were read: partition 1 grew or holds an open transaction; partition 2 lost its head.
        return {orders(0): 13, orders(1): 4, orders(2): 3}

    now = LogsNow(sorted(BOUNDS), BOUNDS, lookup)
    within = {orders(0): 13, orders(1): 0, orders(2): 5}
    assert start_of(moment(1234)).first_offsets(now) == within
    assert stop_of(moment(1234)).stop_offsets(now) == within
    assert asked == [([orders(0), orders(1), orders(2)], 1234)] * 2


def test_explicit_offsets_hold_and_the_other_partitions_are_read_whole() -> None:
    assert first({"orders": {0: 15}}) == {orders(0): 15, orders(1): 0, orders(2): 5}
    assert stop_of({"orders": {0: 15}}).stop_offsets(NOW) == {orders(0): 15, orders(1): 0, orders(2): 9}


@pytest.mark.parametrize("edge", [10, 20])
def test_explicit_offsets_may_be_the_ends_of_the_log(edge: int) -> None:
    assert first({"orders": {0: edge}})[orders(0)] == edge


def test_an_explicit_offset_that_kafka_no_longer_has_is_data_loss() -> None:
    with pytest.raises(DataLoss) as raised:
        first({"orders": {0: 9, 2: 4}})
    assert "orders-0: start offset 9, but the log holds [10, 20)" in str(raised.value)
    assert "orders-2: start offset 4, but the log holds [5, 9)" in str(raised.value)
    assert "start='earliest'" in str(raised.value)


def test_an_explicit_offset_that_kafka_does_not_have_yet_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match=r"orders-0: start offset 21, but the log holds \[10, 20\)"):
        first({"orders": {0: 21}})


def test_an_explicit_offset_of_a_partition_that_is_not_read_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="does not read: orders-7; payments-0"):
        first({"orders": {0: 15, 7: 15}, "payments": {0: 1}})


def of_group(start: FromGroup, committed: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
    def offsets(group_id: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        assert (group_id, partitions) == ("billing", sorted(BOUNDS))
        return committed

    return start_of(start).first_offsets(LogsNow(sorted(BOUNDS), BOUNDS, no_lookup, offsets))


def test_a_group_is_taken_over_and_what_it_says_nothing_of_is_read_whole() -> None:
    assert of_group(FromGroup("billing"), {orders(0): 15}) == {orders(0): 15, orders(1): 0, orders(2): 5}
    assert of_group(FromGroup("billing", "latest"), {orders(0): 15}) == {orders(0): 15, orders(1): 0, orders(2): 5}


def test_a_group_that_has_committed_nothing_is_a_mistake_unless_it_is_said_where_to_begin_then() -> None:
    with pytest.raises(ConfigurationError, match=r"group 'billing' .* nothing in the 3 partitions"):
        of_group(FromGroup("billing"), {})
    assert of_group(FromGroup("billing", "earliest"), {}) == first("earliest")
    assert of_group(FromGroup("billing", "latest"), {}) == first("latest")


def test_what_retention_took_since_a_group_committed_is_data_loss() -> None:
    with pytest.raises(DataLoss, match="orders-0: start offset 9, but the log holds"):
        of_group(FromGroup("billing"), {orders(0): 9})


def test_a_group_needs_a_name_and_a_log_with_groups() -> None:
    with pytest.raises(ConfigurationError, match=r"FromGroup\(''\) must name a consumer group"):
        FromGroup("")
    with pytest.raises(ConfigurationError, match="must say 'earliest', 'latest' or None"):
        FromGroup("billing", "newest")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="which this log does not have"):
        first(FromGroup("billing"))


def test_a_stop_holds_and_the_other_partitions_are_read_to_their_end() -> None:
    assert last({"orders": {0: 10, 2: 9}}) == {orders(0): 10, orders(1): 0, orders(2): 9}


@pytest.mark.parametrize(
    ("stop", "error", "complaint"),
    [
        ({"orders": {0: 21, 2: 6}}, ConfigurationError, r"above the end .* orders-0: stop offset 21, .* \[10, 20\)"),
        ({"orders": {0: 9}}, DataLoss, r"no longer has the stop offsets .* orders-0: stop offset 9"),
        (
            {"orders": {3: 1}},
            ConfigurationError,
            "stop offsets name partitions that this source does not read: orders-3",
        ),
        ({"order": {0: 12}}, ConfigurationError, "does not read: order-0"),
    ],
)
def test_a_stop_that_no_log_has_is_a_mistake(stop: Any, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        last(stop)


def test_offsets_of_another_checkpoint_are_passed_on_for_the_topics_that_are_read() -> None:
    stood = {orders(0): 3, orders(2): 30, orders(7): 1, TopicPartition("payments", 0): 8}
    commit = SourceCommit(next_offsets=stood, lost=(), records_read=0, bytes_read=0)
    assert offsets_behind(commit, NOW) == {orders(0): 3, orders(1): 0, orders(2): 30, orders(7): 1}


def test_a_place_in_another_checkpoint_needs_a_location() -> None:
    assert CheckpointAt("s3://checkpoints/orders").batch_id is None
    with pytest.raises(ConfigurationError, match="location='' must be the URI of a checkpoint"):
        CheckpointAt("")
    with pytest.raises(
        ConfigurationError, match="batch_id=-1 must be a whole number of at least 0, or None for the newest"
    ):
        CheckpointAt("/checkpoints/orders", -1)
    with pytest.raises(ConfigurationError, match="storage_options=list must be a mapping"):
        CheckpointAt("s3://checkpoints/orders", storage_options=["region"])  # type: ignore[arg-type]


def test_options_of_another_checkpoint_are_not_shown() -> None:
    assert "region" not in repr(CheckpointAt("s3://checkpoints/orders", 41, storage_options={"region": "eu"}))


@pytest.mark.parametrize(
    ("start", "stop", "complaint"),
    [
        (
            moment(5001),
            moment(5000),
            "start=1970-01-01T00:00:05.001+00:00 lies behind stop=1970-01-01T00:00:05.000+00:00: nothing would be read",
        ),
        (
            datetime.datetime.max.replace(tzinfo=UTC),
            moment(0),
            "start=9999-12-31T23:59:59.999+00:00 lies behind stop=1970-01-01T00:00:00.000+00:00",
        ),
        (
            {"orders": {0: 8}},
            {"orders": {0: 5}},
            "stop offsets: partition orders-0: start offset 8, stop offset 5. Nothing",
        ),
        (
            {"orders": {0: 8, 1: 1, 2: 7}},
            {"orders": {0: 5, 1: 2, 2: 6}},
            "orders-0: start offset 8, stop offset 5; partition orders-2: start offset 7, stop offset 6. Nothing",
        ),
    ],
    ids=["moments", "the last moment", "offsets", "some offsets"],
)
def test_a_start_behind_its_stop_is_a_mistake(start: Any, stop: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        refuse_reversed(start_of(start), stop_of(stop))
    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (moment(5000), moment(5000)),
        ({"orders": {0: 5}}, {"orders": {0: 5}}),
        ({"orders": {0: 8}}, {"orders": {1: 5}}),
        ({"orders": {0: 8}}, {"payments": {0: 5}}),
        ({"orders": {0: 8}}, moment(5)),
        (moment(8), {"orders": {0: 5}}),
        ("latest", {"orders": {0: 5}}),
        ({"orders": {0: 8}}, "latest"),
    ],
    ids=str,
)
def test_a_start_that_may_be_before_its_stop_is_fine(start: Any, stop: Any) -> None:
    refuse_reversed(start_of(start), stop_of(stop))


@pytest.mark.parametrize(
    ("starts", "stops", "expected"),
    [
        ((10, 0, 5), (20, 0, 9), []),
        ((20, 0, 5), (20, 0, 9), []),
        ((20, 0, 5), (15, 0, 9), ["partition orders-0: start offset 20, stop offset 15, and the log holds [10, 20)"]),
        (
            (20, 0, 9),
            (20, 0, 9),
            [
                "partition orders-0: start offset 20, stop offset 20, and the log holds [10, 20)",
                "partition orders-2: start offset 9, stop offset 9, and the log holds [5, 9)",
            ],
        ),
    ],
    ids=["all", "one has nothing new", "one is reversed", "none"],
)
def test_what_a_read_passes_over_is_said(starts: Sequence[int], stops: Sequence[int], expected: list[str]) -> None:
    partitions = sorted(BOUNDS)
    first_offsets, stop_offsets = (dict(zip(partitions, offsets, strict=True)) for offsets in (starts, stops))
    assert passed_over(first_offsets, stop_offsets, NOW) == expected


def test_nothing_is_passed_over_of_logs_without_records() -> None:
    empty = {orders(0): LogBounds(7, 7)}
    assert passed_over({orders(0): 7}, {orders(0): 7}, LogsNow([orders(0)], empty, no_lookup)) == []
