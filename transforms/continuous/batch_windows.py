"""The window of a batch, in a pipeline that runs all of them: what a step groups is what one attempt has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from apache_beam.coders import Coder
from apache_beam.coders.coders import IntervalWindowCoder
from apache_beam.transforms.window import IntervalWindow, NonMergingWindowFn, WindowFn
from apache_beam.utils.timestamp import Duration, Timestamp

from beam_exactly_once.errors import UnsupportedPipeline, leaving_step

FIRST_SECOND = 1 << 37
"""Where the first window of a job begins, in the year 6325: no time that a step gives an element is taken for that of a batch.
Whole seconds, since Flink keeps no part of one; and before the year 10000, where timestamps of messages between programs end."""


def batch_time(number: int) -> Timestamp:
    """When batch ``number`` of a job, counted from 0, has its elements."""
    return Timestamp(FIRST_SECOND + number)


class BatchWindows(NonMergingWindowFn):
    """Puts each batch of a job into a window of its own, by the times that the planning step gives."""

    def assign(self, context: WindowFn.AssignContext) -> Iterable[Any]:
        """The one window of an element that has the time of its batch.

        Beam asks again where a step gives an element another time, and does not say in which window it was: it would be in none
        of a batch, and lost.

        Raises:
            UnsupportedPipeline: a step has.
        """
        start = Timestamp(Timestamp.of(context.timestamp).seconds())  # side inputs are found by the end of a window
        if start < batch_time(0):
            with leaving_step():
                raise UnsupportedPipeline(
                    "a step gives its elements a timestamp of their own, by TimestampedValue. With trigger=Continuous(…) the "
                    "timestamp says which batch an element is of: carry the time in the row, or use trigger=ProcessingTime(…)."
                )
        return [IntervalWindow(start, start + Duration(1))]

    def get_window_coder(self) -> Coder:
        """The coder that every runner knows."""
        return IntervalWindowCoder()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))
