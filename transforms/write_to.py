"""``WriteTo``: rows to a sink of one's own, each row exactly once.

    stream | ReadFromKafka(…) | beam.Map(…) | WriteTo(CrmSink(), schema=ORDERS)

Stages: *blocks* (rows to Arrow columns) / *stage* (in the checkpoint location) / *publish* (after the commit marker: the sink
writes the rows of a shard and its receipt, in one transaction).
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.arguments import true_or_false, whole_number
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.rows.column_encoding import ColumnEncoding
from beam_exactly_once.rows.columns import check_schema
from beam_exactly_once.rows.encoding import RowEncoding
from beam_exactly_once.rows.rejected import OnError, Rejected, checked_on_error
from beam_exactly_once.sinks.contract import Publisher
from beam_exactly_once.sinks.sharded import DirectPublisher, ShardedSink, StagedPublisher
from beam_exactly_once.sinks.staged_rows import StagedRows
from beam_exactly_once.sinks.transactional import TransactionalSink
from beam_exactly_once.transforms.direct_rows import WriteDirectly
from beam_exactly_once.transforms.encode_rows import encoded
from beam_exactly_once.transforms.named import NamedTransform
from beam_exactly_once.transforms.stage_rows import StageRows
from beam_exactly_once.transforms.stream_graph import SinkSpec, StreamGraph, sink_graph

KINDS = ("delta", "files", "for_each_batch", "kafka", "sql")
"""Kinds of the library's own sinks: ``verify`` looks into these."""


class WriteTo(NamedTransform):
    """Writes rows to ``sink``: every row of a committed batch once, whatever crashes.

    Bounded a batch; works only in an ``ExactlyOnceStream``. Guarantee: rows wait in the checkpoint location until the batch's
    commit marker names them. Then ``sink.write(delivery)`` is called for every shard, also for one without rows, until it
    returned once. What that promises, and what the sink must do for it, says :class:`~beam_exactly_once.sinks.TransactionalSink`.
    Parallelism: staging, that of the input; writing, one worker a shard.

    Input: dicts, NamedTuples (:class:`~beam_exactly_once.Record` is one), dataclasses, ``beam.Row``, or ``pa.RecordBatch``.
    Fields that ``schema`` does not name are left out, a missing one is null. A column that none of
    the rows of a bundle has, while they have fields that ``schema`` does not name, is taken for misspelt and refused, unless its
    field has the metadata ``may_be_absent``. A row that does not fit fails the batch, or is
    rejected with ``on_error="reject"``, as by ``WriteToFiles``.

    Order: batches of a shard are in order. Within a batch, rows have no order that means anything, and go to any shard.

    Args:
        sink: pickled into the graph, and run on workers.
        schema: columns and types of the rows. Kafka records and Arrow batches of one schema need none.
        shards: transactions a batch, which run side by side. May change at any start, but not with ``direct``.
        direct: write before the marker instead of storing the rows first: faster, for a stream whose only sink this is and whose
            every run makes the same rows of the same records. A replay that differs ends with ``ReplayDiffers``. The rows of a
            shard are in memory while they are written.
        on_error: ``"fail"`` or ``"reject"``.
        name: identifies the sink in the checkpoint, and is its label; None: the sink's ``kind``.

    Raises:
        ConfigurationError: an argument is not possible.
        UnsupportedPipeline: applied outside of a stream, or to windowed rows.

    Raises (while running):
        UnfitRow: a row does not fit ``schema``, and ``on_error`` is ``"fail"``; nothing of its batch is committed.
        SinkAhead, SinkBehind: the receipt is not of this checkpoint.
        ReplayDiffers: with ``direct=True``, a run of a batch makes other rows than an earlier one wrote.
        Anything that ``sink`` raises.
    """

    def __init__(
        self,
        sink: TransactionalSink,
        *,
        schema: pa.Schema | None = None,
        shards: int = 1,
        direct: bool = False,
        on_error: OnError = "fail",
        name: str | None = None,
    ) -> None:
        if not isinstance(sink, TransactionalSink):
            raise ConfigurationError(
                f"sink={sink!r} of WriteTo must be a TransactionalSink of beam_exactly_once.sinks."
            )
        kind, location = (getattr(sink, attribute, None) for attribute in ("kind", "location"))
        if not isinstance(kind, str) or kind in KINDS:
            raise ConfigurationError(
                f"kind={kind!r} of {type(sink).__name__} must be a word for its system, and not one of {', '.join(KINDS)}."
            )
        if not isinstance(location, str) or not location:
            raise ConfigurationError(
                f"location={location!r} of {type(sink).__name__} must say where it writes, such as 'crm://orders'."
            )
        super().__init__(kind if name is None else name)
        if schema is not None:
            check_schema(schema)
        whole_number("shards", shards)
        true_or_false("direct", direct)
        self._sink = sink
        self._definition = {"kind": kind, "location": location}
        self._schema = schema
        self._shards = shards
        self._direct = direct
        self._rejects = checked_on_error(on_error, direct=direct)

    def expand(self, rows: beam.PCollection[Any]) -> beam.pvalue.PDone | beam.PCollection[Rejected]:
        """Wire *blocks* and *stage*, and register what publishes them."""
        graph = sink_graph(rows, "WriteTo")
        name = graph.sink_name(self._name, self._sink.kind)
        encoding = ColumnEncoding(self._schema, self._shards, by_content=self._direct)
        sharded = ShardedSink(name, self._sink, self._shards)
        return written(rows, encoding, sharded, graph, self._definition, direct=self._direct, rejects=self._rejects)


def written(
    rows: beam.PCollection[Any],
    encoding: RowEncoding,
    sharded: ShardedSink,
    graph: StreamGraph,
    definition: Json,
    *,
    direct: bool,
    rejects: bool,
) -> beam.pvalue.PDone | beam.PCollection[Rejected]:
    """Wire a sink whose shards keep receipts, and register it; returns what the sink returns.

    Args:
        rows: input of the sink.
        encoding: rows to blocks under their shards; for a direct sink, each row under the same one in every attempt.
        sharded: the sink.
        graph: of the stream.
        definition: see :class:`SinkSpec`. That of a direct sink pins its shards as well.
        direct: whether rows are written before the marker.
        rejects: whether a row that does not fit is rejected.
    """
    name = sharded.name
    blocks, rejected = encoded(rows, encoding, name, graph, rejects=rejects)
    if direct:
        definition = {**definition, "direct": True, "shards": sharded.shards}
        committables = blocks | "Direct" >> WriteDirectly(graph, sharded)
        publisher: Publisher = DirectPublisher(sharded)
    else:
        committables = blocks | "Stage" >> StageRows(graph, name)
        publisher = StagedPublisher(sharded, StagedRows(name, graph.checkpoint))
    graph.sinks[name] = SinkSpec(name, definition, publisher, committables, sharded.sink)
    return rejected
