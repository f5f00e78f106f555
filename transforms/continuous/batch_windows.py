"""The window of a batch, in a pipeline that runs all of them: what a step groups is what one attempt has."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.coders import Coder
from apache_beam.coders.coders import IntervalWindowCoder
from apache_beam.internal import pickler
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.transforms.core import DoFnInfo, PickledDoFnInfo, Windowing
from apache_beam.transforms.window import FixedWindows, IntervalWindow, NonMergingWindowFn, WindowFn
from apache_beam.utils.timestamp import Duration, Timestamp

from beam_exactly_once.errors import UnsupportedPipeline, leaving_step

FIRST_SECOND = 1 << 37
"""Where the first window of a job begins, in the year 6325: no time that a step gives an element is taken for that of a batch.
Whole seconds, since Flink keeps no part of one; and before the year 10000, where timestamps of messages between programs end."""

_SECONDS_OF_BATCH = 32


def batch_time(number: int) -> Timestamp:
    """When batch ``number`` of a job, counted from 0, has its elements: in the second that begins here.

    There are more seconds before the next batch: by them a watermark can be said anew while a batch is on its way.
    """
    return Timestamp(FIRST_SECOND + _SECONDS_OF_BATCH * number)


class BatchWindows(NonMergingWindowFn):
    """Puts each batch of a job into a window of its own, by the times that the planning step gives.

    A runner, which may not be written in Python, is told of windows of a second, which are the same ones.
    """

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

    def to_runner_api_parameter(self, context: Any) -> tuple[str, Any]:
        """Windows that every runner knows."""
        return FixedWindows(1).to_runner_api_parameter(context)  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


def keep_to_windows(pipeline: beam.Pipeline) -> None:
    """Have every step in a batch ask :class:`BatchWindows` itself where it gives an element a time.

    Else a worker would ask the windows that the runner is told of, and they refuse no time.
    """
    pipeline.visit(_Keeping())


class _Keeping(PipelineVisitor):
    def visit_transform(self, node: AppliedPTransform) -> None:
        step = node.transform
        inputs = [one for one in node.inputs if isinstance(one, beam.PCollection)]
        if isinstance(step, beam.ParDo) and any(isinstance(one.windowing.windowfn, BatchWindows) for one in inputs):
            step._do_fn_info = partial(_with_windows, step, inputs[0].windowing)


def _with_windows(step: beam.ParDo, windowing: Windowing) -> DoFnInfo:
    """What Beam makes of a step, and the windows that Beam's worker would else take from what the runner was told."""
    return PickledDoFnInfo(pickler.dumps((step.fn, step.args, step.kwargs, None, windowing)))
