"""The step before a sink's staging: rows into blocks, and what fits no block rejected.

    blocks, rejected = encoded(rows, encoding, name, graph, rejects=…)

A sink says by a :class:`RowEncoding` what its blocks are; how rows are gathered, and how misfits are found, is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.kafka import Record
from beam_exactly_once.rows.absent_columns import AbsentColumns
from beam_exactly_once.rows.block import block_bytes, block_rows
from beam_exactly_once.rows.columns import RECORD_FIELDS
from beam_exactly_once.rows.encoding import PlacedBlock, RejectingBlocks, RowBlocks, RowEncoding, naming
from beam_exactly_once.rows.rejected import Rejected
from beam_exactly_once.transforms.in_lists.row_list import RowList, step_state
from beam_exactly_once.transforms.rejecting import COUNTS, REJECTED, RejectingStep
from beam_exactly_once.transforms.reports import Gathered, RejectedCount, gathered
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import StreamGraph, typed

_Made = TypeVar("_Made")

ROWS_AT_ONCE_FIRST = 64
MAX_ROWS_AT_ONCE = 1024
"""Rows that wait to become columns together: enough to hide the cost of a call."""


def encoded(
    rows: beam.PCollection[Any], encoding: RowEncoding, sink: str, graph: StreamGraph, *, rejects: bool
) -> tuple[beam.PCollection[PlacedBlock], beam.pvalue.PDone | beam.PCollection[Rejected]]:
    """The blocks of a sink's rows, and what the sink returns: the rows that fit none, if it rejects them.

    Args:
        rows: input of the sink.
        encoding: of the sink.
        sink: its name.
        graph: of the stream, which is told that the sink rejects.
        rejects: whether a row that does not fit is rejected; else it fails the batch.
    """
    if not rejects:
        blocks = rows | "Blocks" >> beam.ParDo(ToBlocks(encoding, sink)).with_output_types(encoding.block_type)
        return blocks, beam.pvalue.PDone(rows.pipeline)
    made = rows | "Blocks" >> beam.ParDo(ToBlocksOrReject(encoding, sink)).with_outputs(REJECTED, COUNTS, main="blocks")
    rejected = typed(made[REJECTED], Rejected)
    name = graph.rejecting_name(sink, sink)
    graph.rejecting[name] = RejectingStep(rejected, typed(made[COUNTS], Gathered))
    return typed(made.blocks, encoding.block_type), rejected


class ToBlocks(StatelessDoFn):
    """Makes blocks of rows, so that what follows is paid once a block: a side input costs as much as this step."""

    def __init__(self, encoding: RowEncoding, sink: str) -> None:
        self._encoding = encoding
        self._sink = sink
        self._max_rows = ROWS_AT_ONCE_FIRST
        self._forget()

    def start_bundle(self) -> None:
        """Drop what a failed bundle left."""
        self._forget()

    def _forget(self) -> None:
        self._fields: list[Any] = []
        self._rows: list[Any] = []
        self._absent = AbsentColumns(self._encoding.schema)
        self._blocks = self._new_blocks()

    def _new_blocks(self) -> RowBlocks:
        return self._encoding.blocks()

    def in_lists(self) -> beam.DoFn:
        """The same for lists of rows."""
        return _ListsToBlocks(self._encoding, self._sink)

    def process(self, row: Any) -> list[PlacedBlock] | None:
        """Take a row, or an Arrow batch of rows."""
        if type(row) is Record:
            # The fields of all records in one list: a thousand waiting tuples cost more in garbage collection than in work.
            fields = self._fields
            fields += row
            return self._drain() if len(fields) >= self._max_rows * RECORD_FIELDS else None
        if type(row) is pa.RecordBatch:
            return [*self._drain(), *self._named(self._blocks.of_batch, row)] if row.num_rows else None
        self._rows.append(row)
        return self._drain() if len(self._rows) >= self._max_rows else None

    def process_all(self, rows: list[Any]) -> list[Any]:
        """Take rows as if they came one by one."""
        kinds = {*map(type, rows)}
        are_records = kinds == {Record}
        if not are_records and not kinds.isdisjoint((Record, pa.RecordBatch)):
            return [output for row in rows for output in self.process(row) or ()]
        made: list[Any] = []
        taken = 0
        while taken < len(rows):
            waiting = len(self._fields) // RECORD_FIELDS if are_records else len(self._rows)
            some = rows[taken : taken + max(1, self._max_rows - waiting)]
            taken += len(some)
            if are_records:
                self._fields += chain.from_iterable(some)
            else:
                self._rows += some
            if waiting + len(some) >= self._max_rows:
                made += self._drain()
        return made

    def finish_bundle(self) -> list[WindowedValue]:
        """Give what still waits."""
        blocks = [*self._drain(), *self._named(self._blocks.rest)]
        self._named(self._absent.refuse)
        return [GlobalWindows.windowed_value(block, MIN_TIMESTAMP) for block in blocks]

    def _drain(self) -> list[PlacedBlock]:
        fields, self._fields = self._fields, []
        rows, self._rows = self._rows, []
        made: list[PlacedBlock] = []
        if fields:
            made += self._named(self._blocks.of_records, fields)
        if rows:
            made += self._named(self._of_rows, rows)
        if made:
            made_bytes = sum(block_bytes(block) for _, block in made)
            made_rows = sum(block_rows(block) for _, block in made)
            self._max_rows = max(1, min(MAX_ROWS_AT_ONCE, self._encoding.max_bytes * made_rows // max(1, made_bytes)))
        return made

    def _of_rows(self, rows: list[Any]) -> list[PlacedBlock]:
        self._absent.look(rows)
        return self._blocks.of_rows(rows)

    def _named(self, make: Callable[..., _Made], *rows: Any) -> _Made:
        with naming(self._sink):
            return make(*rows)


class ToBlocksOrReject(ToBlocks):
    """Emits the rows that fit no block as rejected, and at the end of the bundle their number."""

    _blocks: RejectingBlocks

    def _forget(self) -> None:
        super()._forget()
        self._count = 0

    def _new_blocks(self) -> RejectingBlocks:
        return self._encoding.rejecting_blocks(self._sink)

    def process(self, row: Any) -> list[Any] | None:
        """Take a row, or an Arrow batch of rows."""
        blocks = super().process(row)
        return [*(blocks or ()), *map(_rejected_output, self._taken())] if self._blocks.rejected else blocks

    def in_lists(self) -> beam.DoFn:
        """The same for lists of rows."""
        return _ListsToBlocksOrReject(self._encoding, self._sink)

    def process_all(self, rows: list[Any]) -> list[Any]:
        """Take rows as if they came one by one."""
        blocks = super().process_all(rows)
        return [*blocks, *map(_rejected_output, self._taken())]

    def finish_bundle(self) -> list[Any]:
        """Give what still waits, and what was counted."""
        outputs: list[Any] = super().finish_bundle()
        outputs += [_rejected_output(GlobalWindows.windowed_value(row, MIN_TIMESTAMP)) for row in self._taken()]
        if self._count:
            counted = GlobalWindows.windowed_value(gathered(RejectedCount(self._sink, self._count)), MIN_TIMESTAMP)
            outputs.append(beam.pvalue.TaggedOutput(COUNTS, counted))
        return outputs

    def _of_rows(self, rows: list[Any]) -> list[PlacedBlock]:
        self._absent.look(rows)
        try:
            self._absent.refuse()
        except UnfitRow as error:  # of all of them: what is that of one row is rejected inside
            self._absent = AbsentColumns(self._encoding.schema)
            self._blocks.reject(rows, error)
            return []
        return self._blocks.of_rows(rows)

    def _taken(self) -> list[Rejected]:
        taken, self._blocks.rejected = self._blocks.rejected, []
        self._count += len(taken)
        return taken


class _TakesLists(ToBlocks):
    """Single rows as well."""

    def start_bundle(self) -> None:
        """And find where the step's counters count."""
        super().start_bundle()
        self._state = step_state()

    @beam.DoFn.yields_elements  # type: ignore[untyped-decorator]
    def process_batch(self, rows: RowList) -> list[Any]:
        """Take rows that came together."""
        with self._state:
            return self.process_all(rows.rows)


class _ListsToBlocks(_TakesLists, ToBlocks):
    pass


class _ListsToBlocksOrReject(_TakesLists, ToBlocksOrReject):
    pass


def _rejected_output(row: Any) -> beam.pvalue.TaggedOutput:
    return beam.pvalue.TaggedOutput(REJECTED, row)
