"""Which windows a row falls into, and the keys of windows."""

import numpy as np
import pyarrow as pa
import pytest
from apache_beam.transforms.window import FixedWindows, IntervalWindow, SlidingWindows, WindowFn
from apache_beam.utils.timestamp import Duration, Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from beam_exactly_once.state.windows.window_keys import ends_of, user_keys, with_ends
from beam_exactly_once.state.windows.windows import Windows

times = st.integers(-(10**13), 10**13)


def _of_beam(windows: WindowFn, time_ms: int) -> list[int]:
    """The ends of Beam's windows of an element with this timestamp."""
    context = WindowFn.AssignContext(Timestamp(micros=time_ms * 1000), None)
    assigned = windows.assign(context)
    assert all(isinstance(one, IntervalWindow) for one in assigned)
    return sorted(one.end.micros // 1000 for one in assigned)


def _span(span_ms: int) -> Duration:
    return Duration(micros=span_ms * 1000)


@given(st.lists(times, max_size=20), st.integers(1, 10**7), st.integers(0, 10**7))
def test_windows_side_by_side_are_those_of_beam(at: list[int], size_ms: int, offset_ms: int) -> None:
    falls = Windows(size_ms, size_ms, offset_ms % size_ms).of(np.array(at, np.int64))
    of_beam = FixedWindows(_span(size_ms), Timestamp(micros=offset_ms % size_ms * 1000))
    assert falls.rows.tolist() == list(range(len(at)))
    assert [[end] for end in falls.ends_ms.tolist()] == [_of_beam(of_beam, one) for one in at]


@given(st.lists(times, max_size=10), st.integers(1, 50), st.integers(1, 50), st.integers(0, 49))
@example([0], 7, 3, 0)
def test_windows_that_overlap_are_those_of_beam(at: list[int], size: int, period: int, offset: int) -> None:
    size_ms, period_ms = 1000 * max(size, period), 1000 * min(size, period)
    offset_ms = 1000 * offset % period_ms
    falls = Windows(size_ms, period_ms, offset_ms).of(np.array(at, np.int64))
    of_beam = SlidingWindows(_span(size_ms), _span(period_ms), Timestamp(micros=offset_ms * 1000))
    found: list[list[int]] = [[] for _ in at]
    for row, end_ms in zip(falls.rows.tolist(), falls.ends_ms.tolist(), strict=True):
        found[row].append(end_ms)
    assert [sorted(ends) for ends in found] == [_of_beam(of_beam, one) for one in at]


@given(st.lists(st.tuples(st.binary(max_size=9), times), max_size=20))
def test_the_key_of_a_window_holds_both(windows: list[tuple[bytes, int]]) -> None:
    keys = pa.array([key for key, _ in windows], pa.large_binary())
    ends_ms = np.array([end for _, end in windows], np.int64)
    of_windows = with_ends(keys, ends_ms)
    assert user_keys(of_windows).to_pylist() == keys.to_pylist()
    assert ends_of(of_windows).tolist() == ends_ms.tolist()
    part = of_windows.slice(len(windows) // 2)
    assert ends_of(part).tolist() == ends_ms.tolist()[len(windows) // 2 :]


@pytest.mark.parametrize("ends_ms", [[-2, -1, 0, 1, 2, 10**13]])
def test_windows_of_one_key_are_in_the_order_of_their_ends(ends_ms: list[int]) -> None:
    keys = pa.array([b"key"] * len(ends_ms), pa.large_binary())
    of_windows = with_ends(keys, np.array(ends_ms, np.int64)).to_pylist()
    assert of_windows == sorted(of_windows)
