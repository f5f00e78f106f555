"""One live line on the terminal: how the last batch went, and how far the stream lags."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TextIO, TypeGuard

from rich.console import Console
from rich.live import Live
from rich.text import Text

from beam_exactly_once.checkpoint.source_times import has_ended
from beam_exactly_once.clock import moment_text
from beam_exactly_once.pipelines.progress.listeners import BatchProgress


class LiveBar:
    """A :data:`~beam_exactly_once.ProgressListener` that redraws one line at each batch.

    What others print and log meanwhile appears above the line. It starts no thread. :meth:`close` gives the terminal back.

    Args:
        console: where to draw; None is standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._records = 0
        self._live = Live(
            Text("waiting for the first batch", style="dim"),
            console=console or Console(stderr=True),
            auto_refresh=False,
            # Standard output stays what it is when it goes to a file or another program.
            redirect_stdout=sys.stdout.isatty(),
        )
        plain = sys.stderr
        self._live.start(refresh=True)
        # The handlers of the log hold the terminal itself, and would write into the line.
        self._logging = [handler for handler in logging.getLogger().handlers if _writes_to(handler, plain)]
        self._log_to(sys.stderr)

    def __call__(self, progress: BatchProgress) -> None:
        """Redraw the line."""
        self._records += progress.records_read
        self._live.update(_line(progress, self._records), refresh=True)

    def close(self) -> None:
        """Leave the last line standing and give the terminal back. May be called again."""
        self._live.stop()
        self._log_to(sys.stderr)

    def _log_to(self, stream: TextIO) -> None:
        for handler in self._logging:
            handler.setStream(stream)


@contextlib.contextmanager
def live_bar(console: Console | None = None) -> Iterator[LiveBar]:
    """A :class:`LiveBar` that is closed at the end. Only for a terminal: a log file wants no redrawn lines."""
    bar = LiveBar(console)
    try:
        yield bar
    finally:
        bar.close()


def _writes_to(handler: logging.Handler, stream: TextIO) -> TypeGuard[logging.StreamHandler[TextIO]]:
    return isinstance(handler, logging.StreamHandler) and handler.stream is stream


def _line(progress: BatchProgress, records_so_far: int) -> Text:
    parts = [
        (f"batch {progress.batch_id}", "bold"),
        (f"{sum(progress.rows_written.values()):,} rows", "green"),
        (f"{progress.records_per_s:,.0f} records/s", "cyan"),
        (f"{records_so_far:,} records so far", ""),
        (f"lag {progress.lag_in_all:,}", "yellow"),
    ]
    if progress.outcome != "committed":
        parts.insert(1, (progress.outcome, "bold red"))
    if any(progress.records_rejected.values()):
        parts.append((f"{sum(progress.records_rejected.values()):,} rejected", "red"))
    if any(progress.rows_late.values()):
        parts.append((f"{sum(progress.rows_late.values()):,} late", "yellow"))
    watermarks_ms = [one.watermark_ms for one in progress.event_time.values()]
    reached_ms = [at_ms for at_ms in watermarks_ms if at_ms is not None]
    if reached_ms and len(reached_ms) == len(watermarks_ms):
        least_ms = min(reached_ms)
        parts.append(("time has ended" if has_ended(least_ms) else f"time {moment_text(least_ms)}", "cyan"))
    if any(progress.offsets_lost.values()):
        parts.append((f"LOST {sum(progress.offsets_lost.values()):,} offsets", "bold red"))
    phases = {
        "plan": progress.plan_s,
        "run": progress.run_s,
        "commit": progress.commit_s,
        "publish": progress.publish_s,
    }
    parts.append((" ".join(f"{phase} {taken_s:.2f} s" for phase, taken_s in phases.items()), "dim"))
    # Never wrapped: a terminal that is too narrow loses the end of the line, not its place.
    line = Text(no_wrap=True, overflow="ellipsis")
    for text, style in parts:
        line.append("  " if line else "").append(text, style=style)
    return line
