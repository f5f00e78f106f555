"""What each batch reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import DataLoss
from beam_exactly_once.offsets import LogBounds, OffsetRange, TopicPartition, lag, tiling_faults
from beam_exactly_once.planning import BatchLimits, PlannedRanges, plan_ranges
from beam_exactly_once.topics import OnDataLoss

# Derandomised: the same examples in every run. No deadline: a slow machine is no fault.
repeatable = settings(derandomize=True, deadline=None, database=None)

NO_LIMITS = BatchLimits()
Bounds = dict[TopicPartition, LogBounds]


def orders(partition: int) -> TopicPartition:
    return TopicPartition("orders", partition)


def offsets(partition: int, start: int, stop: int) -> OffsetRange:
    return OffsetRange("orders", partition, start, stop)


def plan(
    next_offsets: Mapping[TopicPartition, int],
    bounds: Bounds,
    limits: BatchLimits = NO_LIMITS,
    average_record_bytes: float = 100.0,
    waited_s: float = 0.0,
    on_data_loss: OnDataLoss = "fail",
    topics_without_id: Collection[str] = (),
) -> PlannedRanges:
    return plan_ranges(
        next_offsets,
        bounds,
        limits,
        average_record_bytes=average_record_bytes,
        waited_s=waited_s,
        topics_without_id=topics_without_id,
        on_data_loss=on_data_loss,
    )


def takes(planned: PlannedRanges) -> dict[int, int]:
    return {one.partition: one.size for one in planned.ranges}


def lagging(*lags: int) -> tuple[dict[TopicPartition, int], Bounds]:
    """Partitions 0, 1, … of which so many offsets wait."""
    return (
        {orders(partition): 100 for partition in range(len(lags))},
        {orders(partition): LogBounds(50, 100 + one) for partition, one in enumerate(lags)},
    )


# Plans without limits

BOUNDS: Bounds = {orders(0): LogBounds(10, 20), orders(1): LogBounds(0, 0), orders(2): LogBounds(5, 9)}


def test_without_limits_a_plan_reads_all_there_is() -> None:
    planned = plan({orders(0): 12, orders(1): 0, orders(2): 9}, BOUNDS)
    assert planned == PlannedRanges((offsets(0, 12, 20),), (), {orders(0): 20, orders(1): 0, orders(2): 9})


def test_a_new_partition_is_read_from_its_earliest() -> None:
    planned = plan({orders(0): 20}, BOUNDS)
    assert planned.ranges == (offsets(2, 5, 9),)
    assert planned.next_offsets == {orders(0): 20, orders(1): 0, orders(2): 9}


def test_ranges_are_sorted_whatever_the_order_of_the_bounds() -> None:
    next_offsets, bounds = lagging(*[5] * 12)
    backwards = dict(reversed(bounds.items()))
    assert [one.partition for one in plan(next_offsets, backwards).ranges] == list(range(12))


def test_partitions_of_a_topic_that_is_no_longer_read_stand_where_they_stood() -> None:
    refunds = TopicPartition("refunds", 0)
    planned = plan({orders(0): 20, refunds: 7}, {orders(0): LogBounds(10, 25)})
    assert planned == PlannedRanges((offsets(0, 20, 25),), (), {orders(0): 25, refunds: 7})


def test_lag_counts_what_would_be_read() -> None:
    bounds = {**BOUNDS, orders(3): LogBounds(40, 45), orders(4): LogBounds(2, 6)}
    assert lag({orders(0): 12, orders(2): 9, orders(3): 30, orders(4): 99, orders(9): 1}, bounds) == {
        orders(0): 8,
        orders(1): 0,
        orders(2): 0,
        orders(3): 5,
        orders(4): 0,
    }


# Loss


def test_offsets_deleted_before_they_were_read_are_data_loss() -> None:
    with pytest.raises(DataLoss) as raised:
        plan({orders(0): 4, orders(1): 0, orders(2): 1}, BOUNDS)
    assert "orders-0 lost 6 offsets, [4, 10)" in str(raised.value)
    assert "orders-2 lost 4 offsets, [1, 5)" in str(raised.value)
    assert "orders-1" not in str(raised.value)
    assert 'on_data_loss="skip"' in str(raised.value)


def test_deleted_offsets_are_recorded_as_lost_when_asked_for() -> None:
    planned = plan({orders(0): 4}, {orders(0): LogBounds(10, 20)}, on_data_loss="skip")
    assert planned == PlannedRanges((offsets(0, 10, 20),), (offsets(0, 4, 10),), {orders(0): 20})


def test_a_log_that_became_shorter_is_data_loss() -> None:
    with pytest.raises(DataLoss, match="orders-0 ends at 20, 3 offsets below the next offset 23"):
        plan({orders(0): 23}, {orders(0): LogBounds(10, 20)})


def test_a_log_that_became_shorter_goes_on_at_its_end_when_asked_for() -> None:
    """What lies before was read: the topic is the same."""
    planned = plan({orders(0): 23}, {orders(0): LogBounds(10, 20)}, on_data_loss="skip")
    assert planned == PlannedRanges((), (offsets(0, 20, 23),), {orders(0): 20})


def test_a_topic_that_may_have_been_recreated_goes_on_at_its_beginning() -> None:
    without_id: dict[str, Any] = {"on_data_loss": "skip", "topics_without_id": ["orders"]}
    planned = plan({orders(0): 23}, {orders(0): LogBounds(10, 20)}, **without_id)
    assert planned == PlannedRanges((offsets(0, 10, 20),), (offsets(0, 20, 23),), {orders(0): 20})
    planned = plan({orders(0): 23}, {orders(0): LogBounds(0, 0)}, **without_id)
    assert planned == PlannedRanges((), (offsets(0, 0, 23),), {orders(0): 0})


def test_a_partition_that_vanished_from_a_topic_that_is_read_is_data_loss() -> None:
    next_offsets, bounds = {orders(0): 20, orders(7): 3}, {orders(0): LogBounds(10, 20)}
    with pytest.raises(DataLoss, match="partition orders-7, next offset 3, is no longer among those read"):
        plan(next_offsets, bounds)
    assert plan(next_offsets, bounds, on_data_loss="skip") == PlannedRanges((), (), next_offsets)


@pytest.mark.parametrize("next_offset", [10, 20])
def test_standing_at_either_end_of_the_log_is_no_loss(next_offset: int) -> None:
    assert plan({orders(0): next_offset}, {orders(0): LogBounds(10, 20)}).lost == ()


def test_loss_is_found_also_while_a_batch_waits_for_more() -> None:
    limits = BatchLimits(min_batch_offsets=1000, max_batch_delay_s=60)
    with pytest.raises(DataLoss, match="orders-0 lost 6 offsets"):
        plan({orders(0): 4}, {orders(0): LogBounds(10, 20)}, limits)
    planned = plan({orders(0): 4}, {orders(0): LogBounds(10, 20)}, limits, on_data_loss="skip")
    assert planned == PlannedRanges((), (offsets(0, 4, 10),), {orders(0): 10})


def test_the_message_of_a_great_loss_stays_short_and_on_one_line() -> None:
    bounds = {orders(partition): LogBounds(10, 20) for partition in range(1000)}
    with pytest.raises(DataLoss) as raised:
        plan(dict.fromkeys(bounds, 4), bounds)
    message = str(raised.value)
    assert "; and 990 more" in message
    assert "\n" not in message
    assert len(message) < 1000


# Limits at work


def test_a_limit_is_shared_in_proportion_to_lag() -> None:
    assert takes(plan(*lagging(1001, 2001, 7001), BatchLimits(max_batch_offsets=1003))) == {0: 101, 1: 201, 2: 701}


def test_a_limit_above_what_there_is_takes_all() -> None:
    assert takes(plan(*lagging(3, 0, 5), BatchLimits(max_batch_offsets=8))) == {0: 3, 2: 5}
    assert takes(plan(*lagging(3, 0, 5), BatchLimits(max_batch_offsets=9))) == {0: 3, 2: 5}


def test_a_small_partition_beside_a_huge_one_gets_its_offset() -> None:
    assert takes(plan(*lagging(1, 10_000_000, 1), BatchLimits(max_batch_offsets=100))) == {0: 1, 1: 98, 2: 1}


def test_equal_lags_share_equally_and_the_odd_offset_falls_to_the_first() -> None:
    assert takes(plan(*lagging(50, 50, 50), BatchLimits(max_batch_offsets=31))) == {0: 11, 1: 10, 2: 10}


def test_bytes_become_offsets_by_the_average_record() -> None:
    limits = BatchLimits(max_batch_bytes=1_000)
    assert takes(plan(*lagging(50), limits, average_record_bytes=100.0)) == {0: 10}
    assert takes(plan(*lagging(50), limits, average_record_bytes=0.01)) == {0: 50}


def test_a_record_larger_than_the_byte_limit_is_read_alone() -> None:
    assert takes(plan(*lagging(50), BatchLimits(max_batch_bytes=1_000), average_record_bytes=5_000.0)) == {0: 1}


def test_without_a_known_size_bytes_do_not_limit() -> None:
    assert takes(plan(*lagging(50), BatchLimits(max_batch_bytes=1_000), average_record_bytes=0.0)) == {0: 50}


@pytest.mark.parametrize(("max_offsets", "max_bytes", "taken"), [(5, 1_000, 5), (50, 1_000, 10)])
def test_the_smaller_limit_wins(max_offsets: int, max_bytes: int, taken: int) -> None:
    limits = BatchLimits(max_batch_offsets=max_offsets, max_batch_bytes=max_bytes)
    assert takes(plan(*lagging(100), limits, average_record_bytes=100.0)) == {0: taken}


@pytest.mark.parametrize(
    ("lags", "waited_s", "expected"),
    [
        ((4, 5), 0.0, {}),
        ((4, 5), 59.9, {}),
        ((4, 5), 60.0, {0: 4, 1: 5}),
        ((4, 6), 0.0, {0: 4, 1: 6}),
        ((0, 0), 99.0, {}),
    ],
    ids=["too few", "still too few", "waited enough", "enough", "nothing at all"],
)
def test_a_batch_waits_for_its_minimum_but_not_forever(
    lags: tuple[int, ...], waited_s: float, expected: dict[int, int]
) -> None:
    limits = BatchLimits(min_batch_offsets=10, max_batch_delay_s=60)
    planned = plan(*lagging(*lags), limits, waited_s=waited_s)
    assert takes(planned) == expected
    assert planned.next_offsets == {orders(one): 100 + expected.get(one, 0) for one in range(2)}


def test_a_limit_below_the_number_of_partitions_goes_round() -> None:
    next_offsets, bounds = lagging(9, 9, 9, 9, 9)
    read = []
    for _ in range(5):
        planned = plan(next_offsets, bounds, BatchLimits(max_batch_offsets=2))
        read.append([one.partition for one in planned.ranges])
        next_offsets = dict(planned.next_offsets)
    assert read == [[0, 1], [2, 3], [0, 4], [1, 2], [3, 4]]


# Properties


@st.composite
def situations(draw: st.DrawFn, loss: bool = True) -> tuple[dict[TopicPartition, int], Bounds]:
    """Logs of some partitions, and where a source stands in them: known or new, at an end, inside, outside."""
    next_offsets: dict[TopicPartition, int] = {}
    bounds: Bounds = {}
    for partition in draw(st.lists(st.integers(0, 30), max_size=8, unique=True)):
        earliest = draw(st.integers(0, 2**62) | st.integers(0, 50))
        bounds[orders(partition)] = log = LogBounds(
            earliest, earliest + draw(st.integers(0, 40) | st.integers(0, 2**60))
        )
        below, above = (min(20, earliest), 20) if loss else (0, 0)
        if draw(st.booleans()):
            next_offsets[orders(partition)] = draw(st.integers(log.earliest - below, log.latest + above))
    return next_offsets, bounds


maxima = st.none() | st.integers(1, 200) | st.integers(1, 2**62)


@repeatable
@given(situations(), maxima, maxima, st.sampled_from([0.0, 0.5, 100.0, 1e9]))
def test_the_limit_is_used_up_and_never_exceeded(
    situation: tuple[dict[TopicPartition, int], Bounds], max_offsets: int | None, max_bytes: int | None, size: float
) -> None:
    next_offsets, bounds = situation
    planned = plan(next_offsets, bounds, BatchLimits(max_offsets, max_bytes), size, on_data_loss="skip")
    lags = lag(next_offsets, bounds)
    available = sum(lags.values())
    by_bytes = available if max_bytes is None or size == 0 else max(1, int(max_bytes / size))
    assert sum(one.size for one in planned.ranges) == min(available, max_offsets or available, by_bytes)
    assert all(0 < one.size <= lags[one.topic_partition] for one in planned.ranges)
    assert list(planned.ranges) == sorted(planned.ranges)
    assert len({one.topic_partition for one in planned.ranges}) == len(planned.ranges)


@repeatable
@given(situations(), maxima)
def test_a_plan_reads_only_what_kafka_has_and_says_where_each_partition_stands_after_it(
    situation: tuple[dict[TopicPartition, int], Bounds], max_offsets: int | None
) -> None:
    next_offsets, bounds = situation
    planned = plan(next_offsets, bounds, BatchLimits(max_offsets), on_data_loss="skip")
    ranges = {one.topic_partition: one for one in planned.ranges}
    assert planned.next_offsets.keys() == next_offsets.keys() | bounds.keys()
    for one, log in bounds.items():
        stood_at = next_offsets.get(one, log.earliest)
        start = min(max(stood_at, log.earliest), log.latest)
        assert planned.next_offsets[one] == (ranges[one].stop if one in ranges else start)
        if one in ranges:
            assert log.earliest <= start == ranges[one].start < ranges[one].stop <= log.latest


@repeatable
@given(situations(loss=False), st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_batch_after_batch_tiles_each_log(
    situation: tuple[dict[TopicPartition, int], Bounds], limits: list[int]
) -> None:
    next_offsets, bounds = situation
    stands_at: Mapping[TopicPartition, int] = next_offsets
    pieces: list[OffsetRange] = []
    for max_offsets in [*limits, None]:
        planned = plan(stands_at, bounds, BatchLimits(max_offsets))
        pieces += planned.ranges
        stands_at = planned.next_offsets
    assert stands_at == {one: log.latest for one, log in bounds.items()}
    whole = [
        OffsetRange(one.topic, one.partition, next_offsets.get(one, log.earliest), log.latest)
        for one, log in bounds.items()
    ]
    assert tiling_faults(pieces, whole) == []


@repeatable
@given(situations())
def test_lost_is_what_lies_between_the_next_offset_and_the_log(
    situation: tuple[dict[TopicPartition, int], Bounds],
) -> None:
    next_offsets, bounds = situation
    expected = [
        OffsetRange(one.topic, one.partition, min(at, bounds[one].latest), max(at, bounds[one].earliest))
        for one, at in sorted(next_offsets.items())
        if not bounds[one].earliest <= at <= bounds[one].latest
    ]
    assert list(plan(next_offsets, bounds, on_data_loss="skip").lost) == expected
    if expected:
        with pytest.raises(DataLoss):
            plan(next_offsets, bounds)
    else:
        assert plan(next_offsets, bounds) == plan(next_offsets, bounds, on_data_loss="skip")


lag_lists = st.lists(st.integers(1, 50) | st.integers(1, 2**60), min_size=1, max_size=12)


@repeatable
@given(lag_lists, st.data())
def test_shares_are_in_proportion_to_lag_beyond_the_first_offset(lags: list[int], data: st.DataObject) -> None:
    max_offsets = data.draw(st.integers(len(lags), max(len(lags), sum(lags))))
    taken = takes(plan(*lagging(*lags), BatchLimits(max_batch_offsets=max_offsets)))
    spare, beyond_first = max_offsets - len(lags), sum(lags) - len(lags)
    for partition, one in enumerate(lags):
        # |taken - 1 - spare * (lag - 1) / beyond_first| < 1, in whole numbers
        assert abs((taken[partition] - 1) * beyond_first - spare * (one - 1)) < max(beyond_first, 1)
    by_lag = sorted(range(len(lags)), key=lambda partition: lags[partition])
    assert all(taken[less] <= taken[more] + (lags[less] == lags[more]) for less, more in pairwise(by_lag))


@repeatable
@given(lag_lists, st.data())
def test_no_lagging_partition_starves(lags: list[int], data: st.DataObject) -> None:
    """Producers keep up with the reader, so that every partition goes on lagging."""
    max_offsets = data.draw(st.integers(1, len(lags) + 3))
    next_offsets, bounds = lagging(*lags)
    batches = -(-len(lags) // max_offsets)
    progressed = set()
    for _ in range(batches):
        planned = plan(next_offsets, bounds, BatchLimits(max_batch_offsets=max_offsets))
        progressed |= {one.topic_partition for one in planned.ranges}
        bounds = {
            one: LogBounds(50, log.latest + planned.next_offsets[one] - next_offsets[one])
            for one, log in bounds.items()
        }
        next_offsets = dict(planned.next_offsets)
    assert progressed == set(bounds)


@repeatable
@given(situations(), maxima, st.randoms(use_true_random=False))
def test_the_same_arguments_in_any_order_make_the_same_plan(
    situation: tuple[dict[TopicPartition, int], Bounds], max_offsets: int | None, random: Any
) -> None:
    next_offsets, bounds = situation
    shuffled_next, shuffled_bounds = list(next_offsets.items()), list(bounds.items())
    random.shuffle(shuffled_next)
    random.shuffle(shuffled_bounds)
    limits = BatchLimits(max_offsets)
    assert plan(next_offsets, bounds, limits, on_data_loss="skip") == plan(
        dict(shuffled_next), dict(shuffled_bounds), limits, on_data_loss="skip"
    )
