"""What writes to the shards of ``WriteToSql``: a shard's rows and its receipt, in one transaction.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.errors import SinkAhead, SinkBehind
from beam_exactly_once.sinks.receipts import StagedReceipt, receipt_text
from beam_exactly_once.sinks.sql.database import SqlDatabase
from beam_exactly_once.sinks.sql.keys import has_one_shard
from beam_exactly_once.sinks.sql.receipts import SqlReceipts
from beam_exactly_once.sinks.sql.refused import refused_rows
from beam_exactly_once.sinks.sql.rows import prove_writing, write_rows
from beam_exactly_once.sinks.sql.table import reflected, refuse_engine
from beam_exactly_once.sinks.sql.target import SqlTarget
from beam_exactly_once.sinks.transactional import Delivery, TransactionalSink

_LOGGER = logging.getLogger(__name__)

_TRIAL = receipt_text(StagedReceipt(Attempt(0, 0, "trial")))
"""Is written at each start and rolled back, to see that receipts can be written."""


class SqlShards(TransactionalSink):
    """Writes a shard's rows and its receipt in one transaction, the receipt first: who comes second waits, and then sees it."""

    kind = "sql"

    def __init__(self, sink: str, database: SqlDatabase, target: SqlTarget) -> None:
        self.location = f"table {target.full_name}"
        self._sink = sink
        self._database = database
        self._target = target

    def write(self, delivery: Delivery) -> None:
        """Write the rows unless their receipt says that they are there."""
        self._database.transact(
            lambda connection: self._write(connection, delivery),
            f"sink {self._sink!r}: writing batch {delivery.batch_id} to {self.location}",
        )

    def _write(self, connection: sa.Connection, delivery: Delivery) -> None:
        receipts, key = self._receipts, (delivery.stream_id, delivery.sink, delivery.shard)
        found = receipts.locked(connection, key)
        if delivery.is_due(found):
            receipts.set(connection, key, found, delivery.receipt)
            write_rows(connection, self._target, delivery.rows())

    def find_refused(self, delivery: Delivery, decide: Callable[[Mapping[int, str]], None]) -> None:
        """Try the rows in savepoints, behind the lock of their receipt."""
        self._database.transact(
            lambda connection: self._find_refused(connection, delivery, decide),
            f"sink {self._sink!r}: trying the rows of batch {delivery.batch_id} in {self.location}",
        )

    def _find_refused(
        self, connection: sa.Connection, delivery: Delivery, decide: Callable[[Mapping[int, str]], None]
    ) -> None:
        found = self._receipts.locked(connection, (delivery.stream_id, delivery.sink, delivery.shard))
        if delivery.is_due(found):
            decide(refused_rows(self._database, connection, self._target, delivery.rows()))
        connection.rollback()

    def check_place(self) -> None:
        """Prove, without writing a row, that rows can be written."""
        self._database.transact(self._try_table, f"sink {self._sink!r}: trying {self.location}")

    def prepare(self, stream_id: str) -> None:
        """Create the table of receipts where there is none."""
        self._receipts.ensure(self._database)

    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        """Prove, without writing, that receipts can be written, and that the sink is not ahead."""
        if not self._receipts.is_visible(self._database):
            raise SinkBehind(
                f"sink {self._sink!r}, {self.location}: the table of receipts is gone, so nothing says which "
                "batches the table holds. Restore both, or start a new checkpoint_location with continue_from=CheckpointAt(…) at "
                "the last batch that it holds."
            )
        newest = self._database.transact(
            lambda connection: self._try_receipts(connection, stream_id),
            f"sink {self._sink!r}: trying the table of receipts",
        )
        if newest is not None and newest >= next_batch_id:
            raise SinkAhead(
                f"sink {self._sink!r}, {self.location}, holds batch {newest} of this stream, while the next "
                f"batch of the checkpoint is {next_batch_id}: the checkpoint was restored from an older copy, and would "
                "write again what is there. Restore the newest checkpoint, or start a new one with continue_from=CheckpointAt(…)."
            )

    @property
    def _receipts(self) -> SqlReceipts:
        return SqlReceipts(*self._target.receipts)

    def _try_table(self, connection: sa.Connection) -> None:
        table = reflected(connection, self._target, self._database.dialect)
        prove_writing(connection, self._target, table.schema)
        connection.rollback()
        if self._target.shards > 1 and has_one_shard(table.schema, self._target):
            _LOGGER.warning(
                "sink %r, %s: one shard writes all rows, not %s, since the collation of key_columns= may take any two texts for "
                "one key. Give a key column a collation that compares bytes, or name one that is no text.",
                self._sink,
                self.location,
                self._target.shards,
            )

    def _try_receipts(self, connection: sa.Connection, stream_id: str) -> int | None:
        if self._database.dialect == "mysql":
            refuse_engine(sa.inspect(connection), *self._target.receipts)
        newest = self._receipts.newest_batch_id(connection, stream_id, self._sink)
        key = (stream_id, self._sink, -1)
        self._receipts.set(connection, key, self._receipts.locked(connection, key), _TRIAL)
        connection.rollback()
        return newest
