"""Rows that wait for their batch's commit, for sinks that cannot stage at their own place.

(shard, pa.RecordBatch) elements | StageRows(graph, "orders") -> committables
"""

from __future__ import annotations

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.randomness import new_token
from beam_exactly_once.sinks.staged_rows import StagedRows
from beam_exactly_once.transforms.named import Composite
from beam_exactly_once.transforms.reports import Committable, Gathered, gathered
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import StreamGraph, refuse_two_attempts

MAX_OBJECT_BYTES = 32 * 1024 * 1024
"""Rows of one shard that reach it, in memory, become an object; a worker holds at most :data:`MAX_WAITING_BYTES` of all."""
MAX_WAITING_BYTES = 2 * MAX_OBJECT_BYTES


class StageRows(Composite):
    """Stages rows by shard. Input: ``(shard, pa.RecordBatch)``. Output: what a commit gathers.

    Bounded a batch. Every bundle writes objects of its own. Parallelism: that of the input.

    Args:
        graph: of the stream.
        sink: name of the sink.
    """

    def __init__(self, graph: StreamGraph, sink: str) -> None:
        super().__init__()
        self._graph = graph
        self._sink = sink

    def expand(self, blocks: beam.PCollection[tuple[int, pa.RecordBatch]]) -> beam.PCollection[Gathered]:
        """One step, with the attempt as its side input."""
        stage = _StageBlocks(self._sink, StagedRows(self._sink, self._graph.checkpoint))
        attempts = beam.pvalue.AsSingleton(self._graph.attempts)
        return blocks | "Write" >> beam.ParDo(stage, attempts).with_output_types(Gathered)


class _Bundle:
    """What one execution of one bundle has staged, and what still waits."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.token = new_token()
        self.committables: list[Json] = []
        self.waiting: dict[int, list[pa.RecordBatch]] = {}
        self.waiting_bytes: dict[int, int] = {}


class _StageBlocks(StatelessDoFn):
    """Holds blocks by shard until there are enough for an object; emits one committable an object."""

    def __init__(self, sink: str, rows: StagedRows) -> None:
        self._sink = sink
        self._rows = rows
        self._bundle: _Bundle | None = None

    def start_bundle(self) -> None:
        """Forget what a failed bundle left; its objects stay for the sweep."""
        self._bundle = None

    def process(self, block: tuple[int, pa.RecordBatch], attempt: Attempt) -> None:
        """Take the rows of one shard."""
        shard, batch = block
        if self._bundle is None:
            self._bundle = _Bundle(attempt)
        bundle = self._bundle
        refuse_two_attempts(bundle.attempt, attempt)
        waiting = bundle.waiting.get(shard)
        if waiting and not _have_one_schema(waiting[0], batch):
            self._stage(bundle, shard)
        bundle.waiting.setdefault(shard, []).append(batch)
        bundle.waiting_bytes[shard] = bundle.waiting_bytes.get(shard, 0) + batch.nbytes
        if bundle.waiting_bytes[shard] >= MAX_OBJECT_BYTES:
            self._stage(bundle, shard)
        elif sum(bundle.waiting_bytes.values()) >= MAX_WAITING_BYTES:
            self._stage(bundle, max(bundle.waiting_bytes, key=lambda one: bundle.waiting_bytes[one]))

    def finish_bundle(self) -> list[WindowedValue]:
        """Stage the rest, and emit what was staged."""
        bundle, self._bundle = self._bundle, None
        if bundle is None:
            return []
        for shard in sorted(bundle.waiting):
            self._stage(bundle, shard)
        return [
            GlobalWindows.windowed_value(gathered(Committable(self._sink, committable)), MIN_TIMESTAMP)
            for committable in bundle.committables
        ]

    def _stage(self, bundle: _Bundle, shard: int) -> None:
        batches = bundle.waiting.pop(shard)
        del bundle.waiting_bytes[shard]
        number = len(bundle.committables)
        bundle.committables.append(self._rows.stage(bundle.attempt, bundle.token, number, shard, batches))


def _have_one_schema(batch: pa.RecordBatch, other: pa.RecordBatch) -> bool:
    """What the fields' metadata say counts, what the producer noted of a batch does not."""
    return bool(batch.schema.remove_metadata().equals(other.schema.remove_metadata(), check_metadata=True))
