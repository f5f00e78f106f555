"""Wires a sink whose shards keep receipts, in one of its two ways: staged or direct."""

from __future__ import annotations

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.sinks.contract import Publisher
from beam_exactly_once.sinks.sharded import DirectPublisher, ShardedSink, StagedPublisher
from beam_exactly_once.sinks.staged_rows import StagedRows
from beam_exactly_once.transforms.direct_rows import WriteDirectly
from beam_exactly_once.transforms.stage_rows import StageRows
from beam_exactly_once.transforms.stream_graph import SinkSpec, StreamGraph


def add_sharded_sink(
    graph: StreamGraph,
    sharded: ShardedSink,
    definition: Json,
    blocks: beam.PCollection[tuple[int, pa.RecordBatch]],
    *,
    direct: bool,
) -> None:
    """Wire a sink, and register it.

    Args:
        graph: of the stream.
        sharded: the sink.
        definition: see :class:`SinkSpec`. That of a direct sink pins its shards as well.
        blocks: rows under their shards; for a direct sink, each row under the same one in every attempt.
        direct: the way.
    """
    name = sharded.name
    if direct:
        definition = {**definition, "direct": True, "shards": sharded.shards}
        committables = blocks | "Direct" >> WriteDirectly(graph, sharded)
        publisher: Publisher = DirectPublisher(sharded)
    else:
        committables = blocks | "Stage" >> StageRows(graph, name)
        publisher = StagedPublisher(sharded, StagedRows(name, graph.checkpoint))
    graph.sinks[name] = SinkSpec(name, definition, publisher, committables, sharded.sink)
