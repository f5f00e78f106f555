"""What runs of ``WriteToSql``: rows to columns of the table, and a shard's rows with its mark in one transaction.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.errors import ConfigurationError, SinkAhead, SinkBehind
from beam_exactly_once.rows.encoding import PlacedBlock, RowBlocks, RowEncoding
from beam_exactly_once.rows.shards import by_shard, shards_by_content
from beam_exactly_once.sinks.shard_writer import ShardWrite, ShardWriter
from beam_exactly_once.transforms.sql_database import SqlDatabase
from beam_exactly_once.transforms.sql_marks import SqlMarks
from beam_exactly_once.transforms.sql_rows import refuse_equal_keys, shards_of, write_rows, writes_nothing
from beam_exactly_once.transforms.sql_table import SqlTable, reflected
from beam_exactly_once.transforms.sql_target import SqlTarget


class SqlEncoding(RowEncoding):
    """Rows of a sink, as its table takes them. A worker looks at the table once, and again when rows do not fit it."""

    block_type = tuple[int, pa.RecordBatch]

    def __init__(self, sink: str, database: SqlDatabase, target: SqlTarget) -> None:
        self.sink = sink
        self.target = target
        self._database = database
        self._table: SqlTable | None = None

    def blocks(self) -> RowBlocks:
        """See :class:`RowEncoding`."""
        return _SqlBlocks(self)

    def table(self, *, anew: bool = False) -> SqlTable:
        """The table as it was when it was last looked at; ``anew``: as it is."""
        if self._table is None or anew:
            self._table = self._database.transact(
                lambda connection: reflected(connection, self.target, self._database.dialect),
                f"sink {self.sink!r}: looking at table {self.target.full_name}",
            )
        return self._table


class _SqlBlocks:
    """Makes columns of the table of rows, under the shard that writes them. Nothing waits."""

    def __init__(self, encoding: SqlEncoding) -> None:
        self._encoding = encoding
        self._sink = encoding.sink
        self._target = encoding.target
        self._looked_again = False
        self._next_shard = random.randrange(encoding.target.shards)

    def of_rows(self, rows: Sequence[Any]) -> list[PlacedBlock]:
        return self._sharded(lambda table: table.block_of_rows(rows, self._sink))

    def of_records(self, fields: Sequence[Any]) -> list[PlacedBlock]:
        return self._sharded(lambda table: table.block_of_records(fields, self._sink))

    def of_batch(self, batch: pa.RecordBatch) -> list[PlacedBlock]:
        return self._sharded(lambda table: table.block_of_batch(batch, self._sink))

    def rest(self) -> list[PlacedBlock]:
        return []

    def _sharded(self, block_of: Callable[[SqlTable], pa.RecordBatch]) -> list[PlacedBlock]:
        try:
            batch = block_of(self._encoding.table())
        except ConfigurationError:
            if self._looked_again:
                raise
            self._looked_again = True
            batch = block_of(self._encoding.table(anew=True))  # it may have changed since
        if self._target.mode == "upsert":
            refuse_equal_keys(batch, self._target, self._sink)
            if self._target.shards > 1:
                return list(by_shard(batch, shards_of(batch, self._target.key_columns, self._target.shards)))
        elif self._target.direct and self._target.shards > 1:
            return list(by_shard(batch, shards_by_content(batch, self._target.shards)))
        self._next_shard = (self._next_shard + 1) % self._target.shards
        return [(self._next_shard, batch)]


class SqlShards(ShardWriter):
    """Writes a shard's rows and its mark in one transaction, the mark first: who comes second waits, and then sees it."""

    def __init__(self, sink: str, database: SqlDatabase, target: SqlTarget) -> None:
        self.shards = target.shards
        self.where = f"sink {sink!r}, table {target.full_name}"
        self._sink = sink
        self._database = database
        self._target = target

    def write(self, write: ShardWrite) -> None:
        """Write the rows unless their mark says that they are there."""
        self._database.transact(
            lambda connection: self._write(connection, write),
            f"sink {self._sink!r}: writing batch {write.batch_id} to table {self._target.full_name}",
        )

    def _write(self, connection: sa.Connection, write: ShardWrite) -> None:
        marks, key = self._marks, (write.stream_id, self._sink, write.shard)
        found = marks.locked(connection, key)
        if write.is_to_write(found):
            marks.set(connection, key, found, write.mark())
            write_rows(connection, self._target, write.rows(), self._sink)

    def check_place(self) -> None:
        """Prove, without writing a row, that rows can be written."""
        self._database.transact(self._try_table, f"sink {self._sink!r}: trying table {self._target.full_name}")

    def prepare(self, stream_id: str) -> None:
        """Create the table of marks where there is none."""
        self._marks.ensure(self._database)

    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        """Prove, without writing, that marks can be written, and that the sink is not ahead."""
        if not self._marks.is_visible(self._database):
            raise SinkBehind(
                f"sink {self._sink!r}, table {self._target.full_name}: the table of marks is gone, so nothing says which batches "
                "the table holds. Restore both, or start a new checkpoint_location with Start.from_checkpoint(…) at the last "
                "batch that it holds."
            )
        newest = self._database.transact(
            lambda connection: self._try_marks(connection, stream_id), f"sink {self._sink!r}: trying the table of marks"
        )
        if newest is not None and newest >= next_batch_id:
            raise SinkAhead(
                f"sink {self._sink!r}, table {self._target.full_name}, holds batch {newest} of this stream, while the next "
                f"batch of the checkpoint is {next_batch_id}: the checkpoint was restored from an older copy, and would "
                "write again what is there. Restore the newest checkpoint, or start a new one with Start.from_checkpoint(…)."
            )

    @property
    def _marks(self) -> SqlMarks:
        return SqlMarks(self._target.marks_schema or self._target.table_schema)

    def _try_table(self, connection: sa.Connection) -> None:
        table = reflected(connection, self._target, self._database.dialect)
        connection.execute(writes_nothing(self._target, table.schema.names, self._database.dialect))
        connection.rollback()

    def _try_marks(self, connection: sa.Connection, stream_id: str) -> int | None:
        newest = self._marks.newest_batch_id(connection, stream_id, self._sink)
        key = (stream_id, self._sink, -1)
        self._marks.set(connection, key, self._marks.locked(connection, key), Attempt(0, 0, "trial"))
        connection.rollback()
        return newest
