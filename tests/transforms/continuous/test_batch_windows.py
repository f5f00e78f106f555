"""Which window an element is in says which batch it is of."""

from __future__ import annotations

import pytest
from apache_beam.transforms.window import IntervalWindow, WindowFn
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from beam_exactly_once.errors import UnsupportedPipeline
from beam_exactly_once.transforms.continuous.batch_windows import BatchWindows, batch_time


def windows_of(time: Timestamp) -> list[IntervalWindow]:
    return list(BatchWindows().assign(WindowFn.AssignContext(time)))


@pytest.mark.parametrize("number", [0, 1, (1 << 31) - 1])
def test_a_batch_has_a_window(number: int) -> None:
    window = IntervalWindow(batch_time(number), batch_time(number) + 1)
    assert windows_of(batch_time(number)) == [window]
    assert windows_of(window.max_timestamp()) == [window]
    assert batch_time(number).to_utc_datetime().year < 10_000


@pytest.mark.parametrize("time", [MIN_TIMESTAMP, Timestamp(0), Timestamp(1_767_225_600), Timestamp(1 << 36)])
def test_a_time_of_a_steps_own_is_in_none(time: Timestamp) -> None:
    with pytest.raises(UnsupportedPipeline, match="carry the time in the row"):
        windows_of(time)
