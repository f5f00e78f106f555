"""``WriteToFiles``: rows to Parquet, CSV, JSON or text files, each file exactly once.

    stream | ReadFromKafka(…) | beam.Map(…) | WriteToFiles("s3://lake/orders", schema=ORDERS)

Stages: *blocks* (rows to columns or lines) / *stage* (every bundle writes files of its own, durable and invisible) /
*publish* (after the commit marker, from its list alone) / *finish* (the batch's manifest, see
:mod:`beam_exactly_once.sinks.files.manifest`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.arguments import location_of, options_of
from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.rows.encoding import naming
from beam_exactly_once.rows.rejected import OnError, Rejected, checked_on_error
from beam_exactly_once.sinks.files.bundle import BundleFiles
from beam_exactly_once.sinks.files.encoding import FileEncoding, FolderBlock
from beam_exactly_once.sinks.files.layout import FileFormat, FileLayout
from beam_exactly_once.sinks.files.publisher import FilesPublisher
from beam_exactly_once.transforms.encode_rows import encoded
from beam_exactly_once.transforms.named import NamedTransform
from beam_exactly_once.transforms.reports import Committable, Gathered, gathered
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import SinkSpec, refuse_two_attempts, sink_graph


class WriteToFiles(NamedTransform):
    """Writes rows to files below ``location``: every row of a committed batch in exactly one visible file.

    Bounded a batch; works only in an ``ExactlyOnceStream``. Guarantee: files are staged where no listing of
    ``location`` shows them, and become visible after the batch's commit marker names them; what a failed or losing
    attempt staged never becomes visible. Files of one batch appear one by one; ``read_batches(location)`` gives
    whole batches in order. Parallelism: each bundle writes its own files, so a batch makes at least one file a
    bundle that has rows. ``location`` belongs to this sink of this stream alone.

    Input: dicts, NamedTuples (:class:`~beam_exactly_once.Record` is one), dataclasses, ``beam.Row``, or
    ``pa.RecordBatch``, which are written as they come and much the fastest.

    - Parquet: all rows have the columns of ``schema``. Fields that it does not name are left out, a missing one is
      null. A column that none of the rows of a bundle has, while they have fields that ``schema`` does not name, is taken for
      misspelt and refused, unless its field has the metadata ``may_be_absent``. Kafka records and Arrow batches need no
      ``schema``.
    - CSV: the same columns, with a header in each file. Text is quoted, null is nothing and an empty text ``""``. Bytes
      must be UTF-8, dates within the years 1 to 9999. Lists and structs are refused, so Kafka records need a ``schema``
      without their headers.
    - JSON: one object a line, as the row is; with a ``schema``, only what it names. Bytes that are UTF-8 become text;
      others become base64, their field's name with ``_base64`` added. NaN is refused, a decimal becomes text.
    - Text: a line a row, of str or bytes, or of the one column of ``schema``. Bytes are written as they are; null, and
      what holds a line end, is refused.

    With ``partition_by``, rows go to folders that readers take for columns, ``country=DE/day=2026-01-31``: Spark, DuckDB,
    Arrow datasets. Those columns are strings, integers, dates or booleans; they are in ``schema``, and not in the files.
    Names are percent-encoded as these readers expect, null is ``__HIVE_DEFAULT_PARTITION__``, and an empty text is
    refused: they would read it as null. A bundle makes at least one file a folder, so partition by few values.

    A row that does not fit fails the batch, or is rejected with ``on_error="reject"``: then the transform returns the
    rejected rows, :class:`~beam_exactly_once.Rejected` each, for another sink of the stream, and the stream
    refuses to run if nothing consumes them. What no row of its kind could pass, as a missing schema, still fails.

    A worker holds at most about 64 MiB of rows, besides what a store's upload buffers for each open file. Neither
    ``partition_by`` nor the format is fixed: they may change at any start of the stream.

    Args:
        location: URI of a folder: a path, ``file://``, ``s3://``, ``gs://`` or ``memory://``.
        format: ``"parquet"``, ``"csv"``, ``"json"`` or ``"text"``.
        schema: columns and types of the rows.
        partition_by: columns whose values name the folders of the files, the outermost first.
        csv_delimiter: what separates the columns of CSV.
        compression: ``"auto"`` is ``"zstd"`` for Parquet, ``"none"`` for others. Parquet: also ``"snappy"``, ``"gzip"``,
            ``"lz4"``, ``"brotli"``, ``"none"``; others: ``"gzip"``, ``"zstd"``.
        max_file_bytes: a file that has reached it is closed, and a new one begins. It is looked at after
            each row group of Parquet (at most 64 MiB before compression) and some rows of the others.
        max_row_group_rows: most rows in a row group of Parquet.
        max_open_files: most files that a bundle with ``partition_by`` has open. Beyond that the one that was least
            recently written to is closed, and its folder gets another file later.
        storage_options: options of the location's store; None: the stream's own, if it is on the same kind of store.
        on_error: ``"fail"`` or ``"reject"``.
        name: identifies the sink in the checkpoint, and is its label; may be left out for one sink of files.

    Raises:
        ConfigurationError: an argument is not possible, or another sink writes to ``location``.
        UnsupportedPipeline: applied outside of a stream, or to windowed rows.

    Raises (while running):
        UnfitRow: a row does not fit, and ``on_error`` is ``"fail"``; nothing of its batch is committed.
        ConfigurationError: no row fits.
        OutputNotWritable, StoreUnavailable: the store refuses, or does not answer.
        SinkAhead: ``location`` holds batches of another stream, or that the checkpoint does not know.
    """

    def __init__(
        self,
        location: str,
        *,
        format: FileFormat = "parquet",
        schema: pa.Schema | None = None,
        partition_by: Sequence[str] = (),
        csv_delimiter: str = ",",
        compression: str = "auto",
        max_file_bytes: int = 256 * 1024 * 1024,
        max_row_group_rows: int = 131_072,
        max_open_files: int = 16,
        storage_options: Mapping[str, Any] | None = None,
        on_error: OnError = "fail",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self._layout = FileLayout(
            format=format,
            schema=schema,
            compression=compression,
            partition_by=partition_by,
            max_file_bytes=max_file_bytes,
            max_row_group_rows=max_row_group_rows,
            max_open_files=max_open_files,
            csv_delimiter=csv_delimiter,
        )
        self._location = location_of("location", location, "a folder")
        self._storage_options = options_of("storage_options", storage_options)
        self._rejects = checked_on_error(on_error)

    def expand(self, rows: beam.PCollection[Any]) -> beam.pvalue.PDone | beam.PCollection[Rejected]:
        """Wire *blocks* and *stage*, and register what publishes them."""
        graph = sink_graph(rows, "WriteToFiles")
        name = graph.sink_name(self._name, "files")
        location = graph.output(self._location, self._storage_options)
        definition = {"kind": "files", "location": location.store.uri}
        for other in graph.sinks.values():
            if other.definition == definition:
                raise ConfigurationError(
                    f"sinks {other.name!r} and {name!r} both write files to {definition['location']}. Give each a folder "
                    "of its own, or flatten their rows into one sink."
                )
        stage = beam.ParDo(StageFiles(name, location, self._layout), beam.pvalue.AsSingleton(graph.attempts))
        blocks, rejected = encoded(rows, FileEncoding(self._layout, location), name, graph, rejects=self._rejects)
        committables = blocks | "Stage" >> stage.with_output_types(Gathered)
        publisher = FilesPublisher(name, location)
        graph.sinks[name] = SinkSpec(name, definition, publisher, committables, publisher)
        return rejected


class StageFiles(StatelessDoFn):
    """Writes the blocks of each bundle to staged files; emits one committable a file at the bundle's end."""

    def __init__(self, sink: str, location: StoreLocation, layout: FileLayout) -> None:
        self._sink = sink
        self._location = location
        self._layout = layout
        self._files: BundleFiles | None = None

    def setup(self) -> None:
        """Open the store on the worker."""
        _ = self._location.store

    def start_bundle(self) -> None:
        """Drop what a failed bundle left."""
        self._drop()

    def process(self, folder_block: FolderBlock, attempt: Attempt) -> None:
        """Write a block."""
        if self._files is None:
            self._files = BundleFiles(self._location.store, self._layout, attempt)
        refuse_two_attempts(self._files.attempt, attempt)
        with naming(self._sink):
            self._files.write(*folder_block)

    def finish_bundle(self) -> list[WindowedValue]:
        """Close the files, and emit what was staged."""
        if self._files is None:
            return []
        with naming(self._sink):
            committables = self._files.close()
        self._files = None
        return [
            GlobalWindows.windowed_value(gathered(Committable(self._sink, committable)), MIN_TIMESTAMP)
            for committable in committables
        ]

    def teardown(self) -> None:
        """Drop what a failed bundle left."""
        self._drop()

    def _drop(self) -> None:
        files, self._files = self._files, None
        if files is not None:
            files.abort()
