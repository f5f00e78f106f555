"""A sink with shards and marks that writes to a ledger in this process: as much of a database as the contract needs."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.transforms.publishing import Part, Publisher, is_to_write
from beam_exactly_once.transforms.staged_rows import StagedRows, StageRows, by_shard
from beam_exactly_once.transforms.stream_graph import SinkSpec, sink_graph


class Ledger:
    """Rows and marks, changed together under one lock. ``before_write`` runs within each transaction that writes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.marks: dict[tuple[str, str, int], Attempt] = {}
        self.rows: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        """By shard: batch id and the numbers written, in the order of writing."""
        self.before_write: Callable[[Part], None] = lambda part: None

    def numbers(self) -> list[int]:
        return sorted(number for batches in self.rows.values() for _, numbers in batches for number in numbers)


LEDGERS: dict[str, Ledger] = defaultdict(Ledger)


class WriteToLedger(beam.PTransform):  # type: ignore[misc]
    """Numbers to a ledger, by their remainder."""

    def __init__(self, ledger: str, shards: int = 2, name: str | None = None) -> None:
        super().__init__()
        self._ledger, self._shards, self._name = ledger, shards, name

    def expand(self, numbers: beam.PCollection[int]) -> beam.pvalue.PDone:
        graph = sink_graph(numbers, "WriteToLedger")
        name = graph.sink_name(self._name, "ledger")
        committables = numbers | "Encode" >> beam.ParDo(_Encode(self._shards)) | "Stage" >> StageRows(graph, name)
        publisher = LedgerPublisher(self._ledger, name, self._shards, StagedRows(name, graph.checkpoint))
        graph.sinks[name] = SinkSpec(name, {"kind": "ledger", "ledger": self._ledger}, publisher, committables)
        return beam.pvalue.PDone(numbers.pipeline)


class _Encode(beam.DoFn):  # type: ignore[misc]
    def __init__(self, shards: int) -> None:
        self._shards = shards

    def process(self, number: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        batch = pa.record_batch({"number": [number]})
        yield from by_shard(batch, pa.array([number % self._shards]))


class LedgerPublisher(Publisher):
    def __init__(self, ledger: str, sink: str, shards: int, staged: StagedRows) -> None:
        self._ledger, self._sink, self.shards, self._staged = ledger, sink, shards, staged

    def publish(self, part: Part) -> None:
        ledger, key = LEDGERS[self._ledger], (part.stream_id, self._sink, part.shard)
        with ledger.lock:
            if not is_to_write(part, ledger.marks.get(key), f"ledger {self._ledger}"):
                return
            numbers = [number for batch in self._staged.read(part) for number in batch.column(0).to_pylist()]
            ledger.before_write(part)
            ledger.rows[part.shard].append((part.attempt.batch_id, numbers))
            ledger.marks[key] = part.attempt

    def finish(self, stream_id: str, attempt: Attempt, committables: tuple[Json, ...]) -> None:
        pass

    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        pass

    def sweep(self, published_batch_id: int) -> None:
        self._staged.sweep(published_batch_id)


def number_of(record: Any) -> int:
    return int(record.value)
