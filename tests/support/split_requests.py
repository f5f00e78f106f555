"""A step with state that is slow until its runner has asked for a part of its bundle, and what became of the request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.worker.bundle_processor import BundleProcessor
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow

from beam_exactly_once.pipelines.runners import loopback_workers

MAX_WAIT_S = 2.0
"""For each element."""
_asked = threading.Event()


class SlowAndStateful(beam.DoFn):
    """Gives the numbers of a key at the end, as GroupIntoBatches does."""

    HELD = BagStateSpec("held", beam.coders.VarIntCoder())
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def process(
        self,
        one: tuple[int, int],
        held: Any = beam.DoFn.StateParam(HELD),  # noqa: B008
        end: Any = beam.DoFn.TimerParam(END),  # noqa: B008
    ) -> None:
        _asked.wait(MAX_WAIT_S)
        held.add(one[1])
        end.set(GlobalWindow().max_timestamp())

    @on_timer(END)
    def on_end(self, held: Any = beam.DoFn.StateParam(HELD)) -> Iterator[int]:  # noqa: B008
        yield from held.read()


@contextmanager
def split_requests() -> Iterator[tuple[threading.Event, list[Any]]]:
    """Whether a bundle with state was asked for a part, and the bundles with state that were split."""
    _asked.clear()
    split: list[Any] = []
    has_state, try_split = loopback_workers._has_state, BundleProcessor.try_split

    def watched(bundle: Any) -> bool:
        found = has_state(bundle)
        if found:
            _asked.set()
        return found

    def noted(processor: Any, request: Any) -> Any:
        if has_state(processor.process_bundle_descriptor):
            split.append(request)
        return try_split(processor, request)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loopback_workers, "_has_state", watched)
        patched.setattr(BundleProcessor, "try_split", noted)
        yield _asked, split
