"""Which ranges are read together, and their line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.offsets import OffsetRange, tiling_faults
from beam_exactly_once.transforms.reading.range_group import (
    GROUPS_FOR_MANY_WORKERS,
    MAX_GROUP_OFFSETS,
    MAX_SMALL_OFFSETS,
    PlannedRange,
    RangeGroup,
    RangeGroupCoder,
    grouped,
)
from beam_exactly_once.transforms.reading.span_tracker import cut_evenly

SIZES = st.lists(st.one_of(st.integers(1, 30), st.integers(MAX_SMALL_OFFSETS - 5, MAX_SMALL_OFFSETS * 3)), max_size=40)


def planned(sizes: list[int]) -> list[PlannedRange]:
    return [
        PlannedRange(OffsetRange("orders", number, 7 * number, 7 * number + size), "id", "read_committed", 5)
        for number, size in enumerate(sizes)
    ]


@given(sizes=SIZES, workers=st.sampled_from([1, 2, None]))
def test_each_range_is_in_one_group(sizes: list[int], workers: int | None) -> None:
    ranges = planned(sizes)
    groups = list(grouped(ranges, workers=workers))
    assert sorted(one.offsets for group in groups for one in group.ranges) == [one.offsets for one in ranges]
    for group in groups:
        assert len(group.ranges) == 1 or (group.is_small and group.line.size <= MAX_GROUP_OFFSETS)


@pytest.mark.parametrize(
    ("workers", "offsets", "groups"),
    [(1, 1, 1), (1, 100, 1), (3, 1, 3), (3, 100, GROUPS_FOR_MANY_WORKERS), (None, 1, GROUPS_FOR_MANY_WORKERS)],
)
def test_small_ranges_keep_several_workers_busy(workers: int | None, offsets: int, groups: int) -> None:
    assert len(list(grouped(planned([offsets] * 400), workers=workers))) == groups


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=9), max_size=st.integers(1, 70))
def test_parts_of_the_line_are_the_ranges(sizes: list[int], max_size: int) -> None:
    group = RangeGroup(tuple(planned(sizes)))
    parts = [one for span in cut_evenly(group.line, max_size) for one in group.within(span)]
    assert tiling_faults(parts, [one.offsets for one in group.ranges]) == []
    assert group.within(group.line) == [one.offsets for one in group.ranges]


def test_the_line_of_one_range_is_the_range() -> None:
    group = RangeGroup((PlannedRange(OffsetRange("orders", 3, 17, 20)),))
    assert (group.line.start, group.line.stop) == (17, 20)


def test_the_coder_keeps_every_group() -> None:
    group = RangeGroup((*planned([1, 2]), PlannedRange(OffsetRange("returns", 0, 1 << 62, (1 << 62) + 5))))
    assert RangeGroupCoder().decode(RangeGroupCoder().encode(group)) == group


def test_the_coder_refuses_another_version() -> None:
    with pytest.raises(ValueError, match="version 2"):
        RangeGroupCoder().decode(b'[2,"orders",0,1,2,null,null,null]')
