"""Rows that wait for their batch's commit, for sinks that cannot stage at their own place.

    (shard, pa.RecordBatch) elements | StageRows(graph, "orders") -> committables
    StagedRows("orders", checkpoint).read(part) -> the rows of a shard

They wait below ``staging/rows/<sink>/`` of the checkpoint location as Arrow streams, under names that no other execution
of a bundle uses. A sink reads them when it publishes, and sweeps them afterwards.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator

import apache_beam as beam
import orjson
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.checkpoint import Attempt, layout
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import CorruptObject, StagedOutputMissing
from beam_exactly_once.object_store import Taken
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.transforms.publishing import Part
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import Gathered, StreamGraph, gathered_committable

OBJECT_BYTES_MAX = 32 * 1024 * 1024
"""Rows of one shard that reach it, in memory, become an object; a worker holds at most :data:`WAITING_BYTES_MAX` of all."""
WAITING_BYTES_MAX = 2 * OBJECT_BYTES_MAX

_COMPRESSION = pa.ipc.IpcWriteOptions(compression="zstd")


class StagedRows:
    """The staged rows of one sink.

    Args:
        sink: name of the sink.
        checkpoint: the stream's checkpoint location.
    """

    def __init__(self, sink: str, checkpoint: StoreLocation) -> None:
        self._sink = sink
        self._checkpoint = checkpoint

    def stage(self, attempt: Attempt, token: str, number: int, shard: int, batches: list[pa.RecordBatch]) -> Json:
        """Write rows of one shard, all of one schema; returns their committable."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batches[0].schema, options=_COMPRESSION) as writer:
            for batch in batches:
                writer.write_batch(batch)
        body = sink.getvalue().to_pybytes()
        key = layout.rows_key(self._sink, attempt.batch_id, attempt.nonce, token, number)
        store = self._checkpoint.store
        if isinstance(store.put_if_absent(key, body), Taken):
            raise CorruptObject(f"{store.uri}/{key} exists with other rows, although its name is random. Start again.")
        return {
            "shard": shard,
            "key": key,
            "rows": sum(batch.num_rows for batch in batches),
            "size_bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        """The rows of a part; those of one bundle in their order, bundles in no order that means anything.

        Raises:
            StagedOutputMissing: an object is gone.
            CorruptObject: an object is not what the marker names.
        """
        store = self._checkpoint.store
        for committable in sorted(part.committables, key=lambda one: str(one["key"])):
            key = committable["key"]
            body = store.get(key)
            if body is None:
                raise StagedOutputMissing(
                    f"{store.uri}/{key}, {committable['rows']} rows of batch {part.attempt.batch_id} for sink {self._sink!r}, is "
                    "gone and not published. Restore it from a copy; nothing else holds these rows but Kafka."
                )
            if hashlib.sha256(body).hexdigest() != committable["sha256"]:
                raise CorruptObject(f"{store.uri}/{key} is not what the marker names. Restore it from a copy.")
            with pa.ipc.open_stream(body) as reader:
                yield from reader

    def sweep(self, published_batch_id: int) -> None:
        """Remove what was staged for batches up to ``published_batch_id``: all of them are published."""
        store = self._checkpoint.store
        old = []
        for entry in store.list(layout.rows_prefix(self._sink)):
            batch_id = layout.rows_batch_id(entry.key)
            if batch_id is not None and batch_id <= published_batch_id:
                old.append(entry.key)
        store.delete(old)


class StageRows(beam.PTransform):
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

    def __init__(self, attempt_json: str) -> None:
        self.attempt_json = attempt_json
        self.attempt = Attempt.from_json(orjson.loads(attempt_json))
        self.token = secrets.token_hex(8)
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

    def process(self, block: tuple[int, pa.RecordBatch], attempt_json: str) -> None:
        """Take the rows of one shard."""
        shard, batch = block
        if self._bundle is None:
            self._bundle = _Bundle(attempt_json)
        bundle = self._bundle
        if bundle.attempt_json != attempt_json:
            raise AssertionError(f"two attempts in one bundle: {bundle.attempt_json} and {attempt_json}")
        waiting = bundle.waiting.get(shard)
        if waiting and not _have_one_schema(waiting[0], batch):
            self._stage(bundle, shard)
        bundle.waiting.setdefault(shard, []).append(batch)
        bundle.waiting_bytes[shard] = bundle.waiting_bytes.get(shard, 0) + batch.nbytes
        if bundle.waiting_bytes[shard] >= OBJECT_BYTES_MAX:
            self._stage(bundle, shard)
        elif sum(bundle.waiting_bytes.values()) >= WAITING_BYTES_MAX:
            self._stage(bundle, max(bundle.waiting_bytes, key=lambda one: bundle.waiting_bytes[one]))

    def finish_bundle(self) -> list[WindowedValue]:
        """Stage the rest, and emit what was staged."""
        bundle, self._bundle = self._bundle, None
        if bundle is None:
            return []
        for shard in sorted(bundle.waiting):
            self._stage(bundle, shard)
        return [
            GlobalWindows.windowed_value(gathered_committable(self._sink, committable), MIN_TIMESTAMP)
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
