"""Rows into blocks, each for the folder that it goes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.kafka import KafkaRecord
from beam_exactly_once.transforms.block_files import Block
from beam_exactly_once.transforms.file_columns import whole_batch
from beam_exactly_once.transforms.file_formats import RECORD_FIELDS, FileLayout
from beam_exactly_once.transforms.file_partitions import folder_of_values, split_batch
from beam_exactly_once.transforms.json_lines import fields_of
from beam_exactly_once.transforms.rejected import Rejected, isolated, rejected_of

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


class RejectingBlocks:
    """Blocks of all rows that the layout can hold; the others are rejected, as they came.

    Nothing waits behind this, so that an error is that of rows at hand; batches for folders wait here instead.
    """

    def __init__(self, layout: FileLayout) -> None:
        self._layout = layout
        self._blocks = row_blocks(layout)
        self._waiting = _WaitingBatches(layout) if layout.partition_by else None
        self.rejected: list[Rejected] = []
        """What was rejected so far; the caller takes it away."""

    def of_rows(self, rows: Sequence[Any]) -> list[FolderBlock]:
        """See :class:`RowBlocks`."""
        return self._isolated(
            len(rows), lambda start, stop: self._blocks.of_rows(rows[start:stop]), lambda index: rows[index]
        )

    def of_records(self, fields: Sequence[Any]) -> list[FolderBlock]:
        """See :class:`RowBlocks`."""
        return self._isolated(
            len(fields) // RECORD_FIELDS,
            lambda start, stop: self._blocks.of_records(fields[start * RECORD_FIELDS : stop * RECORD_FIELDS]),
            lambda index: KafkaRecord(*fields[index * RECORD_FIELDS : (index + 1) * RECORD_FIELDS]),
        )

    def of_batch(self, batch: pa.RecordBatch) -> list[FolderBlock]:
        """See :class:`RowBlocks`."""
        return self._of_batches([batch] if self._waiting is None else self._waiting.add(batch))

    def rest(self) -> list[FolderBlock]:
        """See :class:`RowBlocks`."""
        return [] if self._waiting is None else self._of_batches(self._waiting.take())

    def _of_batches(self, batches: list[pa.RecordBatch]) -> list[FolderBlock]:
        return list(chain.from_iterable(map(self._of_batch, batches)))

    def _of_batch(self, batch: pa.RecordBatch) -> list[FolderBlock]:
        return self._isolated(
            batch.num_rows,
            lambda start, stop: self._blocks.of_batch(batch.slice(start, stop - start)),
            lambda index: batch.slice(index, 1),
        )

    def _isolated(
        self, count: int, make: Callable[[int, int], list[FolderBlock]], row_at: Callable[[int], Any]
    ) -> list[FolderBlock]:
        made = isolated(
            count,
            lambda start, stop: [*make(start, stop), *self._blocks.rest()],
            lambda index, error: self.rejected.append(rejected_of(row_at(index), error, step=self._layout.sink)),
            lambda error: isinstance(error, UnfitRow),
        )
        return list(chain.from_iterable(made))


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
        self._waiting = _WaitingBatches(layout)

    def of_rows(self, rows: Sequence[Any]) -> list[FolderBlock]:
        batch = self._layout.batch_of_rows(rows)
        return self._of_plain_rows(rows) if batch is None else self._split(self._waiting.add(batch))

    def of_records(self, fields: Sequence[Any]) -> list[FolderBlock]:
        return self._split(self._waiting.add(self._layout.batch_of_records(fields)))

    def of_batch(self, batch: pa.RecordBatch) -> list[FolderBlock]:
        return self._split(self._waiting.add(self._layout.fitted(batch)))

    def rest(self) -> list[FolderBlock]:
        return self._split(self._waiting.take())

    def _split(self, batches: list[pa.RecordBatch]) -> list[FolderBlock]:
        layout = self._layout
        return [
            (folder, layout.block_of_batch(part))
            for batch in batches
            for folder, part in split_batch(batch, layout.partition_by, sink=layout.sink)
        ]

    def _of_plain_rows(self, rows: Sequence[Any]) -> list[FolderBlock]:
        """JSON without a schema: a row is what it is."""
        of_folder: dict[str, list[Any]] = {}
        sink, partition_by = self._layout.sink, self._layout.partition_by
        for row in rows:
            fields = dict(fields_of(row, sink=sink))
            folder = folder_of_values(((name, fields.pop(name, None)) for name in partition_by), sink=sink)
            of_folder.setdefault(folder, []).append(fields)
        return [(folder, self._layout.block_of_rows(of_this)) for folder, of_this in of_folder.items()]


class _WaitingBatches:
    """Arrow batches until there are enough to be split into folders together."""

    def __init__(self, layout: FileLayout) -> None:
        self._bytes_max = min(SPLIT_BYTES, layout.file_bytes_max)
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def add(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Take a batch; returns what is ready, as whole batches."""
        fits = not self._batches or batch.schema.equals(self._batches[0].schema)
        ready = [] if fits else self.take()
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        is_enough = self._rows >= SPLIT_ROWS or self._bytes >= self._bytes_max
        return [*ready, *self.take()] if is_enough else ready

    def take(self) -> list[pa.RecordBatch]:
        """All that waits, as one batch; empty if nothing does."""
        taken, self._batches = self._batches, []
        self._rows = self._bytes = 0
        return [whole_batch(taken)] if taken else []
