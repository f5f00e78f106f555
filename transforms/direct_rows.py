"""Rows that are written before their batch's marker: ``direct=True`` of a sink.

    (shard, pa.RecordBatch) elements | WriteDirectly(graph, sharded) -> committables

It saves storing the rows twice. In return, each run of a batch must make the same rows: see ``direct_receipts.py``.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.sinks.contract import Part, part_of_shard
from beam_exactly_once.sinks.sharded import ShardedSink
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.coders import JsonCoder, OneOfCoder, RecordBatchCoder
from beam_exactly_once.transforms.named import Composite
from beam_exactly_once.transforms.reports import Committable, Gathered, gathered
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import StreamGraph


class _Sent(abc.ABC):  # noqa: B024 (a union with a name that Beam can have a coder for)
    """What a shard's worker is sent: a :class:`Part` once, and ``pa.RecordBatch`` of rows."""


class _PartCoder(JsonCoder):
    value_type = Part


class _SentCoder(OneOfCoder):
    value_type = _Sent
    members = ((Part, _PartCoder()), (pa.RecordBatch, RecordBatchCoder()))


_Sent.register(Part)
_Sent.register(pa.RecordBatch)
beam.coders.registry.register_coder(_Sent, _SentCoder)


class WriteDirectly(Composite):
    """Writes rows by shard, before the marker. Input: ``(shard, pa.RecordBatch)``. Output: what a commit gathers.

    Bounded a batch. Every shard gets its rows and a receipt in every batch, also without rows. Parallelism: one worker a shard,
    which holds the shard's rows in memory.

    Args:
        graph: of the stream.
        sharded: the sink.
    """

    def __init__(self, graph: StreamGraph, sharded: ShardedSink) -> None:
        super().__init__()
        self._graph = graph
        self._sharded = sharded

    def expand(self, blocks: beam.PCollection[tuple[int, pa.RecordBatch]]) -> beam.PCollection[Gathered]:
        """Bring the rows of a shard together, and write them."""
        parts = beam.ParDo(_Parts(self._sharded.name, self._sharded.shards)).with_output_types(tuple[int, _Sent])
        rows = blocks | "Send" >> beam.Map(lambda block: block).with_output_types(tuple[int, _Sent])
        return (
            (self._graph.tasks | "Parts" >> parts, rows)
            | beam.Flatten()
            | "ByShard" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(_WriteShard(self._sharded)).with_output_types(Gathered)
        )


class _Parts(StatelessDoFn):
    """Tells every shard which batch it is to write."""

    def __init__(self, sink: str, shards: int) -> None:
        self._sink = sink
        self._shards = shards

    def process(self, task: BatchTask) -> Iterator[tuple[int, Part]]:
        assert task.plan is not None  # a task without one runs another graph
        for shard in range(self._shards):
            yield (
                shard,
                part_of_shard(task.stream_id, task.attempt, task.plan.digest, task.predecessor, self._sink, shard),
            )


class _WriteShard(StatelessDoFn):
    """Writes the rows of one shard and its receipt, unless an earlier run has."""

    def __init__(self, sharded: ShardedSink) -> None:
        self._sharded = sharded

    def process(self, of_shard: tuple[int, Iterable[Any]]) -> Iterator[Gathered]:
        shard, sent = of_shard
        parts: list[Part] = []
        batches: list[pa.RecordBatch] = []
        for one in sent:
            (parts if isinstance(one, Part) else batches).append(one)
        (part,) = parts
        rows = self._sharded.deliver_directly(part, batches)
        size_bytes = sum(batch.nbytes for batch in batches)
        committable = {"shard": shard, "rows": rows.rows, "size_bytes": size_bytes, "digest": rows.digest}
        yield gathered(Committable(self._sharded.name, committable))
