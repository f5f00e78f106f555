"""Rows to columns of the table, each block under the shard that writes it.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.rows.encoding import PlacedBlock, RowBlocks, RowEncoding
from beam_exactly_once.rows.shards import Turns, by_shard, shards_by_content
from beam_exactly_once.sinks.sql.database import SqlDatabase
from beam_exactly_once.sinks.sql.keys import refuse_equal_keys, shards_of
from beam_exactly_once.sinks.sql.table import SqlTable, reflected
from beam_exactly_once.sinks.sql.target import SqlTarget


class SqlEncoding(RowEncoding):
    """Rows of a sink, as its table takes them. A bundle looks at the table once, and again when rows do not fit it."""

    block_type = tuple[int, pa.RecordBatch]

    def __init__(self, database: SqlDatabase, target: SqlTarget) -> None:
        self.target = target
        self._database = database

    def blocks(self) -> RowBlocks:
        """See :class:`RowEncoding`."""
        return _SqlBlocks(self)

    def table(self) -> SqlTable:
        """The table as it is."""
        return self._database.transact(
            lambda connection: reflected(connection, self.target, self._database.dialect),
            f"looking at table {self.target.full_name}",
        )


class _SqlBlocks:
    """Makes columns of the table of rows, under the shard that writes them. Nothing waits."""

    def __init__(self, encoding: SqlEncoding) -> None:
        self._encoding = encoding
        self._target = encoding.target
        self._table: SqlTable | None = None
        self._looked_again = False
        self._turns = Turns(encoding.target.shards)

    def of_rows(self, rows: Sequence[Any]) -> list[PlacedBlock]:
        return self._sharded(lambda table: table.block_of_rows(rows))

    def of_records(self, fields: Sequence[Any]) -> list[PlacedBlock]:
        return self._sharded(lambda table: table.block_of_records(fields))

    def of_batch(self, batch: pa.RecordBatch) -> list[PlacedBlock]:
        return self._sharded(lambda table: table.block_of_batch(batch))

    def rest(self) -> list[PlacedBlock]:
        return []

    def _sharded(self, block_of: Callable[[SqlTable], pa.RecordBatch]) -> list[PlacedBlock]:
        if self._table is None:
            self._table = self._encoding.table()
        try:
            batch = block_of(self._table)
        except ConfigurationError:
            if self._looked_again:
                raise
            self._looked_again, self._table = True, self._encoding.table()  # it may have changed since
            batch = block_of(self._table)
        if self._target.mode == "upsert":
            refuse_equal_keys(batch, self._target)
            if self._target.shards > 1:
                return list(by_shard(batch, shards_of(batch, self._target.key_columns, self._target.shards)))
        elif self._target.direct and self._target.shards > 1:
            return list(by_shard(batch, shards_by_content(batch, self._target.shards)))
        return [(self._turns.next(), batch)]
