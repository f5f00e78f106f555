"""Up to when a batch closes windows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.state.event_bounds import TimeInputs, event_bounds

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
