"""The watermark of the next batch: each rule by itself, and what must hold for any history."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once import EventTime
from beam_exactly_once.checkpoint.source_times import NotedTimes, PartitionTimes, SourceTimes
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.planning.watermarks import Watermark, next_watermark, quiet_partitions

A, B, C = (TopicPartition("orders", partition) for partition in range(3))
FIVE_LATE = EventTime(out_of_order_s=0.005, idle_s=1)
"""Out of order by 5 ms, idle after a second."""


def times(watermark_ms: int | None = None, **max_ms: int | None) -> SourceTimes:
    """Latest times of the partitions ``a``, ``b`` and ``c``, all seen at 0."""
    places = {"a": A, "b": B, "c": C}
    return SourceTimes({places[one]: PartitionTimes(at_ms, 0) for one, at_ms in max_ms.items()}, watermark_ms)


@pytest.mark.parametrize(
    ("before", "partitions", "idle", "expected"),
    [
        pytest.param(times(), [A, B], [], Watermark(None, A), id="the first batch has none"),
        pytest.param(times(), [], [], Watermark(None, None), id="nor has a source without partitions"),
        pytest.param(times(a=100, b=70), [A, B], [], Watermark(65, B), id="the slowest is waited for"),
        pytest.param(times(a=100, b=70), [A, B], [B], Watermark(95, A), id="unless it is idle"),
        pytest.param(times(a=100, b=70), [A, B], [A, B], Watermark(95, None), id="all idle: the largest of theirs"),
        pytest.param(times(a=None), [A], [A], Watermark(None, None), id="all idle, without any record"),
        pytest.param(times(90, a=100, b=70), [A, B], [], Watermark(90, B), id="it never falls"),
        pytest.param(times(90, a=200), [A, B], [], Watermark(90, B), id="a new partition holds it where it is"),
        pytest.param(times(90, a=200, b=None), [A, B], [], Watermark(90, B), id="so does one without a record"),
        pytest.param(times(90, a=200, b=None), [A, B], [B], Watermark(195, A), id="until it is idle"),
        pytest.param(times(90, a=200, b=10), [A], [], Watermark(195, A), id="what is not read is not waited for"),
        pytest.param(times(0, a=-40), [A], [], Watermark(0, A), id="before 1970"),
    ],
)
def test_rules(
    before: SourceTimes, partitions: list[TopicPartition], idle: list[TopicPartition], expected: Watermark
) -> None:
    assert next_watermark(before, partitions, idle, FIVE_LATE) == expected


def test_quiet_is_who_had_no_record_for_long_enough_or_never_since_it_is_known() -> None:
    before = SourceTimes({A: PartitionTimes(7, 1000), B: PartitionTimes(None, 999), C: PartitionTimes(7, 0)})
    new = TopicPartition("orders", 3)
    assert quiet_partitions(before, [A, B, new], FIVE_LATE, 1999) == [B]
    assert quiet_partitions(before, [A, B, C, new], FIVE_LATE, 2000) == [A, B, C]
    assert quiet_partitions(before, [A, B, C], EventTime(out_of_order_s=0, idle_s=None), 10**12) == []


@pytest.mark.parametrize("order", list(permutations([A, B, C])))
def test_it_does_not_matter_who_goes_idle_first(order: tuple[TopicPartition, ...]) -> None:
    """FLINK-38477: where all were idle, the watermark depended on who was the last."""
    before = times(a=100, b=70, c=130)
    for count in (1, 2, 3):
        reached = next_watermark(before, [A, B, C], order[:count], FIVE_LATE)
        before = SourceTimes(before.partitions, reached.at_ms)
    assert before.watermark_ms == 125


Batches = list[tuple[dict[int, list[int]], tuple[TopicPartition, ...]]]
"""Times of records by partition, and who would be idle, had it no records."""


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.integers(0, 2), st.lists(st.integers(-50, 400), max_size=3), max_size=3),
            st.sampled_from([(), (A,), (B,), (A, B), (A, B, C)]),
        ),
        max_size=6,
    ),
    st.integers(0, 60),
)
@settings(max_examples=100, deadline=None)
def test_it_never_falls_and_no_record_in_its_order_is_late(batches: Batches, out_of_order_ms: int) -> None:
    """A record is late only if it is more than ``out_of_order_s`` behind its own partition, or that was idle, or is new."""
    event_time = EventTime(out_of_order_s=out_of_order_ms / 1000)
    before, watermarks = SourceTimes(), []
    never_idle = {A, B, C}
    for number, (batch, quiet) in enumerate(batches):
        idle = {one for one in quiet if one.partition not in batch}
        never_idle -= idle
        watermark = next_watermark(before, [A, B, C], idle, event_time)
        watermarks.append(watermark.at_ms)
        for one in never_idle:
            latest_ms = before.partitions.get(one, PartitionTimes(None, 0)).max_ms
            if latest_ms is None:
                assert watermark.at_ms is None
            else:
                in_order = [at_ms for at_ms in batch.get(one.partition, []) if at_ms >= latest_ms - out_of_order_ms]
                assert all(at_ms >= (-1000 if watermark.at_ms is None else watermark.at_ms) for at_ms in in_order)
        noted = {
            TopicPartition("orders", partition): NotedTimes(max(of_partition))
            for partition, of_partition in batch.items()
            if of_partition
        }
        before = before.behind({A: 0, B: 0, C: 0}, (), number, watermark.at_ms, noted)
    known = [one for one in watermarks if one is not None]
    assert known == sorted(known)
    assert watermarks == [None] * (len(watermarks) - len(known)) + known


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"by": 7}, "by=7 must say when a row happened"),
        ({"by": ""}, "by='' must say"),
        ({"out_of_order_s": -1}, "out_of_order_s=-1 must be a number of seconds of at least 0"),
        (
            {"idle_s": 0},
            "idle_s=0 must be a number of seconds above 0, or None for waiting for each partition for ever",
        ),
        ({"future_s": None}, "future_s=None must be a number of seconds"),
    ],
)
def test_arguments_are_checked(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EventTime(**{"out_of_order_s": 1, **wrong})  # type: ignore[arg-type]
