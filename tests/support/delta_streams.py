"""A stream of numbers to a Delta table, two records a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from beam_exactly_once import WriteToDelta
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.sinks.delta.table import TableVersion
from support.stream_under_test import StreamUnderTest, number_of

NUMBERS = pa.schema([("number", pa.int64())])


class DeltaStream(StreamUnderTest):
    """``root`` holds the table and the checkpoint; ``storage_options`` of ``deltalake`` are for reading."""

    def __init__(self, root: str, storage_options: dict[str, str] | None = None) -> None:
        super().__init__(f"{root}/checkpoint")
        self.output = f"{root}/table"
        self.storage_options = storage_options

    @property
    def table(self) -> DeltaTable:
        return DeltaTable(self.output, storage_options=self.storage_options)

    def run(self, rows: Any = None, location: str | None = None, **sink: Any) -> None:
        """Until nothing is left. ``rows`` makes a row of a number."""
        write = WriteToDelta(self.output, **{"schema": NUMBERS, **sink})
        to_row = rows or row_of
        self.run_with(lambda records: records | beam.Map(lambda one: to_row(number_of(one))) | write, location=location)

    def rows(self) -> list[dict[str, Any]]:
        return sorted(self.table.to_pyarrow_table().to_pylist(), key=lambda row: row["number"])

    def read_numbers(self) -> list[int]:
        return [row["number"] for row in self.rows()]

    def roll_back_checkpoint(self, batches: int) -> int:
        """As if restored from a copy that was made ``batches`` batches ago; returns the newest batch id that it had."""
        checkpoint = self.checkpoint()
        last = max(checkpoint.marker_ids())
        gone = range(last - batches + 1, last + 1)
        checkpoint.store.delete([f"{kind}/{number:020d}.json" for kind in ("offsets", "commits") for number in gone])
        return last

    def staged(self) -> list[str]:
        return [staged.final_key for staged in open_object_store(self.output).list_staged()]

    def data_files(self) -> set[str]:
        """Below the table, named by its log or not."""
        return {path.name for path in Path(self.output).rglob("*.parquet") if "_delta_log" not in path.parts}


def row_of(number: int) -> dict[str, Any]:
    return {"number": number}


def around_commit(
    monkeypatch: pytest.MonkeyPatch,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    commit: int = 1,
) -> None:
    """Run something around the ``commit``-th commit of a batch to a table, counted from 1."""
    append = TableVersion.append
    seen = []

    def watched(self: TableVersion, *arguments: Any) -> None:
        seen.append(1)
        is_this = len(seen) == commit
        if is_this:
            before()
        append(self, *arguments)
        if is_this:
            after()

    monkeypatch.setattr(TableVersion, "append", watched)


def files_in_log(stream: DeltaStream) -> set[str]:
    return {Path(uri).name for uri in stream.table.file_uris()}
