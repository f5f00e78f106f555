"""What the files of one sink look like, and rows or Arrow batches in the form in which they take them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from beam_exactly_once.arguments import one_of, whole_number
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import Record
from beam_exactly_once.object_store import StagingWriter
from beam_exactly_once.rows.block import Block
from beam_exactly_once.rows.columns import (
    RECORD_FIELDS,
    batch_of_records,
    batch_of_rows,
    check_schema,
    checked_batch,
    fitted_batch,
    name_of,
)
from beam_exactly_once.rows.rejected import schema_of
from beam_exactly_once.sinks.files.block_file import BlockFile, CsvFile, LinesFile, ParquetFile
from beam_exactly_once.sinks.files.json_lines import json_lines, json_lines_of_batch
from beam_exactly_once.sinks.files.partitions import checked_columns, columns_in_files
from beam_exactly_once.sinks.files.text_lines import (
    csv_columns,
    csv_schema,
    refuse_no_text,
    text_lines,
    text_lines_of_batch,
)
from beam_exactly_once.sinks.files.types import refuse_types, written_as_parquet

FileFormat: TypeAlias = Literal["parquet", "csv", "json", "text"]

MAX_GATHERED_BYTES = 64 * 1024 * 1024
"""Data that waits in a worker to be written, over all files."""

_COMPRESSIONS: dict[str, dict[str, str]] = {
    "parquet": dict.fromkeys(("zstd", "snappy", "gzip", "lz4", "brotli", "none"), "parquet"),
    "csv": {"none": "csv", "gzip": "csv.gz", "zstd": "csv.zst"},
    "json": {"none": "json", "gzip": "json.gz", "zstd": "json.zst"},
    "text": {"none": "txt", "gzip": "txt.gz", "zstd": "txt.zst"},
}
"""Compressions of each format, with the extension of their files; the first is that of ``"auto"``."""


_DELIMITER = re.compile(r"[^\x80-\U0010ffffA-Za-z0-9 .:+\-\"\r\n]")


@dataclass(frozen=True, slots=True)
class FileLayout:
    """What the files of one sink look like. Checked when made.

    Raises:
        ConfigurationError: a value is not possible.
    """

    format: FileFormat = "parquet"
    schema: pa.Schema | None = None
    """Of the rows: the columns of ``partition_by`` are in it, and not in the files."""
    compression: str = "auto"
    partition_by: Sequence[str] = ()
    max_file_bytes: int = 256 * 1024 * 1024
    max_row_group_rows: int = 131_072
    max_open_files: int = 16
    csv_delimiter: str = ","

    def __post_init__(self) -> None:
        one_of("format", self.format, tuple(_COMPRESSIONS))
        compressions = _COMPRESSIONS[self.format]
        one_of("compression", self.compression, ("auto", *compressions), of=self.format)
        if self.compression == "auto":
            object.__setattr__(self, "compression", next(iter(compressions)))
        for name in ("max_file_bytes", "max_row_group_rows", "max_open_files"):
            whole_number(name, getattr(self, name))
        if not isinstance(self.csv_delimiter, str) or not _DELIMITER.fullmatch(self.csv_delimiter):
            raise ConfigurationError(
                f"csv_delimiter={self.csv_delimiter!r} must be one ASCII sign that no number, date or time has in it, no "
                "quote and no line end, such as ';' or '\\t'."
            )
        object.__setattr__(self, "partition_by", checked_columns(self.partition_by))
        if self.schema is not None:
            check_schema(self.schema)
            self._check_columns(columns_in_files(self.schema, self.partition_by))
        elif self.format == "text" and self.partition_by:
            raise ConfigurationError(
                "partition_by of text needs schema=: the columns of the folders, and the one that is the line."
            )

    @property
    def extension(self) -> str:
        """Extension of the file names, without the dot."""
        return _COMPRESSIONS[self.format][self.compression]

    @property
    def has_columns(self) -> bool:
        """Whether files take Arrow batches, not lines."""
        return self.format in ("parquet", "csv")

    @property
    def folder_block_type(self) -> Any:
        """Type of the blocks with their folders."""
        return tuple[str, pa.RecordBatch] if self.has_columns else tuple[str, tuple[int, bytes]]

    @property
    def max_gathered_bytes(self) -> int:
        """Bytes of one file that wait to be written together: as a row group, or since many files take turns."""
        gathers = self.format == "parquet" or self.partition_by
        return min(MAX_GATHERED_BYTES, self.max_file_bytes) if gathers else 0

    def batch_of_rows(self, rows: Sequence[Any]) -> pa.RecordBatch | None:
        """Rows, at least one, as columns of the schema; None without one. Rejected records bring theirs.

        Raises:
            UnfitRow: a row does not fit the schema.
        """
        schema = schema_of(rows, self.schema) if self.has_columns else self.schema
        return None if schema is None else batch_of_rows(rows, schema)

    def batch_of_records(self, fields: Sequence[Any]) -> pa.RecordBatch:
        """Kafka records, given as one list of all their fields, as columns.

        Raises:
            UnfitRow: a record does not fit the schema.
        """
        return batch_of_records(fields, self.schema)

    def fitted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns of the schema, if there is one.

        Raises:
            UnfitRow, ConfigurationError: the batch does not fit it.
        """
        return checked_batch(batch) if self.schema is None else fitted_batch(batch, self.schema)

    def block_of_rows(self, rows: Sequence[Any]) -> Block:
        """Rows without a schema, at least one, in the form in which files take them.

        Raises:
            UnfitRow: a row cannot be written in this layout.
        ConfigurationError: no row of its kind can.
        """
        if self.format == "json":
            return len(rows), json_lines(rows)
        if self.format == "text":
            return len(rows), text_lines(rows)
        raise ConfigurationError(
            f"got a row of type {name_of(type(rows[0]))} and has no schema to write it with. Give it "
            'one: WriteToFiles(…, schema=pyarrow.schema([("name", pyarrow.string()), …])), or use format="json".'
        )

    def block_of_records(self, fields: Sequence[Any]) -> Block:
        """Kafka records, given as one list of all their fields, in the form in which files take them.

        Raises:
            UnfitRow: a record cannot be written in this layout.
        ConfigurationError: no record can.
        """
        if self.format == "json" and self.schema is None:
            one_by_one = zip(*[iter(fields)] * RECORD_FIELDS, strict=True)
            records = map(tuple.__new__, repeat(Record), one_by_one)
            return len(fields) // RECORD_FIELDS, json_lines(records)
        return self.block_of_batch(self.batch_of_records(fields))

    def block_of_batch(self, batch: pa.RecordBatch) -> Block:
        """The rows of an Arrow batch in the form in which files take them; for Parquet, the batch.

        Raises:
            UnfitRow: a row cannot be written in this layout.
        ConfigurationError: no row of its kind can.
        """
        refuse_types(batch.schema, self.format)
        if self.format == "parquet":
            return written_as_parquet(batch)
        if self.format == "csv":
            return csv_columns(batch)
        lines = text_lines_of_batch if self.format == "text" else json_lines_of_batch
        return batch.num_rows, lines(batch)

    def open_file(self, target: StagingWriter) -> BlockFile:
        """A new file of this layout, written to ``target``."""
        if not self.has_columns:
            return LinesFile(target, compression=self.compression)
        schema = None if self.schema is None else columns_in_files(self.schema, self.partition_by)
        if self.format == "csv":
            schema = None if schema is None else csv_schema(schema)
            return CsvFile(target, schema, compression=self.compression, delimiter=self.csv_delimiter)
        return ParquetFile(
            target,
            schema,
            compression=self.compression,
            max_row_group_rows=self.max_row_group_rows,
        )

    def _check_columns(self, schema: pa.Schema) -> None:
        refuse_types(schema, self.format)
        if self.format == "text":
            refuse_no_text(schema)
