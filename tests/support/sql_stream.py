"""A stream of JSON orders from Kafka in memory to a table, run again and again; and faults between its steps."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import apache_beam as beam
import sqlalchemy as sa

from beam_exactly_once import (
    Record,
    Secret,
    WriteToFiles,
    WriteToSql,
    secret_from_env,
)
from beam_exactly_once.sinks.sql import shards
from beam_exactly_once.sinks.sql.receipts import SqlReceipts
from support.stream_under_test import StreamUnderTest

STEPS = ["lock", "set", "rows", "commit"]
"""What a publisher does in a transaction, in order."""


def row_of(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(record.value)
    return row


class SqlStream(StreamUnderTest):
    """Orders to one table.

    Args:
        variable: of the environment, holds the URL.
        location: of the checkpoint.
        orders: the first that Kafka has.
    """

    def __init__(self, variable: str, location: str | None = None, orders: int = 0) -> None:
        super().__init__(location)
        self.url = secret_from_env(variable)
        self.engine = sa.create_engine(self.url.resolve(), poolclass=sa.NullPool)
        self.table = f"orders_{secrets.token_hex(4)}"
        self.send_rows({"id": number} for number in range(orders))

    def create(self, columns: str = "id BIGINT NOT NULL, name VARCHAR(20)", table: str | None = None) -> None:
        self.execute(f"CREATE TABLE {table or self.table} ({columns})")

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.begin() as connection:
            done = connection.exec_driver_sql(statement)
            return [tuple(row) for row in done] if done.returns_rows else []

    def send_rows(self, rows: Any) -> None:
        self.send(json.dumps(row).encode() for row in rows)

    def run(
        self,
        *,
        through: beam.PTransform[Any, Any] | None = None,
        second_table: str | None = None,
        url: Secret | str | None = None,
        rejected: Path | None = None,
        **options: Any,
    ) -> None:
        url = self.url if url is None else url

        def build(records: beam.PCollection[Record]) -> None:
            rows = records | "FromJson" >> beam.Map(row_of)
            rows = rows if through is None else rows | "Through" >> through
            if rejected is None:
                _ = rows | WriteToSql(url, self.table, **options)
            else:
                unfit = rows | WriteToSql(url, self.table, on_error="reject", **options)
                _ = unfit | "Rejected" >> WriteToFiles(str(rejected), name="rejected")
            if second_table is not None:
                _ = rows | "Second" >> WriteToSql(url, second_table, name="second")

        self.run_with(build)

    def rows(self, columns: str = "id, name") -> list[tuple[Any, ...]]:
        return self.execute(f"SELECT {columns} FROM {self.table} ORDER BY 1")

    def ids(self, table: str | None = None) -> list[int]:
        return [row[0] for row in self.execute(f"SELECT id FROM {table or self.table} ORDER BY id")]


@contextlib.contextmanager
def at_step(step: str, occurrence: int, act: Callable[[], None]) -> Iterator[None]:
    """Does ``act`` right after the chosen step of a publisher, the time that is named, counted from 1. Trials do not count."""
    seen = 0

    def after(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == occurrence:
            act()

    locked, set_receipt, write_rows, write = (
        SqlReceipts.locked,
        SqlReceipts.set,
        shards.write_rows,
        shards.SqlShards.write,
    )

    def locking(receipts: SqlReceipts, connection: Any, key: Any) -> Any:
        found = locked(receipts, connection, key)
        if step == "lock" and key[2] >= 0:
            after()
        return found

    def setting(receipts: SqlReceipts, connection: Any, key: Any, *rest: Any) -> None:
        set_receipt(receipts, connection, key, *rest)
        if step == "set" and key[2] >= 0:
            after()

    def writing(*arguments: Any) -> None:
        write_rows(*arguments)
        if step == "rows":
            after()

    def publishing(writer: Any, one: Any) -> None:
        write(writer, one)
        if step == "commit":
            after()

    with (
        mock.patch.object(SqlReceipts, "locked", locking),
        mock.patch.object(SqlReceipts, "set", setting),
        mock.patch.object(shards, "write_rows", writing),
        mock.patch.object(shards.SqlShards, "write", publishing),
    ):
        yield


def main(arguments: Sequence[str]) -> None:
    """A life of a stream in a process of its own, which dies or freezes at a step: variable, checkpoint, table, orders, step,
    occurrence, signal."""
    variable, checkpoint, table, orders, step, occurrence, number = arguments
    stream = SqlStream(variable, checkpoint, int(orders))
    stream.table = table
    with at_step(step, int(occurrence), lambda: os.kill(os.getpid(), signal.Signals[number])):
        stream.run()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    main(sys.argv[1:])
