"""A stream of numbers by key, through an operator with state, to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson

from beam_exactly_once import UpdateStateByKey, WriteToFiles
from support.stream_under_test import StreamUnderTest, number_of


def counted(values: list[int], state: int | None) -> int:
    return (state or 0) + len(values)


COUNTS = "Count" >> UpdateStateByKey(counted)


class KeyedStream(StreamUnderTest):
    """Numbers by their remainder by ten, through an operator, to files: one line a key that a batch has changed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder / "checkpoint"))
        self.output = folder / "output"

    def run(self, operator: Any = COUNTS, **read: Any) -> None:
        write = WriteToFiles(str(self.output), format="json")
        self.run_with(
            lambda records: records | beam.Map(keyed) | operator | "Row" >> beam.MapTuple(row_of) | write, **read
        )

    def written(self) -> list[tuple[Any, Any]]:
        """All lines, in the order of batches."""
        files = sorted(self.output.glob("*.json"))
        rows = [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]
        return [(row["key"], row["value"]) for row in rows]

    def newest(self) -> dict[Any, Any]:
        """The last line of each key."""
        return dict(self.written())


def keyed(record: Any) -> tuple[int, int]:
    number = number_of(record)
    return number % 10, number


def row_of(key: Any, value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}
