"""Where to stop bounds what a batch reads, and says nothing of what is lost."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.offsets import LogBounds, OffsetRange, TopicPartition
from beam_exactly_once.planning import BatchLimits, PlannedRanges, plan_ranges

# Derandomised: the same examples in every run. No deadline: a slow machine is no fault.
repeatable = settings(derandomize=True, deadline=None, database=None)

FIRST, SECOND, THIRD = (TopicPartition("orders", partition) for partition in range(3))
Offsets = Mapping[TopicPartition, int]


def plan(next_offsets: Offsets, bounds: Mapping[TopicPartition, LogBounds], until: Offsets | None) -> PlannedRanges:
    return plan_ranges(
        next_offsets, bounds, BatchLimits(), average_record_bytes=0, waited_s=0, until=until, on_data_loss="skip"
    )


def test_who_stands_behind_the_stop_has_lost_nothing() -> None:
    """As beside a driver that took its target later, and whose plan was adopted."""
    assert plan({FIRST: 6}, {FIRST: LogBounds(0, 6)}, {FIRST: 4}) == PlannedRanges((), (), {FIRST: 6})


def test_a_partition_without_a_stop_waits() -> None:
    bounds = dict.fromkeys((FIRST, SECOND, THIRD), LogBounds(0, 6))
    planned = plan({FIRST: 0, SECOND: 2}, bounds, {FIRST: 4})
    assert planned == PlannedRanges((OffsetRange("orders", 0, 0, 4),), (), {FIRST: 4, SECOND: 2})


small = st.integers(0, 30)
logs = st.dictionaries(
    st.sampled_from((FIRST, SECOND, THIRD)), st.tuples(small, small).map(lambda ends: LogBounds(min(ends), max(ends)))
)


@repeatable
@given(logs, st.data())
def test_whatever_the_stops(bounds: dict[TopicPartition, LogBounds], data: st.DataObject) -> None:
    some = st.dictionaries(st.sampled_from(sorted(bounds)), small) if bounds else st.just({})
    next_offsets, until = data.draw(some), data.draw(some)
    planned = plan(next_offsets, bounds, until)
    free = plan(next_offsets, bounds, None)

    assert planned.lost == free.lost
    assert all(one.stop <= until[one.topic_partition] for one in planned.ranges)
    assert {one.topic_partition: one.start for one in planned.ranges}.items() <= {
        one.topic_partition: one.start for one in free.ranges
    }.items()
    assert plan(next_offsets, bounds, {one: log.latest for one, log in bounds.items()}) == free
