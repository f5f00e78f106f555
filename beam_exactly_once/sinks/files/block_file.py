"""Blocks of rows into one file: Parquet, CSV, or lines. What waits to be written is the caller's to bound."""

from __future__ import annotations

import abc
import gzip
import io
from collections.abc import Sequence
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.kafka import RECORD_SCHEMA
from beam_exactly_once.object_store import StagingWriter
from beam_exactly_once.rows.block import Block, block_rows
from beam_exactly_once.rows.columns import fitted_batch

GZIP_LEVEL = 6
_RECORD_DICTIONARIES = ["topic", "partition", "timestamp_type", "key"]
"""Offsets, times and values of Kafka hardly repeat: without a dictionary they are written faster, and smaller."""


class BlockFile(abc.ABC):
    """One file while it is written. ``rows`` counts what it was given; the target stays the caller's to close."""

    def __init__(self) -> None:
        self.rows = 0

    def write(self, blocks: Sequence[Block]) -> None:
        """Add blocks of one layout, at least one: for Parquet, a row group.

        Raises:
            ConfigurationError: a block has other columns than the first.
        """
        self._write(blocks)
        self.rows += sum(map(block_rows, blocks))

    @property
    def notes(self) -> Json:
        """What a committable says of the closed file besides its name, rows and size."""
        return {}

    @abc.abstractmethod
    def _write(self, blocks: Sequence[Block]) -> None: ...

    @abc.abstractmethod
    def close(self) -> None:
        """Write the footer."""


class _ColumnsFile(BlockFile):
    """Without a schema, the first batch gives the file's; later ones must fit."""

    def __init__(self, schema: pa.Schema | None) -> None:
        super().__init__()
        self._schema = schema
        self._writer: Any = None

    def _write(self, blocks: Sequence[pa.RecordBatch]) -> None:
        if self._schema is None:
            self._schema = blocks[0].schema
        fitted = [fitted_batch(block, self._schema) for block in blocks]
        if self._writer is None:
            self._writer = self._open(self._schema)
        self._write_table(pa.Table.from_batches(fitted, self._schema))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    @abc.abstractmethod
    def _open(self, schema: pa.Schema) -> Any: ...

    @abc.abstractmethod
    def _write_table(self, table: pa.Table) -> None: ...


class ParquetFile(_ColumnsFile):
    """Each write is a row group, or several if it is larger than ``max_row_group_rows``."""

    def __init__(
        self, target: StagingWriter, schema: pa.Schema | None, *, compression: str, max_row_group_rows: int
    ) -> None:
        super().__init__(schema)
        self._target = target
        self._compression = compression
        self._row_group_rows = max_row_group_rows
        self.metadata: list[pq.FileMetaData] = []
        """The footer, once the file is closed."""

    def _open(self, schema: pa.Schema) -> pq.ParquetWriter:
        use_dictionary = _RECORD_DICTIONARIES if schema == RECORD_SCHEMA else True
        return pq.ParquetWriter(
            self._target,
            schema,
            compression=self._compression,
            use_dictionary=use_dictionary,
            metadata_collector=self.metadata,
        )

    def _write_table(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=self._row_group_rows)


class CsvFile(_ColumnsFile):
    """A header, then a line a row. Text is quoted; null is nothing, an empty text ``""``."""

    def __init__(self, target: StagingWriter, schema: pa.Schema | None, *, compression: str, delimiter: str) -> None:
        super().__init__(schema)
        self._body = _compressed(target, compression)
        self._delimiter = delimiter

    def _open(self, schema: pa.Schema) -> pyarrow.csv.CSVWriter:
        options = pyarrow.csv.WriteOptions(delimiter=self._delimiter)
        return pyarrow.csv.CSVWriter(self._body, schema, write_options=options)

    def _write_table(self, table: pa.Table) -> None:
        self._writer.write_table(table)

    def close(self) -> None:
        """Finish the compression, too."""
        super().close()
        self._body.close()


class LinesFile(BlockFile):
    """JSON or text: lines as they come."""

    def __init__(self, target: StagingWriter, *, compression: str) -> None:
        super().__init__()
        self._body = _compressed(target, compression)

    def _write(self, blocks: Sequence[tuple[int, bytes]]) -> None:
        for _, lines in blocks:
            self._body.write(lines)

    def close(self) -> None:
        """Finish the compression."""
        self._body.close()


class _KeptOpen(io.RawIOBase):
    """Writes to ``target``, and leaves closing it to the caller: closed, it would count as whole."""

    def __init__(self, target: StagingWriter) -> None:
        super().__init__()
        self._target = target

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._target.write(data)


def _compressed(target: StagingWriter, compression: str) -> IO[bytes]:
    body = _KeptOpen(target)
    if compression == "gzip":
        # No name and no time inside: the same rows give the same bytes.
        return cast("IO[bytes]", gzip.GzipFile("", "wb", GZIP_LEVEL, body, mtime=0))
    if compression == "zstd":
        return cast("IO[bytes]", pa.CompressedOutputStream(pa.PythonFile(body, "w"), "zstd"))
    return cast("IO[bytes]", body)
