"""A sink with shards and receipts that writes to a ledger in this process: as much of a database as the contract needs."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.rows.shards import by_shard
from beam_exactly_once.sinks.contract import DriverSide, Part, Publisher, is_to_write
from beam_exactly_once.sinks.receipts import Receipt
from beam_exactly_once.sinks.staged_rows import StagedRows
from beam_exactly_once.transforms.stage_rows import StageRows
from beam_exactly_once.transforms.stream_graph import SinkSpec, sink_graph

Row = dict[str, Any]


class Ledger:
    """Rows and receipts, changed together under one lock. ``before_write`` runs within each transaction that writes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.receipts: dict[tuple[str, str, int], Receipt] = {}
        self.rows: dict[int, list[tuple[int, list[Row]]]] = defaultdict(list)
        """By shard: batch id and the rows written, in the order of writing."""
        self.prepared = 0
        """How often a driver prepared it."""
        self.before_write: Callable[[Part], None] = lambda part: None

    def all_rows(self) -> list[Row]:
        return [row for batches in self.rows.values() for _, rows in batches for row in rows]

    def ids(self) -> list[int]:
        return sorted(row["id"] for row in self.all_rows())


LEDGERS: dict[str, Ledger] = defaultdict(Ledger)


class WriteToLedger(beam.PTransform):  # type: ignore[misc]
    """Rows with an ``id`` to a ledger, sharded by its remainder; ``publisher`` may be a broken one."""

    def __init__(
        self,
        ledger: str,
        shards: int = 2,
        name: str | None = None,
        publisher: type[LedgerPublisher] | None = None,
    ) -> None:
        super().__init__()
        self._ledger, self._shards, self._name = ledger, shards, name
        self._publisher = publisher or LedgerPublisher

    def expand(self, rows: beam.PCollection[Row]) -> beam.pvalue.PDone:
        graph = sink_graph(rows, "WriteToLedger")
        name = graph.sink_name(self._name, "ledger")
        committables = rows | "Encode" >> beam.ParDo(_Encode(self._shards)) | "Stage" >> StageRows(graph, name)
        publisher = self._publisher(self._ledger, name, self._shards, StagedRows(name, graph.checkpoint))
        graph.sinks[name] = SinkSpec(
            name, {"kind": "ledger", "ledger": self._ledger}, publisher, committables, publisher
        )
        return beam.pvalue.PDone(rows.pipeline)


class _Encode(beam.DoFn):  # type: ignore[misc]
    def __init__(self, shards: int) -> None:
        self._shards = shards

    def process(self, row: Row) -> Iterator[tuple[int, pa.RecordBatch]]:
        yield from by_shard(pa.RecordBatch.from_pylist([row]), pa.array([row["id"] % self._shards]))


class LedgerPublisher(Publisher, DriverSide):
    def __init__(self, ledger: str, sink: str, shards: int, staged: StagedRows) -> None:
        self._ledger, self._sink, self.shards, self._staged = ledger, sink, shards, staged

    def publish(self, part: Part) -> None:
        ledger, key = LEDGERS[self._ledger], (part.stream_id, self._sink, part.shard)
        with ledger.lock:
            if not is_to_write(part, ledger.receipts.get(key), f"ledger {self._ledger}"):
                return
            rows = [row for batch in self._staged.read(part) for row in batch.to_pylist()]
            ledger.before_write(part)
            ledger.rows[part.shard].append((part.attempt.batch_id, rows))
            ledger.receipts[key] = part.receipt

    def prepare(self, stream_id: str) -> None:
        LEDGERS[self._ledger].prepared += 1

    def sweep(self, published_batch_id: int) -> None:
        self._staged.sweep(published_batch_id)
