"""File formats: rows or Arrow batches into one staged file, with bounded memory."""

from __future__ import annotations

import abc
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import RECORD_SCHEMA, KafkaRecord
from beam_exactly_once.object_store import StagingWriter
from beam_exactly_once.transforms.file_columns import batch_of_records, batch_of_rows, fitted_batch, name_of
from beam_exactly_once.transforms.json_lines import json_lines, json_lines_of_batch

FileFormat: TypeAlias = Literal["parquet", "json"]

Block: TypeAlias = Any
"""Rows on their way to a file: a ``pa.RecordBatch`` for Parquet; their number and their lines for JSON. A plain tuple,
which every coder knows, should a runner not fuse."""

BUFFER_BYTES_MAX = 64 * 1024 * 1024
"""Arrow data that waits for its row group to fill."""
GZIP_LEVEL = 6
RECORD_FIELDS = len(KafkaRecord._fields)
_RECORD_DICTIONARIES = ["topic", "partition", "timestamp_type", "key"]
"""Offsets, times and values of Kafka hardly repeat: without a dictionary they are written faster, and smaller."""

_COMPRESSIONS: dict[str, dict[str | None, str]] = {
    "parquet": dict.fromkeys(("zstd", "snappy", "gzip", "lz4", "brotli", "none"), "parquet"),
    "json": {None: "json", "gzip": "json.gz"},
}
"""Compressions of each format, with the extension of their files."""


@dataclass(frozen=True, slots=True)
class FileLayout:
    """What the files of one sink look like. Checked when made.

    Raises:
        ConfigurationError: a value is not possible.
    """

    sink: str
    file_format: FileFormat = "parquet"
    schema: pa.Schema | None = None
    compression: str | None = None
    file_bytes_max: int = 256 * 1024 * 1024
    row_group_rows: int = 131_072

    def __post_init__(self) -> None:
        compressions = _COMPRESSIONS.get(self.file_format)
        if compressions is None:
            raise ConfigurationError(f"file_format={self.file_format!r} is not known; use 'parquet' or 'json'.")
        if self.compression is None and self.file_format == "parquet":
            object.__setattr__(self, "compression", "zstd")
        if self.compression not in compressions:
            raise ConfigurationError(
                f"compression={self.compression!r} is not known for {self.file_format}; use one of "
                f"{', '.join(map(repr, compressions))}."
            )
        if self.schema is not None:
            _check_schema(self.schema)
        for name in ("file_bytes_max", "row_group_rows"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name}={value!r} must be a whole number of at least 1.")

    @property
    def extension(self) -> str:
        """Extension of the file names, without the dot."""
        return _COMPRESSIONS[self.file_format][self.compression]

    @property
    def block_type(self) -> Any:
        """Type of the blocks."""
        return pa.RecordBatch if self.file_format == "parquet" else tuple[int, bytes]

    def block_of_rows(self, rows: Sequence[Any]) -> Block:
        """Rows, at least one, in the form in which files take them.

        Raises:
            ConfigurationError: a row cannot be written in this layout.
        """
        if self.schema is not None:
            return self.block_of_batch(batch_of_rows(rows, self.schema, sink=self.sink))
        if self.file_format == "json":
            return len(rows), json_lines(rows, sink=self.sink)
        raise ConfigurationError(
            f"sink {self.sink!r} got a row of type {name_of(type(rows[0]))} and has no schema to write it with. Give it "
            'one: WriteToFiles(…, schema=pyarrow.schema([("name", pyarrow.string()), …])), or use file_format="json".'
        )

    def block_of_records(self, fields: Sequence[Any]) -> Block:
        """Kafka records, given as one list of all their fields, in the form in which files take them.

        Raises:
            ConfigurationError: a record cannot be written in this layout.
        """
        if self.file_format == "json" and self.schema is None:
            one_by_one = zip(*[iter(fields)] * RECORD_FIELDS, strict=True)
            records = map(tuple.__new__, repeat(KafkaRecord), one_by_one)
            return len(fields) // RECORD_FIELDS, json_lines(records, sink=self.sink)
        return self.block_of_batch(batch_of_records(fields, self.schema, sink=self.sink))

    def block_of_batch(self, batch: pa.RecordBatch) -> Block:
        """The rows of an Arrow batch in the form in which files take them; for Parquet, the batch as it comes.

        Raises:
            ConfigurationError: its columns do not fit this layout.
        """
        if self.schema is not None:
            batch = fitted_batch(batch, self.schema, sink=self.sink)
        if self.file_format == "parquet":
            return batch
        return batch.num_rows, json_lines_of_batch(batch, sink=self.sink)

    def open_file(self, target: StagingWriter) -> BlockFile:
        """A new file of this layout, written to ``target``."""
        return ParquetFile(self, target) if self.file_format == "parquet" else JsonLinesFile(self, target)


