"""A range without an end keeps the contract of Beam's trackers, and its splits divide what the log holds."""

from __future__ import annotations

import pytest

from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.transforms.reading.growing_range import NO_END, GrowingRangeTracker


def tracker(start: int, end: int, stop: int = NO_END) -> GrowingRangeTracker:
    """Of a log that ends at ``end``."""
    return GrowingRangeTracker(OffsetRange("orders", 0, start, stop), lambda place: end)


def test_the_rest_of_a_range_without_an_end_must_be_given_away() -> None:
    following = tracker(10, 100)
    assert not following.is_bounded()
    with pytest.raises(ValueError, match="has no end, and its rest was not put off"):
        following.check_done()
    assert following.try_claim(49)
    progress = following.current_progress()
    assert (progress.completed_work, progress.remaining_work) == (40, 50)

    done, rest = following.try_split(0) or (None, None)

    assert (done, rest) == (OffsetRange("orders", 0, 10, 50), OffsetRange("orders", 0, 50, NO_END))
    assert not following.try_claim(50)
    assert following.try_split(0) is None
    following.check_done()


def test_a_split_divides_what_is_there_and_the_rest_has_what_comes() -> None:
    following = tracker(0, 100)
    assert following.try_claim(19)
    primary, residual = following.try_split(0.5) or (None, None)
    assert (primary, residual) == (OffsetRange("orders", 0, 0, 60), OffsetRange("orders", 0, 60, NO_END))
    assert following.is_bounded()
    assert following.try_claim(59)
    following.check_done()


def test_where_nothing_is_left_there_is_nothing_to_divide() -> None:
    following = tracker(0, 20)
    assert following.try_claim(19)
    assert following.try_split(0.5) is None
    assert following.current_progress().remaining_work == 0


def test_a_range_with_an_end_is_as_any_other() -> None:
    following = tracker(0, 0, stop=10)
    assert following.is_bounded()
    assert following.try_claim(4)
    with pytest.raises(ValueError, match="nothing after position 4 was claimed"):
        following.check_done()
    assert following.try_split(0.5) == (OffsetRange("orders", 0, 0, 7), OffsetRange("orders", 0, 7, 10))
