"""Rows into blocks of files, each for the folder that it goes to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeAlias

import pyarrow as pa

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.rows.block import Block
from beam_exactly_once.rows.columns import whole_batch
from beam_exactly_once.rows.encoding import MAX_WAITING_BYTES, RejectingBlocks, RowBlocks, RowEncoding
from beam_exactly_once.sinks.files.json_lines import json_fields
from beam_exactly_once.sinks.files.layout import FileLayout
from beam_exactly_once.sinks.files.manifest import part_name
from beam_exactly_once.sinks.files.partitions import folder_of_values, split_batch

FolderBlock: TypeAlias = tuple[str, Block]
"""A block, and the folder that it goes to; ``""`` is the output itself."""

_ANY_ATTEMPT = Attempt(0, 0, "0" * 16)
"""Its files have names as long as those of others."""

SPLIT_ROWS = 16_384
SPLIT_BYTES = 8 * 1024 * 1024
"""Arrow data that waits to be split into folders together: splitting costs by the folder, not by the row."""


class FileEncoding(RowEncoding):
    """Rows of a sink of files, in its layout.

    Args:
        layout: of its files.
        location: where they will be: folders whose files could have no name there are refused.
    """

    def __init__(self, layout: FileLayout, location: StoreLocation | None = None) -> None:
        self.block_type = layout.folder_block_type
        self.max_bytes = min(MAX_WAITING_BYTES, layout.max_file_bytes)
        self.schema = layout.schema
        self._layout = layout
        self._location = location

    def blocks(self) -> RowBlocks:
        """See :class:`RowEncoding`."""
        return row_blocks(self._layout, self._location)

    def rejecting_blocks(self, step: str) -> RejectingBlocks:
        """See :class:`RowEncoding`."""
        return (
            _RejectingFolderBlocks(step, self._layout, self._location)
            if self._layout.partition_by
            else super().rejecting_blocks(step)
        )


def row_blocks(layout: FileLayout, location: StoreLocation | None = None) -> RowBlocks:
    """The blocks of a layout."""
    return _FolderBlocks(layout, location) if layout.partition_by else _PlainBlocks(layout)


class _RejectingFolderBlocks(RejectingBlocks):
    """Arrow batches wait here, before they are looked at."""

    def __init__(self, step: str, layout: FileLayout, location: StoreLocation | None) -> None:
        super().__init__(step, row_blocks(layout, location))
        self._waiting = _WaitingBatches(layout)

    def of_batch(self, batch: pa.RecordBatch) -> list[FolderBlock]:
        return self._of_batches(self._waiting.add(batch))

    def rest(self) -> list[FolderBlock]:
        return self._of_batches(self._waiting.take())

    def _of_batches(self, batches: list[pa.RecordBatch]) -> list[FolderBlock]:
        return list(chain.from_iterable(map(super().of_batch, batches)))


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

    def __init__(self, layout: FileLayout, location: StoreLocation | None) -> None:
        self._layout = layout
        self._location = location
        self._waiting = _WaitingBatches(layout)
        self._taken: set[str] = set()

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
            (self._checked(folder), layout.block_of_batch(part))
            for batch in batches
            for folder, part in split_batch(batch, layout.partition_by)
        ]

    def _of_plain_rows(self, rows: Sequence[Any]) -> list[FolderBlock]:
        """JSON without a schema: a row is what it is."""
        of_folder: dict[str, list[Any]] = {}
        partition_by = self._layout.partition_by
        for row in rows:
            fields = dict(json_fields(row))
            folder = folder_of_values((name, fields.pop(name, None)) for name in partition_by)
            of_folder.setdefault(folder, []).append(fields)
        return [(self._checked(folder), self._layout.block_of_rows(of_this)) for folder, of_this in of_folder.items()]

    def _checked(self, folder: str) -> str:
        """The folder, if its files can have a name."""
        if folder not in self._taken and self._location is not None:
            name = part_name(_ANY_ATTEMPT, "0" * 16, 0, self._layout.extension, folder)
            if not self._location.store.takes(name):
                raise UnfitRow(
                    f"cannot partition by {', '.join(self._layout.partition_by)}: of these values the name of a file would have "
                    f"{len(name.encode())} bytes below {self._location.uri}, which is too long there. Partition by shorter "
                    "columns, such as a hash or a prefix of one."
                )
            self._taken.add(folder)
        return folder


class _WaitingBatches:
    """Arrow batches until there are enough to be split into folders together."""

    def __init__(self, layout: FileLayout) -> None:
        self._max_bytes = min(SPLIT_BYTES, layout.max_file_bytes)
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def add(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Take a batch; returns what is ready, as whole batches."""
        fits = not self._batches or batch.schema.equals(self._batches[0].schema)
        ready = [] if fits else self.take()
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        is_enough = self._rows >= SPLIT_ROWS or self._bytes >= self._max_bytes
        return [*ready, *self.take()] if is_enough else ready

    def take(self) -> list[pa.RecordBatch]:
        """All that waits, as one batch; empty if nothing does."""
        taken, self._batches = self._batches, []
        self._rows = self._bytes = 0
        return [whole_batch(taken)] if taken else []
