"""Rows to columns of a schema, each block under a shard: for sinks that know no more of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.rows.columns import (
    batch_of_records,
    batch_of_rows,
    checked_batch,
    fitted_batch,
    name_of,
)
from beam_exactly_once.rows.encoding import PlacedBlock, RowBlocks, RowEncoding
from beam_exactly_once.rows.python_values import refuse_unreadable
from beam_exactly_once.rows.rejected import schema_of
from beam_exactly_once.rows.shards import Turns, by_shard, shards_by_content


@dataclass(frozen=True)
class ColumnEncoding(RowEncoding):
    """Rows as columns of ``schema``. Kafka records, rejected records and Arrow batches need none."""

    schema: pa.Schema | None
    shards: int = 1
    by_content: bool = False
    """Whether the same row goes to the same shard in every attempt; else blocks take turns."""
    for_python: bool = False
    """Whether what writes the rows reads them as Python values, so that all must be such."""
    block_type = tuple[int, pa.RecordBatch]

    def blocks(self) -> RowBlocks:
        """See :class:`RowEncoding`."""
        return _ColumnBlocks(self)


class _ColumnBlocks:
    """Nothing waits."""

    def __init__(self, encoding: ColumnEncoding) -> None:
        self._encoding = encoding
        self._turns = Turns(encoding.shards)

    def of_rows(self, rows: Sequence[Any]) -> list[PlacedBlock]:
        schema = schema_of(rows, self._encoding.schema)
        if schema is None:
            raise ConfigurationError(
                f"got a row of type {name_of(type(rows[0]))} and has no schema to write it with. Give it one: "
                'schema=pyarrow.schema([("name", pyarrow.string()), …]).'
            )
        return self._placed(batch_of_rows(rows, schema))

    def of_records(self, fields: Sequence[Any]) -> list[PlacedBlock]:
        return self._placed(batch_of_records(fields, self._encoding.schema))

    def of_batch(self, batch: pa.RecordBatch) -> list[PlacedBlock]:
        schema = self._encoding.schema
        return self._placed(checked_batch(batch) if schema is None else fitted_batch(batch, schema))

    def rest(self) -> list[PlacedBlock]:
        return []

    def _placed(self, batch: pa.RecordBatch) -> list[PlacedBlock]:
        if self._encoding.for_python:
            refuse_unreadable(batch)
        if self._encoding.by_content and self._encoding.shards > 1:
            return list(by_shard(batch, shards_by_content(batch, self._encoding.shards)))
        return [(self._turns.next(), batch)]
