"""Rows that are written before their batch's marker: ``direct=True`` of a sink.

    (shard, pa.RecordBatch) elements | WriteDirectly(graph, "orders", writer) -> committables

It saves storing the rows twice. In return, each run of a batch must make the same rows: see ``direct_marks.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import apache_beam as beam
import orjson
import pyarrow as pa

from beam_exactly_once.rows.digests import digest_of
from beam_exactly_once.sinks.contract import Part, part_of_shard
from beam_exactly_once.sinks.direct_marks import is_to_write_directly, mark_of
from beam_exactly_once.sinks.shard_writer import ShardWrite, ShardWriter
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import Gathered, StreamGraph, gathered_committable

_Sent = tuple[int, tuple[str, bytes]]
"""A shard, and either the JSON of the part that every shard gets once, or an Arrow stream of rows."""


class WriteDirectly(beam.PTransform):
    """Writes rows by shard, before the marker. Input: ``(shard, pa.RecordBatch)``. Output: what a commit gathers.

    Bounded a batch. Every shard is written and marked in every batch, also without rows. Parallelism: one worker a shard,
    which holds the shard's rows in memory.

    Args:
        graph: of the stream.
        sink: name of the sink.
        writer: of its shards.
    """

    def __init__(self, graph: StreamGraph, sink: str, writer: ShardWriter) -> None:
        super().__init__()
        self._graph = graph
        self._sink = sink
        self._writer = writer

    def expand(self, blocks: beam.PCollection[tuple[int, pa.RecordBatch]]) -> beam.PCollection[Gathered]:
        """Bring the rows of a shard together, and write them."""
        parts = self._graph.tasks | "Parts" >> beam.ParDo(_Parts(self._sink, self._writer.shards)).with_output_types(
            _Sent
        )
        sent = blocks | "Send" >> beam.ParDo(_Send()).with_output_types(_Sent)
        return (
            (parts, sent)
            | beam.Flatten()
            | "ByShard" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(_WriteShard(self._sink, self._writer)).with_output_types(Gathered)
        )


class _Parts(StatelessDoFn):
    """Tells every shard which batch it is to write."""

    def __init__(self, sink: str, shards: int) -> None:
        self._sink = sink
        self._shards = shards

    def process(self, task_json: str) -> Iterator[_Sent]:
        task = BatchTask.from_json(task_json)
        if task.plan is None:
            return
        for shard in range(self._shards):
            part = part_of_shard(task.stream_id, task.attempt, task.plan.digest, task.predecessor, self._sink, shard)
            yield shard, (orjson.dumps(part.to_json()).decode(), b"")


class _Send(StatelessDoFn):
    """Rows as bytes, for their shard's worker."""

    def process(self, block: tuple[int, pa.RecordBatch]) -> Iterator[_Sent]:
        shard, batch = block
        body = pa.BufferOutputStream()
        with pa.ipc.new_stream(body, batch.schema) as stream:
            stream.write_batch(batch)
        yield shard, ("", body.getvalue().to_pybytes())


class _WriteShard(StatelessDoFn):
    """Writes and marks one shard, unless an earlier run has."""

    def __init__(self, sink: str, writer: ShardWriter) -> None:
        self._sink = sink
        self._writer = writer

    def process(self, of_shard: tuple[int, Iterable[tuple[str, bytes]]]) -> Iterator[Gathered]:
        shard, sent = of_shard
        parts: list[Part] = []
        batches: list[pa.RecordBatch] = []
        for part_json, body in sent:
            if part_json:
                parts.append(Part.from_json(orjson.loads(part_json)))
            else:
                with pa.ipc.open_stream(body) as stream:
                    batches.extend(stream)
        (part,) = parts
        digest = cache(lambda: digest_of(batches))
        self._writer.write(
            ShardWrite(
                part.stream_id,
                shard,
                part.attempt.batch_id,
                lambda: mark_of(part, digest()),
                lambda found: is_to_write_directly(part, digest, found, self._writer.where),
                lambda: batches,
            )
        )
        rows, size_bytes = digest(), sum(batch.nbytes for batch in batches)
        committable = {"shard": shard, "rows": rows.rows, "size_bytes": size_bytes, "digest": rows.digest}
        yield gathered_committable(self._sink, committable)
