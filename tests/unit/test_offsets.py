"""Ranges, and the check that pieces tile a plan: the last guard before a commit."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.offsets import OffsetRange, TopicPartition, tiling_faults

# Derandomised: the same examples in every run. No deadline: a slow machine is no fault.
repeatable = settings(derandomize=True, deadline=None, database=None)

PARTITIONS = [TopicPartition("orders", 0), TopicPartition("orders", 1), TopicPartition("payments", 0)]


def offsets(start: int, stop: int, partition: int = 0) -> OffsetRange:
    return OffsetRange("orders", partition, start, stop)


@st.composite
def plans(draw: st.DrawFn) -> list[OffsetRange]:
    """Some ranges that do not overlap: several a partition, touching or apart, at least one not empty."""
    ranges = []
    for one in draw(st.lists(st.sampled_from(PARTITIONS), min_size=1, unique=True)):
        edges = sorted(draw(st.lists(st.integers(0, 60), min_size=2, max_size=6, unique=True)))
        chosen = draw(st.lists(st.booleans(), min_size=len(edges) - 1, max_size=len(edges) - 1))
        chosen[0] = True
        ranges += [
            OffsetRange(one.topic, one.partition, start, stop)
            for start, stop, wanted in zip(edges, edges[1:], chosen, strict=False)
            if wanted
        ]
    return draw(st.permutations(ranges))


@st.composite
def plans_and_pieces(draw: st.DrawFn) -> tuple[list[OffsetRange], list[OffsetRange]]:
    """A plan, and a way to cut it into pieces: anywhere, also into empty ones, in any order."""
    plan = draw(plans())
    pieces = []
    for planned in plan:
        cuts = draw(st.lists(st.integers(planned.start, planned.stop), max_size=5))
        edges = [planned.start, *sorted(cuts), planned.stop]
        pieces += [OffsetRange(planned.topic, planned.partition, start, stop) for start, stop in pairwise(edges)]
    return plan, draw(st.permutations(pieces))


def not_empty(pieces: list[OffsetRange]) -> list[int]:
    return [index for index, piece in enumerate(pieces) if not piece.is_empty]


@repeatable
@given(plans_and_pieces())
def test_any_way_to_cut_a_plan_into_pieces_tiles_it(drawn: tuple[list[OffsetRange], list[OffsetRange]]) -> None:
    plan, pieces = drawn
    assert tiling_faults(pieces, plan) == []


@repeatable
@given(plans_and_pieces(), st.data())
def test_a_dropped_piece_is_a_fault_that_names_it(
    drawn: tuple[list[OffsetRange], list[OffsetRange]], data: st.DataObject
) -> None:
    plan, pieces = drawn
    dropped = pieces.pop(data.draw(st.sampled_from(not_empty(pieces))))
    assert tiling_faults(pieces, plan) == [f"{dropped} was not read"]


@repeatable
@given(plans_and_pieces(), st.data())
def test_a_doubled_piece_is_a_fault_that_names_it(
    drawn: tuple[list[OffsetRange], list[OffsetRange]], data: st.DataObject
) -> None:
    plan, pieces = drawn
    doubled = pieces[data.draw(st.sampled_from(not_empty(pieces)))]
    assert tiling_faults([*pieces, doubled], plan) == [f"{doubled} was read 2 times"]


@repeatable
@given(plans_and_pieces(), st.data(), st.integers(1, 70), st.booleans())
def test_a_widened_piece_is_a_fault(
    drawn: tuple[list[OffsetRange], list[OffsetRange]], data: st.DataObject, by: int, forward: bool
) -> None:
    plan, pieces = drawn
    index = data.draw(st.sampled_from(not_empty(pieces)))
    piece = pieces[index]
    start, stop = (piece.start, piece.stop + by) if forward else (max(0, piece.start - by), piece.stop)
    pieces[index] = OffsetRange(piece.topic, piece.partition, start, stop)
    assert bool(tiling_faults(pieces, plan)) == (pieces[index] != piece)


@repeatable
@given(plans_and_pieces(), st.data())
def test_a_piece_moved_to_another_partition_is_a_fault(
    drawn: tuple[list[OffsetRange], list[OffsetRange]], data: st.DataObject
) -> None:
    plan, pieces = drawn
    index = data.draw(st.sampled_from(not_empty(pieces)))
    pieces[index] = OffsetRange("refunds", 0, pieces[index].start, pieces[index].stop)
    assert len(tiling_faults(pieces, plan)) == 2


@repeatable
@given(
    st.lists(st.builds(lambda p, a, b: offsets(min(a, b), max(a, b), p), st.integers(0, 1), *[st.integers(0, 12)] * 2))
)
def test_faults_are_found_wherever_counting_offset_by_offset_finds_them(pieces: list[OffsetRange]) -> None:
    plan = [offsets(2, 5), offsets(5, 7), offsets(9, 11), offsets(0, 4, partition=1)]
    planned = Counter((one.partition, offset) for one in plan for offset in range(one.start, one.stop))
    read = Counter((one.partition, offset) for one in pieces for offset in range(one.start, one.stop))
    assert (tiling_faults(pieces, plan) == []) == (planned == read)


def test_no_pieces_tile_an_empty_plan() -> None:
    assert tiling_faults([], []) == []
    assert tiling_faults([offsets(3, 3)], [offsets(7, 7)]) == []


def test_one_piece_may_cover_ranges_that_touch() -> None:
    assert tiling_faults([offsets(0, 10)], [offsets(5, 10), offsets(0, 5)]) == []


def test_each_fault_names_exactly_the_offsets_concerned() -> None:
    plan = [offsets(0, 10), offsets(20, 30), offsets(0, 5, partition=1)]
    pieces = [offsets(1, 6), offsets(4, 8), offsets(5, 6), offsets(9, 22)]
    assert tiling_faults(pieces, plan) == [
        "orders-0[0, 1) was not read",
        "orders-0[4, 5) was read 2 times",
        "orders-0[5, 6) was read 3 times",
        "orders-0[8, 9) was not read",
        "orders-0[10, 20) was read but not planned",
        "orders-0[22, 30) was not read",
        "orders-1[0, 5) was not read",
    ]


def test_touching_faults_of_one_kind_are_told_once() -> None:
    plan = [offsets(0, 5), offsets(5, 10)]
    assert tiling_faults([], plan) == ["orders-0[0, 10) was not read"]
    assert tiling_faults([offsets(4, 6)], plan) == ["orders-0[0, 4) was not read", "orders-0[6, 10) was not read"]


def test_ranges_that_overlap_are_a_fault_however_they_were_read() -> None:
    plan = [offsets(0, 5), offsets(3, 8)]
    assert tiling_faults(plan, plan) == ["orders-0[3, 5) was planned 2 times"]
    assert tiling_faults([offsets(0, 8)], plan) == ["orders-0[3, 5) was planned 2 times"]


def test_offsets_beyond_what_a_float_holds_are_exact() -> None:
    far = 2**63 - 3
    assert tiling_faults([offsets(far, far + 1)], [offsets(far, far + 2)]) == [
        f"orders-0[{far + 1}, {far + 2}) was not read"
    ]


def test_a_range_says_where_it_is_and_how_long() -> None:
    one = OffsetRange("orders", 3, 15, 20)
    assert (str(one), one.size, one.is_empty) == ("orders-3[15, 20)", 5, False)
    assert one.topic_partition == TopicPartition("orders", 3)
    assert str(one.topic_partition) == "orders-3"
    assert OffsetRange("orders", 3, 15, 15).is_empty


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4)])
def test_a_range_that_is_none_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="need 0 <= start <= stop"):
        OffsetRange("orders", 0, start, stop)


def test_a_partition_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="topic must not be empty"):
        TopicPartition("", 0)
    with pytest.raises(ValueError, match="partition must be >= 0, got -1"):
        TopicPartition("orders", -1)


def test_partitions_sort_by_topic_then_number() -> None:
    unsorted = [TopicPartition("b", 0), TopicPartition("a", 10), TopicPartition("a", 9)]
    assert sorted(unsorted) == [TopicPartition("a", 9), TopicPartition("a", 10), TopicPartition("b", 0)]
