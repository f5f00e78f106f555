"""Bundles that are of one batch: for steps that say at the end of a bundle what they have.

Such a step speaks of its bundle as a whole, and puts what it says into the global window. In a pipeline that runs all batches
a bundle may have elements of several, and nothing is in the global window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.transforms.window import GlobalWindow, IntervalWindow
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.transforms.stateless import StatelessDoFn


def cut_bundles(pipeline: beam.Pipeline) -> None:
    """Make every step of ``pipeline`` that has a ``finish_bundle`` see a bundle for each batch."""
    pipeline.visit(_Cutting())


class _Cutting(PipelineVisitor):
    def visit_transform(self, node: AppliedPTransform) -> None:
        transform = node.transform
        if isinstance(transform, beam.ParDo) and _finishes_bundles(transform.fn):
            transform.fn = OneBatchBundles(transform.fn)


def _finishes_bundles(fn: beam.DoFn) -> bool:
    return type(fn).finish_bundle is not beam.DoFn.finish_bundle and not isinstance(fn, OneBatchBundles)


class OneBatchBundles(StatelessDoFn):
    """Runs a DoFn as if a bundle ended where the next batch begins, and puts what ends a bundle into the batch's window."""

    def __init__(self, inner: beam.DoFn) -> None:
        self._inner = inner
        self._window: IntervalWindow | None = None

    def _inspect_process(self) -> tuple[list[str], list[Any]]:
        """Beam's way to be told of the arguments of ``process``: those of the inner one, and the window as the last."""
        names, defaults = beam.transforms.core.get_function_arguments(self._inner, "process")
        return [*names, "batch_window"], [*defaults, beam.DoFn.WindowParam]

    def setup(self) -> None:
        """As the inner one."""
        self._inner.setup()

    def teardown(self) -> None:
        """As the inner one."""
        self._inner.teardown()

    def start_bundle(self) -> None:
        """Begin the first batch of the bundle."""
        self._window = None
        self._inner.start_bundle()

    def process(self, *arguments: Any, **named: Any) -> Iterable[Any]:
        """Give the element to the inner one."""
        *arguments, window = arguments  # type: ignore[assignment]
        if self._window is None or window == self._window:
            self._window = window
            return self._inner.process(*arguments, **named) or ()
        return self._next_batch(window, arguments, named)

    def _next_batch(self, window: IntervalWindow, arguments: Iterable[Any], named: dict[str, Any]) -> Iterator[Any]:
        yield from self.finish_bundle()
        self._inner.start_bundle()
        self._window = window
        yield from self._inner.process(*arguments, **named) or ()

    def finish_bundle(self) -> list[Any]:
        """What the inner one has to say of a batch."""
        said = self._inner.finish_bundle() or ()
        return [] if self._window is None else [_in_window(one, self._window) for one in said]


def _in_window(output: Any, window: IntervalWindow) -> Any:
    if isinstance(output, beam.pvalue.TaggedOutput):
        return beam.pvalue.TaggedOutput(output.tag, _in_window(output.value, window))
    if isinstance(output, WindowedValue) and all(isinstance(one, GlobalWindow) for one in output.windows):
        return WindowedValue(output.value, window.start, (window,))
    return output
