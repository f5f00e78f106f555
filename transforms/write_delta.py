"""``WriteToDelta``: rows to a Delta Lake table, one commit a batch, each batch exactly once.

    stream | ReadFromKafka(…) | beam.Map(…) | WriteToDelta("s3://lake/orders", schema=ORDERS)

Stages: *blocks* (rows to columns) / *stage* (every bundle writes Parquet files of its own, durable and invisible) / *publish*
(after the commit marker: the files get their names below the table, then one commit of the table's log names them and sets the
receipt, see :mod:`beam_exactly_once.sinks.delta.table`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.arguments import location_of, options_of, true_or_false
from beam_exactly_once.kafka import RECORD_SCHEMA
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.rows.rejected import OnError, Rejected, checked_on_error
from beam_exactly_once.sinks.delta.files import DeltaLayout
from beam_exactly_once.sinks.delta.publisher import DeltaPublisher
from beam_exactly_once.sinks.delta.schema import delta_schema
from beam_exactly_once.sinks.delta.storage import check_storage
from beam_exactly_once.sinks.delta.table import require_deltalake
from beam_exactly_once.sinks.files.encoding import FileEncoding
from beam_exactly_once.transforms.encode_rows import encoded
from beam_exactly_once.transforms.named import NamedTransform
from beam_exactly_once.transforms.reports import Gathered
from beam_exactly_once.transforms.stream_graph import SinkSpec, StreamGraph, sink_graph
from beam_exactly_once.transforms.write_files import StageFiles


class WriteToDelta(NamedTransform):
    """Appends rows to a Delta table: every row of a committed batch exactly once, a whole batch in one commit.

    Bounded a batch; works only in an ``ExactlyOnceStream``, and needs ``pip install 'beam_exactly_once[delta]'``. Guarantee:
    data files are staged where neither the table nor VACUUM sees them. After the batch's commit marker they get their names, and
    one commit of the table's log adds them and sets the stream's receipt, compared in the same commit: so a batch is there once,
    in order, whoever publishes it and however late. A batch without rows is a commit, too. Readers see whole batches.

    The table may have other writers: other sinks and streams, appends, deletes, OPTIMIZE, VACUUM. Deleting rows, and RESTORE
    of an older version, are theirs to do, and change nothing for this sink: it goes on with the next batch.

    Parallelism: each bundle writes its own files; the commit is one step. A batch makes at least one file a bundle that has
    rows, and one a folder with ``partition_by``: run OPTIMIZE.

    Input: dicts, NamedTuples (:class:`~beam_exactly_once.Record` is one), dataclasses, ``beam.Row``, or
    ``pa.RecordBatch``. Fields that ``schema`` does not name are left out, a missing one is null. A column that none of
    the rows of a bundle has, while they have fields that ``schema`` does not name, is taken for misspelt and refused, unless its
    field has the metadata ``may_be_absent``.

    A row that does not fit fails the batch, or is rejected with ``on_error="reject"``, as by ``WriteToFiles``.

    Args:
        location: URI of the table: a path, ``file://``, ``s3://`` or ``gs://`` (where no test covers the log's commits). It is
            created at the first start if it is absent.
        schema: columns and types of the rows; those of Kafka records if left out. Types that Delta does not have become those
            that it has where no value is lost: timestamps are in microseconds, dictionaries their values.
        partition_by: the columns that the table is partitioned by: strings, integers, dates or booleans, few values.
        add_columns: whether columns of ``schema`` that an existing table lacks are added to it at the start, nullable.
            Otherwise that is an error.
        compression: ``"auto"`` is ``"zstd"``; also ``"snappy"``, ``"gzip"``, ``"lz4"``, ``"brotli"`` or ``"none"``.
        max_file_bytes: a file that has reached it is closed, and a new one begins.
        max_row_group_rows: most rows in a row group.
        max_open_files: most files that a bundle with ``partition_by`` has open.
        storage_options: options of the table's store, as for ``WriteToFiles``; ``storage_class`` is for data files alone.
        on_error: ``"fail"`` or ``"reject"``.
        name: identifies the sink in the checkpoint, and is its label; may be left out for one sink of this kind.

    Raises:
        ConfigurationError: an argument is not possible, or the extra is not installed.
        UnsupportedPipeline: applied outside of a stream, or to windowed rows.

    Raises (while running):
        UnfitRow: a row does not fit, and ``on_error`` is ``"fail"``; nothing of its batch is committed.
        ConfigurationError: the table has other columns, types or partitioning, or constraints.
        OutputNotWritable, StoreUnavailable, SinkUnavailable: the store refuses, or does not answer.
        SinkAhead, SinkBehind: the table is newer or older than the checkpoint, as after one was restored from a copy.
        StagedOutputMissing: a staged file is gone.
    """

    def __init__(
        self,
        location: str,
        *,
        schema: pa.Schema | None = None,
        partition_by: Sequence[str] = (),
        add_columns: bool = False,
        compression: str = "auto",
        max_file_bytes: int = 256 * 1024 * 1024,
        max_row_group_rows: int = 131_072,
        max_open_files: int = 16,
        storage_options: Mapping[str, Any] | None = None,
        on_error: OnError = "fail",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        require_deltalake()
        self._location = location_of("location", location, "a table")
        self._storage_options = options_of("storage_options", storage_options)
        check_storage(StoreLocation(self._location, self._storage_options))
        true_or_false("add_columns", add_columns)
        self._add_columns = add_columns
        self._rejects = checked_on_error(on_error)
        layout = DeltaLayout(
            schema=RECORD_SCHEMA if schema is None else schema,
            partition_by=partition_by,
            compression=compression,
            max_file_bytes=max_file_bytes,
            max_row_group_rows=max_row_group_rows,
            max_open_files=max_open_files,
        )
        self._layout = replace(layout, schema=delta_schema(layout.schema, where="schema="))

    def expand(self, rows: beam.PCollection[Any]) -> beam.pvalue.PDone | beam.PCollection[Rejected]:
        """Wire *blocks* and *stage*, and register what publishes them."""
        graph = sink_graph(rows, "WriteToDelta")
        name = graph.sink_name(self._name, "delta")
        location = graph.output(self._location, self._storage_options)
        check_storage(location)
        layout = replace(self._layout, origin=_origin(graph, name))
        stage = beam.ParDo(StageFiles(name, location, layout), beam.pvalue.AsSingleton(graph.attempts))
        blocks, rejected = encoded(rows, FileEncoding(layout, location), name, graph, rejects=self._rejects)
        committables = blocks | "Stage" >> stage.with_output_types(Gathered)
        publisher = DeltaPublisher(name, location, layout, self._add_columns)
        definition = {"kind": "delta", "location": location.uri}
        graph.sinks[name] = SinkSpec(name, definition, publisher, committables, publisher)
        return rejected


def _origin(graph: StreamGraph, sink: str) -> str:
    """What tells this sink's staged files from others' of the same table. If it changes, the sweep leaves older ones."""
    return hashlib.sha256(f"{graph.checkpoint.store.uri}\n{sink}".encode()).hexdigest()[:16]
