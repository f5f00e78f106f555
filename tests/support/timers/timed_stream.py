"""A stream of numbers by key whose clock is moved by hand, through an operator, to files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from beam_exactly_once import ExactlyOnceStream
from support.hand_made_stream import NEW_YEAR, HandClock
from support.keyed_stream import KeyedStream

NEW_YEAR_MS = int(NEW_YEAR.timestamp() * 1000)


class RunningClock(HandClock):
    """Moves while somebody waits, and asks the stream to stop at its end."""

    stops_at_s = 1e9

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        super().wait(event, timeout_s)
        if self.seconds >= self.stops_at_s:
            event.set()
        return event.is_set()


class TimedStream(KeyedStream):
    """Times are seconds since :data:`NEW_YEAR`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clock = RunningClock()
        self.arguments: dict[str, Any] = {}
        """Of the stream."""

    def run_at(self, at_s: float, operator: Any, **read: Any) -> None:
        """One life that starts then."""
        self.clock.seconds = at_s
        self.run(operator, **read)

    def new_stream(self, location: str) -> ExactlyOnceStream:
        stream = ExactlyOnceStream(location, listeners=[self.progress.append], **self.arguments)
        stream._clock = self.clock
        return stream

    def planned_s(self) -> list[float]:
        """When each batch was planned."""
        checkpoint = self.checkpoint()
        plans = map(checkpoint.read_plan, checkpoint.plan_ids(above=-1))
        return [(plan.planned_at_ms - NEW_YEAR_MS) / 1000 for plan in plans if plan is not None]
