"""Up to when a batch closes windows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.state.event_bounds import TimeInputs, event_bounds, late_bounds

times = st.one_of(st.none(), st.integers(-100, 100))


@pytest.mark.parametrize(
    ("watermarks", "closed", "expected"),
    [
        ({"a": 50, "b": 70}, None, 40),  # the least, less the lateness
        ({"a": 50, "b": None}, None, None),  # one has not begun
        ({"a": 50, "b": None}, 30, 30),
        ({"a": 50, "b": 70}, 45, 45),  # never back, also where more lateness is allowed now
        ({"a": None, "b": None}, None, None),
    ],
)
def test_the_bound_of_an_operator(watermarks: dict[str, int | None], closed: int | None, expected: int | None) -> None:
    inputs = {"windows": TimeInputs(("a", "b"), (), 10)}
    assert event_bounds(inputs, watermarks, {"windows": closed}) == {"windows": expected}


def test_a_source_that_an_operator_does_not_read_does_not_hold_it_back() -> None:
    inputs = {"of_a": TimeInputs(("a",)), "of_b": TimeInputs(("b",))}
    assert event_bounds(inputs, {"a": 5, "b": None}, {}) == {"of_a": 5, "of_b": None}


def test_an_operator_closes_up_to_where_the_one_before_it_has() -> None:
    """SPARK-40925: it closed by the watermark of the sources, and what came from before it was late."""
    inputs = {"minutes": TimeInputs(("a",), (), 20), "hours": TimeInputs((), ("minutes",), 5)}
    assert event_bounds(inputs, {"a": 100}, {}) == {"minutes": 80, "hours": 75}


@given(st.lists(times, min_size=1, max_size=8), st.lists(st.integers(0, 50), min_size=8, max_size=8))
def test_bounds_never_fall_whatever_lateness_is_set(watermarks: list[int | None], lateness: list[int]) -> None:
    closed: dict[str, int | None] = {}
    for watermark, allowed in zip(watermarks, lateness, strict=False):
        inputs = {"first": TimeInputs(("a",), (), allowed), "second": TimeInputs((), ("first",), lateness[0])}
        bounds = event_bounds(inputs, {"a": watermark}, closed)
        for name, bound in bounds.items():
            before = closed.get(name)
            assert before is None or (bound is not None and bound >= before)
        closed = bounds


def test_what_gives_rows_from_before_its_bound_holds_the_next_one_back() -> None:
    inputs = {"join": TimeInputs(("a", "b"), (), gives_before_ms=30), "windows": TimeInputs((), ("join",), 5)}
    assert event_bounds(inputs, {"a": 100, "b": 90}, {}) == {"join": 90, "windows": 55}


@pytest.mark.parametrize(
    ("watermarks", "closed", "late"),
    [
        ({"a": 100, "b": 90}, {"join": 90, "minutes": 70}, (100, 90)),  # each side by its own
        ({"a": 100, "b": 90}, {"join": 95, "minutes": 70}, (100, 95)),  # what it has closed is closed
        ({"a": 100, "b": None}, {"join": 95, "minutes": 70}, (100, 95)),  # a new source
        ({"a": 100}, {}, (100, None)),
        ({}, {}, (None, None)),
    ],
)
def test_each_side_is_late_by_its_own_time(
    watermarks: dict[str, int | None], closed: dict[str, int | None], late: tuple[int | None, int | None]
) -> None:
    sides = TimeInputs(("a",)), TimeInputs(("b",))
    inputs = {"minutes": TimeInputs(("a",)), "join": TimeInputs(("a", "b"))}
    assert late_bounds("join", sides, inputs, watermarks, closed) == late


def test_a_side_behind_an_operator_is_late_by_what_that_has_closed() -> None:
    inputs = {"first": TimeInputs(("a",), gives_before_ms=20), "join": TimeInputs(("b",), ("first",))}
    sides = TimeInputs((), ("first",)), TimeInputs(("b",))
    assert late_bounds("join", sides, inputs, {"a": 500, "b": 90}, {"first": 100, "join": 70}) == (80, 90)
