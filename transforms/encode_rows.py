"""The DoFns before the staging of files: rows into blocks, and what fits no block rejected."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.kafka import KafkaRecord
from beam_exactly_once.transforms.block_files import block_bytes, block_rows
from beam_exactly_once.transforms.file_formats import RECORD_FIELDS, FileLayout
from beam_exactly_once.transforms.rejected import COUNTS, REJECTED, Rejected
from beam_exactly_once.transforms.row_blocks import FolderBlock, RejectingBlocks, RowBlocks, row_blocks
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import gathered_rejected

ROWS_AT_ONCE_FIRST = 64
ROWS_AT_ONCE_MAX = 1024
"""Rows that wait to become columns together: enough to hide the cost of a call."""
WAITING_BYTES_MAX = 4 * 1024 * 1024
"""Large rows wait in smaller numbers, by the size of those before them."""


class ToBlocks(StatelessDoFn):
    """Makes blocks of rows, so that what follows is paid once a block: a side input costs as much as this step."""

    def __init__(self, layout: FileLayout) -> None:
        self._layout = layout
        self._rows_max = ROWS_AT_ONCE_FIRST
        self.start_bundle()

    def start_bundle(self) -> None:
        """Drop what a failed bundle left."""
        self._fields: list[Any] = []
        self._rows: list[Any] = []
        self._blocks = self._new_blocks()

    def _new_blocks(self) -> RowBlocks:
        return row_blocks(self._layout)

    def process(self, row: Any) -> list[FolderBlock] | None:
        """Take a row, or an Arrow batch of rows."""
        if type(row) is KafkaRecord:
            # The fields of all records in one list: a thousand waiting tuples cost more in garbage collection than in work.
            fields = self._fields
            fields += row
            return self._drain() if len(fields) >= self._rows_max * RECORD_FIELDS else None
        if type(row) is pa.RecordBatch:
            return [*self._drain(), *self._blocks.of_batch(row)] if row.num_rows else None
        self._rows.append(row)
        return self._drain() if len(self._rows) >= self._rows_max else None

    def finish_bundle(self) -> list[WindowedValue]:
        """Give what still waits."""
        blocks = [*self._drain(), *self._blocks.rest()]
        return [GlobalWindows.windowed_value(block, MIN_TIMESTAMP) for block in blocks]

    def _drain(self) -> list[FolderBlock]:
        fields, self._fields = self._fields, []
        rows, self._rows = self._rows, []
        made: list[FolderBlock] = []
        if fields:
            made += self._blocks.of_records(fields)
        if rows:
            made += self._blocks.of_rows(rows)
        if made:
            bytes_max = min(WAITING_BYTES_MAX, self._layout.file_bytes_max)
            made_bytes = sum(block_bytes(block) for _, block in made)
            made_rows = sum(block_rows(block) for _, block in made)
            self._rows_max = max(1, min(ROWS_AT_ONCE_MAX, bytes_max * made_rows // max(1, made_bytes)))
        return made


class ToBlocksOrReject(ToBlocks):
    """Emits the rows that fit no block as rejected, and at the end of the bundle their number."""

    _blocks: RejectingBlocks

    def start_bundle(self) -> None:
        """Drop what a failed bundle left."""
        super().start_bundle()
        self._count = 0

    def _new_blocks(self) -> RejectingBlocks:
        return RejectingBlocks(self._layout)

    def process(self, row: Any) -> list[Any] | None:
        """Take a row, or an Arrow batch of rows."""
        blocks = super().process(row)
        return [*(blocks or ()), *map(_rejected_output, self._taken())] if self._blocks.rejected else blocks

    def finish_bundle(self) -> list[Any]:
        """Give what still waits, and what was counted."""
        outputs: list[Any] = super().finish_bundle()
        outputs += [_rejected_output(GlobalWindows.windowed_value(row, MIN_TIMESTAMP)) for row in self._taken()]
        if self._count:
            counted = GlobalWindows.windowed_value(gathered_rejected(self._layout.sink, self._count), MIN_TIMESTAMP)
            outputs.append(beam.pvalue.TaggedOutput(COUNTS, counted))
        return outputs

    def _taken(self) -> list[Rejected]:
        taken, self._blocks.rejected = self._blocks.rejected, []
        self._count += len(taken)
        return taken


def _rejected_output(row: Any) -> beam.pvalue.TaggedOutput:
    return beam.pvalue.TaggedOutput(REJECTED, row)
