"""A stream that counts by windows of event time, through many lives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.transforms.combiners import CountCombineFn
from apache_beam.transforms.window import FixedWindows

from beam_exactly_once import AggregateByWindow, WriteToFiles
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.ending import ends_with, kill
from support.timers.event_stream import EventStream, seconds_of


class WindowedStream(EventStream):
    """Records of each minute counted, to files; late ones beside."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, at_s: float, size_s: float = 60, **how: Any) -> None:
        def build(records: Any) -> None:
            windows = AggregateByWindow(
                CountCombineFn(), FixedWindows(size_s), event_time_by=lambda at_ms: at_ms, name="minutes", **how
            )
            counts, late = records | beam.Map(lambda record: ("all", record.timestamp_ms)) | windows
            counts | WriteToFiles(str(self.folder / "counts"), format="json", name="counts")
            (
                late
                | beam.MapTuple(lambda key, at_ms: {"at_ms": at_ms})
                | WriteToFiles(str(self.folder / "late"), format="json", name="late")
            )

        self.run_at(at_s, build)

    def killed(self, at_s: float, prefix: str, occurrence: int, **how: Any) -> None:
        """A life that ends behind a write, if it comes so far."""
        with watching(StoreCalls(KillPoint("put_if_absent", prefix, occurrence), kill)), ends_with("killed here"):
            self.run(at_s, **how)

    def counts(self) -> list[tuple[float | None, int]]:
        """Start and count of each window that was given."""
        return [(seconds_of(row["window_start_ms"]), row["value"]) for row in self._rows("counts")]

    def late(self) -> list[float | None]:
        return [seconds_of(row["at_ms"]) for row in self._rows("late")]

    def _rows(self, name: str) -> list[dict[str, Any]]:
        files = sorted((self.folder / name).glob("*.json"))
        return [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]

    def both(self, *times_s: float) -> None:
        """Records of both partitions that happened then."""
        self.happen(0, *times_s)
        self.happen(1, *times_s)
