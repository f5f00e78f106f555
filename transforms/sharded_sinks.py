"""Wires a sink whose shards keep receipts, in one of its two ways: staged or direct."""

from __future__ import annotations

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.sinks.contract import Publisher
from beam_exactly_once.sinks.shard_writer import ShardWriter
from beam_exactly_once.sinks.sharded import DirectPublisher, StagedPublisher
from beam_exactly_once.sinks.staged_rows import StagedRows
from beam_exactly_once.transforms.direct_rows import WriteDirectly
from beam_exactly_once.transforms.stage_rows import StageRows
from beam_exactly_once.transforms.stream_graph import SinkSpec, StreamGraph


def add_sharded_sink(
    graph: StreamGraph,
    name: str,
    definition: Json,
    writer: ShardWriter,
    blocks: beam.PCollection[tuple[int, pa.RecordBatch]],
    *,
    direct: bool,
) -> None:
    """Wire a sink, and register it.

    Args:
        graph: of the stream.
        name: of the sink.
        definition: see :class:`SinkSpec`. That of a direct sink pins its shards as well.
        writer: of its shards.
        blocks: rows under their shards; for a direct sink, each row under the same one in every attempt.
        direct: the way.
    """
    if direct:
        definition = {**definition, "direct": True, "shards": writer.shards}
        committables = blocks | "Direct" >> WriteDirectly(graph, name, writer)
        publisher: Publisher = DirectPublisher(writer)
    else:
        committables = blocks | "Stage" >> StageRows(graph, name)
        publisher = StagedPublisher(writer, StagedRows(name, graph.checkpoint))
    graph.sinks[name] = SinkSpec(name, definition, publisher, committables)
