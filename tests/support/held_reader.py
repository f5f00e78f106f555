"""Holds readers in the middle of their ranges until their runner has split them, and keeps what was split."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from apache_beam.runners.worker.sdk_worker import SdkWorker

from beam_exactly_once.transforms.reading.span_tracker import Span, SpanTracker

MAX_HOLD_S = 120.0


class Splits:
    """Splits that trackers of this process granted: pairs of primary and residual."""

    def __init__(self) -> None:
        self.granted: list[tuple[Span, Span]] = []
        self.wanted = 0
        self.reading = threading.Event()
        """Somebody is held."""
        self._ended: set[str] = set()
        self._changed = threading.Condition()

    def add(self, primary: Span, residual: Span) -> None:
        with self._changed:
            self.granted.append((primary, residual))
            self._changed.notify_all()

    def wait(self) -> None:
        """Until there are enough; for good when none come for a while, and whoever wanted them finds too few."""
        self.reading.set()
        with self._changed:
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: len(self.granted) >= self.wanted, MAX_HOLD_S):
                self.wanted = 0

    def end(self, bundle: str) -> None:
        """A worker is through with a bundle."""
        with self._changed:
            self._ended.add(bundle)
            self._changed.notify_all()

    def wait_held(self, bundle: str) -> None:
        """Until somebody is held, or the bundle is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.reading.is_set() or bundle in self._ended, MAX_HOLD_S)


_current = Splits()


def hold(element: Any) -> Any:
    """A slow step behind the reader."""
    _current.wait()
    return element


@contextmanager
def splits_wanted(wanted: int) -> Iterator[Splits]:
    """Let :func:`hold` hold until so many splits were granted inside the block.

    A runner that asks before anybody is held waits for its answer: a worker that still makes its DoFns answers
    "nothing", and then Prism never asks for that bundle again.
    """
    global _current
    _current = Splits()
    _current.wanted = wanted
    original, process, answer = SpanTracker.try_split, SdkWorker.process_bundle, SdkWorker.process_bundle_split

    def try_split(tracker: SpanTracker, fraction: float) -> tuple[Span, Span] | None:
        split = original(tracker, fraction)
        if split is not None and not split[0].is_empty and not split[1].is_empty:
            _current.add(*split)
        return split

    def answer_once_held(worker: SdkWorker, request: Any, instruction_id: str) -> Any:
        _current.wait_held(request.instruction_id)
        return answer(worker, request, instruction_id)

    def process_to_end(worker: SdkWorker, request: Any, instruction_id: str) -> Any:
        try:
            return process(worker, request, instruction_id)
        finally:
            _current.end(instruction_id)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SpanTracker, "try_split", try_split)
        patched.setattr(SdkWorker, "process_bundle", process_to_end)
        patched.setattr(SdkWorker, "process_bundle_split", answer_once_held)
        try:
            yield _current
        finally:
            _current = Splits()
