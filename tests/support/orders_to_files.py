"""A stream of numbers to files on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from beam_exactly_once import WriteToFiles
from support.stream_under_test import StreamUnderTest


class OrdersToFiles(StreamUnderTest):
    """Its checkpoint and its output are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder / "checkpoint"))
        self.folder = folder / "checkpoint"
        self.output = folder / "output"

    def run(self, *, sink: str | None = None, max_batch_offsets: int | None = None, **read: Any) -> None:
        write = WriteToFiles(str(self.output), format="json", name=sink)
        self.run_with(lambda records: records | write, as_arrow=True, max_batch_offsets=max_batch_offsets, **read)

    def written(self) -> list[int]:
        lines = [line for file in self.output.glob("*.json") for line in file.read_bytes().splitlines()]
        return sorted(int(orjson.loads(line)["value"]) for line in lines)
