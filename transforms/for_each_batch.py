"""``ForEachBatch``: user code that gets each committed batch, at least once and in order.

    stream | ReadFromKafka(…) | ForEachBatch(store_batch)

Stages: *blocks* (rows to Arrow columns) / *stage* (in the checkpoint location, see
:mod:`beam_exactly_once.transforms.stage_rows`) / *publish* (the call, once the marker is there).
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.rows.column_encoding import ColumnEncoding
from beam_exactly_once.rows.columns import check_schema
from beam_exactly_once.sinks.calling import CallingPublisher, UserFunction
from beam_exactly_once.sinks.contract import DriverSide
from beam_exactly_once.sinks.staged_rows import StagedRows
from beam_exactly_once.transforms.encode_rows import encoded
from beam_exactly_once.transforms.named import NamedTransform
from beam_exactly_once.transforms.stage_rows import StageRows
from beam_exactly_once.transforms.stream_graph import SinkSpec, sink_graph


class ForEachBatch(NamedTransform):
    """Calls ``fn(rows)`` for every committed batch: at least once, in order of the batches.

    Bounded a batch; works only in an ``ExactlyOnceStream``. Guarantee: ``fn`` is called once the batch's commit marker is
    there, with the rows of the attempt that won, and never with those of another. The next batch is not called before this
    one's call returned. A call is repeated with the same rows after a crash, and whenever a stream starts again after its
    newest batch; a driver that was replaced may, rarely, make a late call while a newer one is further on.

    **One rule makes it exactly-once**: store ``rows.batch_id`` in the same transaction as what you write, under
    ``rows.stream_id``, and ignore a ``batch_id`` at or below the stored one. Read it inside of that transaction, and lock it,
    so that of two calls at the same time one waits for the other. The rule relies on the checkpoint: restored from an
    older copy, it would give old numbers to new rows. Sinks such as ``WriteToFiles`` notice that; your code cannot.

    ``fn`` is called for batches without rows, too: it sees every ``batch_id`` from 0 on without holes, or, in a checkpoint
    that has batches already, from its next one on. An exception fails the publishing of the batch and ends the stream with that
    error; the batch stays committed, and the next start calls ``fn`` again with it first.

    Parallelism: rows are staged where they are made; ``fn`` runs on one worker.

    Input: as of ``WriteToFiles`` to Parquet: dicts, NamedTuples (:class:`~beam_exactly_once.Record` is one),
    dataclasses, ``beam.Row``, or ``pa.RecordBatch``.

    Args:
        fn: takes the :class:`~beam_exactly_once.BatchRows` of a batch; pickled into the graph, and run on a worker.
        schema: columns and types of the rows. Kafka records and Arrow batches of one schema need none.
        name: identifies the sink in the checkpoint, and is its label; may be left out for one ``ForEachBatch``.

    Raises:
        ConfigurationError: an argument is not possible.
        UnsupportedPipeline: applied outside of a stream, or to windowed rows.

    Raises (while running):
        UnfitRow: a row does not fit ``schema``, or holds a time that Python cannot have, such as one of nanoseconds; nothing of
            its batch is committed.
        StagedOutputMissing, StoreUnavailable: the staged rows cannot be read.
        Anything that ``fn`` raises.
    """

    def __init__(self, fn: UserFunction, *, schema: pa.Schema | None = None, name: str | None = None) -> None:
        super().__init__(name)
        if not callable(fn):
            raise ConfigurationError(
                f"fn={fn!r} of ForEachBatch must be a function of the rows of a batch: def fn(rows): …."
            )
        if schema is not None:
            check_schema(schema)
        self._fn = fn
        self._schema = schema

    def expand(self, rows: beam.PCollection[Any]) -> beam.pvalue.PDone:
        """Wire *blocks* and *stage*, and register what calls ``fn``."""
        graph = sink_graph(rows, "ForEachBatch")
        name = graph.sink_name(self._name, "for_each_batch")
        blocks, _ = encoded(rows, ColumnEncoding(self._schema, for_python=True), name, graph, rejects=False)
        committables = blocks | "Stage" >> StageRows(graph, name)
        publisher = CallingPublisher(self._fn, StagedRows(name, graph.checkpoint))
        graph.sinks[name] = SinkSpec(name, {"kind": "for_each_batch"}, publisher, committables, DriverSide())
        return beam.pvalue.PDone(rows.pipeline)
