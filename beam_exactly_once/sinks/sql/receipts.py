"""The table of receipts: which batch a shard of a sink holds, in the database that holds the rows.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable

from beam_exactly_once.errors import OutputNotWritable, SinkUnavailable
from beam_exactly_once.sinks.receipts import Receipt, receipt_of, receipt_text
from beam_exactly_once.sinks.sql.database import SqlDatabase

ReceiptKey: TypeAlias = tuple[str, str, int]
"""Stream id, sink, shard."""

_NO_BATCH = {"writer_epoch": 0, "batch_id": -1, "nonce": ""}
"""Holds the place of a receipt that is being made; no committed transaction leaves it."""


class SqlReceipts:
    """The receipts in one table.

    Args:
        table: its name.
        namespace: of the table; None: the connection's own.
    """

    def __init__(self, table: str, namespace: str | None) -> None:
        # MySQL compares texts without case unless told otherwise, and keeps tables without transactions if told so.
        options: dict[str, Any] = {
            f"{dialect}_{option}": value
            for dialect in ("mysql", "mariadb")
            for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
        }
        self._table = sa.Table(
            table,
            sa.MetaData(),
            sa.Column("stream_id", sa.String(64), primary_key=True),
            sa.Column("sink", sa.String(100), primary_key=True),
            sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("writer_epoch", sa.BigInteger, nullable=False),
            sa.Column("batch_id", sa.BigInteger, nullable=False),
            sa.Column("nonce", sa.String(64), nullable=False),
            schema=namespace,
            **options,
        )

    def ensure(self, database: SqlDatabase) -> None:
        """Create the table unless it is there.

        Raises:
            OutputNotWritable: this user may not; the message has what to run.
            SinkUnavailable: the database does not answer.
        """
        if self.is_visible(database):
            return
        try:
            database.transact(self._table.create, f"creating the table {self._table.fullname}")
        except OutputNotWritable as error:
            if self.is_visible(database):  # another stream was faster
                return
            ddl = " ".join(str(CreateTable(self._table).compile(dialect=database.engine.dialect)).split())
            raise OutputNotWritable(
                f"{error} The table holds the sink's receipts; have it created, and grant SELECT, INSERT and UPDATE on it: {ddl}"
            ) from None

    def is_visible(self, database: SqlDatabase) -> bool:
        """Whether the table is there, for this user."""

        try:
            return database.transact(self.is_there, f"looking for the table {self._table.fullname}")
        except OutputNotWritable:  # MariaDB says so where others say that there is none
            return False

    def newest_batch_id(self, connection: sa.Connection, stream_id: str, sink: str) -> int | None:
        """The highest batch that any shard holds."""
        receipts = self._table.c
        of_sink = (receipts.stream_id == stream_id) & (receipts.sink == sink)
        found = connection.scalar(sa.select(sa.func.max(receipts.batch_id)).where(of_sink))
        return None if found is None else int(found)

    def is_there(self, connection: sa.Connection) -> bool:
        """Whether the table is there, for this connection."""
        return bool(sa.inspect(connection).has_table(self._table.name, self._table.schema))

    def of_sink(self, connection: sa.Connection, stream_id: str, sink: str) -> dict[int, Receipt]:
        """The receipts of all shards, as they are now; nothing is locked."""
        receipts = self._table.c
        of_sink = (receipts.stream_id == stream_id) & (receipts.sink == sink)
        stored = sa.select(receipts.shard, receipts.writer_epoch, receipts.batch_id, receipts.nonce).where(of_sink)
        return {int(found.shard): receipt_of(dict(found._mapping)) for found in connection.execute(stored)}

    def locked(self, connection: sa.Connection, key: ReceiptKey) -> str | None:
        """The text of the receipt, locked until the transaction ends. Where there is none, a placeholder is locked.

        The first statement of a transaction at READ COMMITTED: who waited for another's lock sees what that one committed.
        """
        found = connection.execute(self._select(key)).first()
        if found is None:
            connection.execute(self._placeholder(key, connection.dialect.name))
            found = connection.execute(self._select(key)).first()
        if found is None:
            raise SinkUnavailable(f"the receipt {key} vanished from {self._table.fullname} while it was made.")
        stored = dict(found._mapping)
        return None if stored == _NO_BATCH else receipt_text(receipt_of(stored))

    def set(self, connection: sa.Connection, key: ReceiptKey, found: str | None, receipt: str) -> None:
        """Replace the receipt that was found; compared once more, should a lock have been none."""
        update = self._table.update().where(self._is(key)).values(**orjson.loads(receipt))
        for name, value in (_NO_BATCH if found is None else orjson.loads(found)).items():
            update = update.where(self._table.c[name] == value)
        if connection.execute(update).rowcount != 1:
            raise SinkUnavailable(f"the receipt {key} of {self._table.fullname} changed although it was locked.")

    def _is(self, key: ReceiptKey) -> sa.ColumnElement[bool]:
        receipts = self._table.c
        return sa.and_(receipts.stream_id == key[0], receipts.sink == key[1], receipts.shard == key[2])

    def _select(self, key: ReceiptKey) -> sa.Select[Any]:
        receipts = self._table.c
        return (
            sa.select(receipts.writer_epoch, receipts.batch_id, receipts.nonce).where(self._is(key)).with_for_update()
        )

    def _placeholder(self, key: ReceiptKey, dialect: str) -> Any:
        """Waits for another transaction that makes the same receipt."""
        values = {"stream_id": key[0], "sink": key[1], "shard": key[2], **_NO_BATCH}
        if dialect == "postgresql":
            return postgresql.insert(self._table).values(values).on_conflict_do_nothing()
        if dialect == "sqlite":
            return sqlite.insert(self._table).values(values).on_conflict_do_nothing()
        return mysql.insert(self._table).values(values).on_duplicate_key_update(shard=self._table.c.shard)
