"""The step before a sink's staging: rows into blocks, and what fits no block rejected.

    blocks, rejected = encoded(rows, encoding, graph, rejects=…)

A sink says by a :class:`RowEncoding` what its blocks are; how rows are gathered, and how misfits are found, is the same for all.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Protocol, TypeAlias

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.kafka import KafkaRecord
from beam_exactly_once.transforms.block_files import Block, block_bytes, block_rows
from beam_exactly_once.transforms.file_columns import RECORD_FIELDS
from beam_exactly_once.transforms.rejected import (
    COUNTS,
    REJECTED,
    Rejected,
    RejectingStep,
    isolated,
    rejected_of,
)
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import Gathered, StreamGraph, gathered_rejected, typed

PlacedBlock: TypeAlias = tuple[Any, Block]
"""A block, and where it goes: the folder of a file, or the shard that publishes it."""

ROWS_AT_ONCE_FIRST = 64
ROWS_AT_ONCE_MAX = 1024
"""Rows that wait to become columns together: enough to hide the cost of a call."""
WAITING_BYTES_MAX = 4 * 1024 * 1024
"""Large rows wait in smaller numbers, by the size of those before them."""


class RowBlocks(Protocol):
    """Makes blocks of what a sink gets in one bundle. Each call returns the blocks that are ready.

    Raises:
        UnfitRow: a row cannot be written.
        ConfigurationError: no row can.
    """

    def of_rows(self, rows: Sequence[Any]) -> list[PlacedBlock]:
        """Rows, at least one."""

    def of_records(self, fields: Sequence[Any]) -> list[PlacedBlock]:
        """Kafka records, as one list of all their fields."""

    def of_batch(self, batch: pa.RecordBatch) -> list[PlacedBlock]:
        """An Arrow batch with rows."""

    def rest(self) -> list[PlacedBlock]:
        """What still waits."""


class RejectingBlocks:
    """Blocks of all rows that ``blocks`` takes; the others are rejected, as they came.

    Nothing waits behind this, so that an error is that of rows at hand.
    """

    def __init__(self, sink: str, blocks: RowBlocks) -> None:
        self._sink = sink
        self._blocks = blocks
        self.rejected: list[Rejected] = []
        """What was rejected so far; the caller takes it away."""

    def of_rows(self, rows: Sequence[Any]) -> list[PlacedBlock]:
        """See :class:`RowBlocks`."""
        return self._isolated(
            len(rows), lambda start, stop: self._blocks.of_rows(rows[start:stop]), lambda index: rows[index]
        )

    def of_records(self, fields: Sequence[Any]) -> list[PlacedBlock]:
        """See :class:`RowBlocks`."""
        return self._isolated(
            len(fields) // RECORD_FIELDS,
            lambda start, stop: self._blocks.of_records(fields[start * RECORD_FIELDS : stop * RECORD_FIELDS]),
            lambda index: KafkaRecord(*fields[index * RECORD_FIELDS : (index + 1) * RECORD_FIELDS]),
        )

    def of_batch(self, batch: pa.RecordBatch) -> list[PlacedBlock]:
        """See :class:`RowBlocks`."""
        return self._isolated(
            batch.num_rows,
            lambda start, stop: self._blocks.of_batch(batch.slice(start, stop - start)),
            lambda index: batch.slice(index, 1),
        )

    def rest(self) -> list[PlacedBlock]:
        """See :class:`RowBlocks`."""
        return []

    def _isolated(
        self, count: int, make: Callable[[int, int], list[PlacedBlock]], row_at: Callable[[int], Any]
    ) -> list[PlacedBlock]:
        made = isolated(
            count,
            lambda start, stop: [*make(start, stop), *self._blocks.rest()],
            lambda index, error: self.rejected.append(rejected_of(row_at(index), error, step=self._sink)),
            lambda error: isinstance(error, UnfitRow),
        )
        return list(chain.from_iterable(made))


class RowEncoding(abc.ABC):
    """How a sink encodes rows.

    Attributes:
        sink: name of the sink.
        block_type: of its blocks with their places.
        bytes_max: rows of about this size become blocks together.
    """

    sink: str
    block_type: Any
    bytes_max: int = WAITING_BYTES_MAX

    @abc.abstractmethod
    def blocks(self) -> RowBlocks:
        """What makes the blocks of one bundle."""

    def rejecting_blocks(self) -> RejectingBlocks:
        """The same, but it rejects what does not fit."""
        return RejectingBlocks(self.sink, self.blocks())


def encoded(
    rows: beam.PCollection[Any], encoding: RowEncoding, graph: StreamGraph, *, rejects: bool
) -> tuple[beam.PCollection[PlacedBlock], beam.pvalue.PDone | beam.PCollection[Rejected]]:
    """The blocks of a sink's rows, and what the sink returns: the rows that fit none, if it rejects them.

    Args:
        rows: input of the sink.
        encoding: of the sink.
        graph: of the stream, which is told that the sink rejects.
        rejects: whether a row that does not fit is rejected; else it fails the batch.
    """
    if not rejects:
        blocks = rows | "Blocks" >> beam.ParDo(ToBlocks(encoding)).with_output_types(encoding.block_type)
        return blocks, beam.pvalue.PDone(rows.pipeline)
    made = rows | "Blocks" >> beam.ParDo(ToBlocksOrReject(encoding)).with_outputs(REJECTED, COUNTS, main="blocks")
    rejected = typed(made[REJECTED], Rejected)
    name = graph.rejecting_name(encoding.sink, encoding.sink)
    graph.rejecting[name] = RejectingStep(rejected, typed(made[COUNTS], Gathered))
    return typed(made.blocks, encoding.block_type), rejected


class ToBlocks(StatelessDoFn):
    """Makes blocks of rows, so that what follows is paid once a block: a side input costs as much as this step."""

    def __init__(self, encoding: RowEncoding) -> None:
        self._encoding = encoding
        self._rows_max = ROWS_AT_ONCE_FIRST
        self.start_bundle()

    def start_bundle(self) -> None:
        """Drop what a failed bundle left."""
        self._fields: list[Any] = []
        self._rows: list[Any] = []
        self._blocks = self._new_blocks()

    def _new_blocks(self) -> RowBlocks:
        return self._encoding.blocks()

    def process(self, row: Any) -> list[PlacedBlock] | None:
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

    def _drain(self) -> list[PlacedBlock]:
        fields, self._fields = self._fields, []
        rows, self._rows = self._rows, []
        made: list[PlacedBlock] = []
        if fields:
            made += self._blocks.of_records(fields)
        if rows:
            made += self._blocks.of_rows(rows)
        if made:
            made_bytes = sum(block_bytes(block) for _, block in made)
            made_rows = sum(block_rows(block) for _, block in made)
            self._rows_max = max(1, min(ROWS_AT_ONCE_MAX, self._encoding.bytes_max * made_rows // max(1, made_bytes)))
        return made


class ToBlocksOrReject(ToBlocks):
    """Emits the rows that fit no block as rejected, and at the end of the bundle their number."""

    _blocks: RejectingBlocks

    def start_bundle(self) -> None:
        """Drop what a failed bundle left."""
        super().start_bundle()
        self._count = 0

    def _new_blocks(self) -> RejectingBlocks:
        return self._encoding.rejecting_blocks()

    def process(self, row: Any) -> list[Any] | None:
        """Take a row, or an Arrow batch of rows."""
        blocks = super().process(row)
        return [*(blocks or ()), *map(_rejected_output, self._taken())] if self._blocks.rejected else blocks

    def finish_bundle(self) -> list[Any]:
        """Give what still waits, and what was counted."""
        outputs: list[Any] = super().finish_bundle()
        outputs += [_rejected_output(GlobalWindows.windowed_value(row, MIN_TIMESTAMP)) for row in self._taken()]
        if self._count:
            counted = GlobalWindows.windowed_value(gathered_rejected(self._encoding.sink, self._count), MIN_TIMESTAMP)
            outputs.append(beam.pvalue.TaggedOutput(COUNTS, counted))
        return outputs

    def _taken(self) -> list[Rejected]:
        taken, self._blocks.rejected = self._blocks.rejected, []
        self._count += len(taken)
        return taken


def _rejected_output(row: Any) -> beam.pvalue.TaggedOutput:
    return beam.pvalue.TaggedOutput(REJECTED, row)
