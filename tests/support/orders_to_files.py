"""A stream of one topic in memory to files on disk, run again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from beam_exactly_once import BatchProgress, ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles
from beam_exactly_once.testing import MemoryKafka


class OrdersToFiles:
    """Orders, the checkpoint, and the files of one stream."""

    def __init__(self, folder: Path) -> None:
        self.cluster = MemoryKafka({"orders": 1})
        self.checkpoint = folder / "checkpoint"
        self.output = folder / "output"
        self.progress: list[BatchProgress] = []

    def produce(self, *values: int) -> None:
        self.cluster.append(Record("orders", 0, value=b"%d" % value) for value in values)

    def run(self, *, sink: str | None = None, topics: Any = ("orders",), **read: Any) -> None:
        with (
            self.cluster.serving(),
            ExactlyOnceStream(str(self.checkpoint), listeners=[self.progress.append]) as stream,
        ):
            _ = (
                stream
                | ReadFromKafka("memory:9092", topics, as_arrow=True, **read)
                | WriteToFiles(str(self.output), format="json", name=sink)
            )

    def written(self) -> list[int]:
        lines = [line for file in self.output.glob("*.json") for line in file.read_bytes().splitlines()]
        return sorted(int(orjson.loads(line)["value"]) for line in lines)