def block_bytes(block: Block) -> int:
    """Size of a block in memory."""
    return len(block[1]) if isinstance(block, tuple) else int(block.nbytes)


class BlockFile(abc.ABC):
    """One file while it is written. ``rows`` counts what it was given; the target stays the caller's to close."""

    def __init__(self, layout: FileLayout, target: StagingWriter) -> None:
        self._layout = layout
        self._target = target
        self.rows = 0

    @abc.abstractmethod
    def write(self, block: Block) -> None:
        """Add a block of the same layout."""

    @abc.abstractmethod
    def close(self) -> None:
        """Write what is buffered, and the footer."""

    @property
    def is_full(self) -> bool:
        """Whether what was written reached the layout's ``file_bytes_max``; what is buffered does not count yet."""
        return int(self._target.tell()) >= self._layout.file_bytes_max


class ParquetFile(BlockFile):
    """Gathers Arrow batches into row groups: a group for each small batch would make slow, large files."""

    def __init__(self, layout: FileLayout, target: StagingWriter) -> None:
        super().__init__(layout, target)
        self._schema: pa.Schema | None = layout.schema
        self._writer: pq.ParquetWriter | None = None
        self._gathered: list[pa.RecordBatch] = []
        self._gathered_rows = self._gathered_bytes = 0
        self._gathered_bytes_max = min(BUFFER_BYTES_MAX, layout.file_bytes_max)

    def write(self, block: Block) -> None:
        """Without a schema in the layout, the first batch gives the file's; later ones must fit.

        Raises:
            ConfigurationError: the batch has other columns.
        """
        if self._schema is None:
            self._schema = block.schema
        self._gathered.append(fitted_batch(block, self._schema, sink=self._layout.sink))
        self._gathered_rows += block.num_rows
        self._gathered_bytes += block_bytes(block)
        self.rows += block.num_rows
        if self._gathered_rows >= self._layout.row_group_rows or self._gathered_bytes >= self._gathered_bytes_max:
            self._write_row_group()

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._write_row_group()
        if self._writer is not None:
            self._writer.close()

    def _write_row_group(self) -> None:
        if not self._gathered:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._target,
                self._schema,
                compression=self._layout.compression,
                use_dictionary=_RECORD_DICTIONARIES if self._schema == RECORD_SCHEMA else True,
            )
        self._writer.write_table(
            pa.Table.from_batches(self._gathered, self._schema), row_group_size=self._layout.row_group_rows
        )
        self._gathered.clear()
        self._gathered_rows = self._gathered_bytes = 0


class JsonLinesFile(BlockFile):
    """One JSON object a line."""

    def __init__(self, layout: FileLayout, target: StagingWriter) -> None:
        super().__init__(layout, target)
        # No name and no time inside: the same rows give the same bytes.
        self._gzip = gzip.GzipFile("", "wb", GZIP_LEVEL, target, mtime=0) if layout.compression == "gzip" else None

    def write(self, block: Block) -> None:
        """Write the lines."""
        rows, lines = block
        if self._gzip is None:
            self._target.write(lines)
        else:
            self._gzip.write(lines)
        self.rows += rows

    def close(self) -> None:
        """Finish the compression."""
        if self._gzip is not None:
            self._gzip.close()


def _check_schema(schema: pa.Schema) -> None:
    if not isinstance(schema, pa.Schema):
        raise ConfigurationError(
            f"schema= must be a pyarrow.Schema, not a {type(schema).__name__}: "
            'pyarrow.schema([("name", pyarrow.string()), …]).'
        )
    if not schema.names or len(set(schema.names)) != len(schema.names):
        raise ConfigurationError("schema= must have at least one column, and no two of one name.")
