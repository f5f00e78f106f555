"""Rows into blocks, each for the folder that it goes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from beam_exactly_once.transforms.block_files import Block
from beam_exactly_once.transforms.file_columns import whole_batch
from beam_exactly_once.transforms.file_formats import FileLayout
from beam_exactly_once.transforms.file_partitions import folder_of_values, split_batch
from beam_exactly_once.transforms.json_lines import fields_of

FolderBlock: TypeAlias = tuple[str, Block]
"""A block, and the folder that it goes to; ``""`` is the output itself."""

SPLIT_ROWS = 16_384
SPLIT_BYTES = 8 * 1024 * 1024
"""Arrow data that waits to be split into folders together: splitting costs by the folder, not by the row."""


class RowBlocks(Protocol):
    """Makes blocks of what a sink gets. Each call returns the blocks that are ready."""

    def of_rows(self, rows: Sequence[Any]) -> list[FolderBlock]:
        """Rows, at least one."""

    def of_records(self, fields: Sequence[Any]) -> list[FolderBlock]:
        """Kafka records, as one list of all their fields."""

    def of_batch(self, batch: pa.RecordBatch) -> list[FolderBlock]:
        """An Arrow batch with rows."""

    def rest(self) -> list[FolderBlock]:
        """What still waits."""


def row_blocks(layout: FileLayout) -> RowBlocks:
    """The blocks of a layout."""
    return _FolderBlocks(layout) if layout.partition_by else _PlainBlocks(layout)


class _PlainBlocks:
    """Without folders: block by block, as they come."""

    def __init__(self, layout: FileLayout) -> None:
        self._layout = layout

    def of_rows(self, rows: Sequence[Any]) -> list[FolderBlock]:
        batch = self._layout.batch_of_rows(rows)
        layout = self._layout
        return [("", layout.block_of_rows(rows) if batch is None else layout.block_of_batch(batch))]

    def of_records(self, fields: Sequence[Any]) -> list[FolderBlock]:
        return [("", self._layout.block_of_records(fields))]

    def of_batch(self, batch: pa.RecordBatch) -> list[FolderBlock]:
        return [("", self._layout.block_of_batch(self._layout.fitted(batch)))]

    def rest(self) -> list[FolderBlock]:
        return []


class _FolderBlocks:
    """Batches wait, and are split together."""

    def __init__(self, layout: FileLayout) -> None:
        self._layout = layout
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._bytes_max = min(SPLIT_BYTES, layout.file_bytes_max)

    def of_rows(self, rows: Sequence[Any]) -> list[FolderBlock]:
        batch = self._layout.batch_of_rows(rows)
        return self._of_plain_rows(rows) if batch is None else self._wait(batch)

    def of_records(self, fields: Sequence[Any]) -> list[FolderBlock]:
        return self._wait(self._layout.batch_of_records(fields))

    def of_batch(self, batch: pa.RecordBatch) -> list[FolderBlock]:
        return self._wait(self._layout.fitted(batch))

    def rest(self) -> list[FolderBlock]:
        if not self._waiting:
            return []
        batch = whole_batch(self._waiting)
        self._waiting, self._rows, self._bytes = [], 0, 0
        layout = self._layout
        return [
            (folder, layout.block_of_batch(part))
            for folder, part in split_batch(batch, layout.partition_by, sink=layout.sink)
        ]

    def _wait(self, batch: pa.RecordBatch) -> list[FolderBlock]:
        fits = not self._waiting or batch.schema.equals(self._waiting[0].schema)
        ready = [] if fits else self.rest()
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows < SPLIT_ROWS and self._bytes < self._bytes_max:
            return ready
        return ready + self.rest()

    def _of_plain_rows(self, rows: Sequence[Any]) -> list[FolderBlock]:
        """JSON without a schema: a row is what it is."""
        of_folder: dict[str, list[Any]] = {}
        sink, partition_by = self._layout.sink, self._layout.partition_by
        for row in rows:
            fields = dict(fields_of(row, sink=sink))
            folder = folder_of_values(((name, fields.pop(name, None)) for name in partition_by), sink=sink)
            of_folder.setdefault(folder, []).append(fields)
        return [(folder, self._layout.block_of_rows(of_this)) for folder, of_this in of_folder.items()]
