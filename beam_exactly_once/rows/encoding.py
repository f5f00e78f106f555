"""How a sink encodes rows: blocks of what it gets, and what fits none of them rejected."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.kafka import Record
from beam_exactly_once.rows.block import Block
from beam_exactly_once.rows.columns import RECORD_FIELDS
from beam_exactly_once.rows.rejected import Rejected, isolated, rejected_of

PlacedBlock: TypeAlias = tuple[Any, Block]
"""A block, and where it goes: the folder of a file, or the shard that publishes it."""

MAX_WAITING_BYTES = 4 * 1024 * 1024
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

    def __init__(self, step: str, blocks: RowBlocks) -> None:
        self._step = step
        self._blocks = blocks
        self.rejected: list[Rejected] = []
        """What was rejected so far; the caller takes it away."""

    def of_rows(self, rows: Sequence[Any]) -> list[PlacedBlock]:
        """See :class:`RowBlocks`."""
        return self._isolated(
            len(rows), lambda start, stop: self._blocks.of_rows(rows[start:stop]), lambda index: rows[index]
        )

    def reject(self, rows: Sequence[Any], error: Exception) -> None:
        """Reject all of them, for one reason."""
        self.rejected += [rejected_of(row, error, step=self._step) for row in rows]

    def of_records(self, fields: Sequence[Any]) -> list[PlacedBlock]:
        """See :class:`RowBlocks`."""
        return self._isolated(
            len(fields) // RECORD_FIELDS,
            lambda start, stop: self._blocks.of_records(fields[start * RECORD_FIELDS : stop * RECORD_FIELDS]),
            lambda index: Record(*fields[index * RECORD_FIELDS : (index + 1) * RECORD_FIELDS]),
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
            lambda index, error: self.rejected.append(rejected_of(row_at(index), error, step=self._step)),
            lambda error: isinstance(error, UnfitRow),
        )
        return list(chain.from_iterable(made))


class RowEncoding(abc.ABC):
    """How a sink encodes rows.

    What it raises does not name the sink: the step that encodes does.

    Attributes:
        block_type: of its blocks with their places.
        max_bytes: rows of about this size become blocks together.
        schema: of the rows, as the user gave it.
    """

    block_type: Any
    schema: pa.Schema | None = None
    max_bytes: int = MAX_WAITING_BYTES

    @abc.abstractmethod
    def blocks(self) -> RowBlocks:
        """What makes the blocks of one bundle."""

    def rejecting_blocks(self, step: str) -> RejectingBlocks:
        """The same, but it rejects what does not fit, in the name of ``step``."""
        return RejectingBlocks(step, self.blocks())


@contextmanager
def naming(sink: str) -> Iterator[None]:
    """Errors that are raised within name the sink."""
    try:
        yield
    except ConfigurationError as error:
        raise type(error)(f"sink {sink!r}: {error}") from None
