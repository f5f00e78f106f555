"""A stream of numbers to a Delta table, two records a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToDelta
from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.sinks.delta.table import TableVersion
from beam_exactly_once.testing import MemoryKafka
from support.ledger_sink import number_of

NUMBERS = pa.schema([("number", pa.int64())])


@dataclass
class DeltaStream:
    """``root`` holds the table and the checkpoint."""

    root: str
    storage_options: dict[str, str] | None = None
    """Of ``deltalake``, for reading."""
    cluster: MemoryKafka = field(default_factory=lambda: MemoryKafka({"orders": 1}))

    @property
    def output(self) -> str:
        return f"{self.root}/table"

    @property
    def location(self) -> str:
        return f"{self.root}/checkpoint"

    @property
    def table(self) -> DeltaTable:
        return DeltaTable(self.output, storage_options=self.storage_options)

    def produce(self, *numbers: int) -> None:
        self.cluster.append(Record("orders", value=b"%d" % number) for number in numbers)

    def run(self, rows: Any = None, location: str | None = None, **sink: Any) -> None:
        """Until nothing is left. ``rows`` makes a row of a number."""
        sink.setdefault("schema", NUMBERS)
        with self.cluster.serving(), ExactlyOnceStream(location or self.location) as stream:
            _ = self.numbers(stream) | "Rows" >> beam.Map(rows or row_of) | WriteToDelta(self.output, **sink)

    @staticmethod
    def numbers(stream: ExactlyOnceStream) -> Any:
        read = stream | ReadFromKafka("memory:9092", ["orders"], max_batch_offsets=2)
        return read | "Numbers" >> beam.Map(number_of)

    def rows(self) -> list[dict[str, Any]]:
        return sorted(self.table.to_pyarrow_table().to_pylist(), key=lambda row: row["number"])

    def read_numbers(self) -> list[int]:
        return [row["number"] for row in self.rows()]

    def checkpoint(self) -> Checkpoint:
        opened = Checkpoint.open_existing(open_object_store(self.location))
        assert opened is not None
        return opened

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


class Killed(RuntimeError):
    """The process ended here, as far as the stream is concerned."""


def kill(*_: object) -> None:
    raise Killed("killed here")


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
