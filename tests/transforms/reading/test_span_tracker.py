"""The tracker alone: claims, splits, and that any sequence of them tiles the range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.offsets import OffsetRange, tiling_faults
from beam_exactly_once.transforms.reading.span_tracker import Span, SpanCoder, SpanTracker, cut_evenly


def faults(parts: list[Span], whole: Span) -> list[str]:
    """What keeps ``parts`` from covering ``whole`` exactly once."""
    return tiling_faults(
        [OffsetRange("line", 0, one.start, one.stop) for one in parts],
        [OffsetRange("line", 0, whole.start, whole.stop)],
    )


def test_a_claim_covers_everything_up_to_it() -> None:
    tracker = SpanTracker(Span(10, 20))
    assert tracker.try_claim(14)
    assert tracker.try_claim(19)
    tracker.check_done()


def test_a_range_that_was_not_claimed_to_its_end_is_not_done() -> None:
    tracker = SpanTracker(Span(10, 20))
    assert tracker.try_claim(18)
    with pytest.raises(ValueError, match="nothing after position 18"):
        tracker.check_done()


def test_claims_must_rise() -> None:
    tracker = SpanTracker(Span(0, 20))
    assert tracker.try_claim(5)
    with pytest.raises(ValueError, match="must rise"):
        tracker.try_claim(5)


def test_a_refused_claim_ends_all_splitting() -> None:
    tracker = SpanTracker(Span(0, 100))
    assert tracker.try_split(0.5) == (Span(0, 50), Span(50, 100))
    assert not tracker.try_claim(80)
    assert tracker.try_split(0.5) is None
    assert tracker.current_restriction() == Span(0, 50)
    tracker.check_done()


def test_a_checkpoint_gives_away_all_that_was_not_claimed() -> None:
    tracker = SpanTracker(Span(0, 100))
    assert tracker.try_claim(9)
    assert tracker.try_split(0) == (Span(0, 10), Span(10, 100))
    assert tracker.try_split(0) is None
    tracker.check_done()


def test_a_fully_claimed_range_cannot_be_split() -> None:
    tracker = SpanTracker(Span(0, 10))
    assert tracker.try_claim(9)
    assert tracker.try_split(0) is None


@given(
    start=st.integers(0, 1000),
    size=st.integers(0, 500),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("claim"), st.integers(1, 60)),
            st.tuples(st.just("split"), st.floats(0, 1, allow_nan=False)),
        ),
        max_size=60,
    ),
)
def test_any_sequence_of_claims_and_splits_tiles_the_range(
    start: int, size: int, steps: list[tuple[str, float]]
) -> None:
    whole = Span(start, start + size)
    tracker = SpanTracker(whole)
    residuals: list[OffsetRange] = []
    position, refused = start, False
    for step, amount in steps:
        if step == "split":
            split = tracker.try_split(amount)
            if split is not None:
                primary, residual = split
                assert primary == tracker.current_restriction()
                assert primary.stop == residual.start
                residuals.append(residual)
        elif not refused and position < whole.stop:
            claim = min(position + int(amount), whole.stop) - 1
            refused = not tracker.try_claim(claim)
            position = claim + 1
    assert faults([tracker.current_restriction(), *residuals], whole) == []


@given(start=st.integers(0, 1 << 60), size=st.integers(0, 10_000), max_size=st.integers(1, 3000))
def test_even_parts_tile_the_range_and_are_small_enough(start: int, size: int, max_size: int) -> None:
    whole = Span(start, start + size)
    parts = cut_evenly(whole, max_size)
    assert faults(parts, whole) == []
    assert max(part.size for part in parts) <= max_size


@given(start=st.integers(0, 1 << 62), size=st.integers(0, 99))
def test_the_coder_keeps_every_span(start: int, size: int) -> None:
    whole = Span(start, start + size)
    coder = SpanCoder()
    assert coder.decode(coder.encode(whole)) == whole


def test_the_coder_refuses_another_version() -> None:
    with pytest.raises(ValueError, match="version 1"):
        SpanCoder().decode(b'[1,"orders",0,1,2]')
