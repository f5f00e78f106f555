"""The rows that a database refuses by themselves, and what is asked to find them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from beam_exactly_once.sinks.sql import refused, rows
from beam_exactly_once.sinks.sql.database import SqlDatabase
from beam_exactly_once.sinks.sql.target import SqlTarget


def test_whether_a_table_takes_copy_is_asked_once_for_all_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[SqlTarget] = []

    def takes_copy(connection: sa.Connection, target: SqlTarget) -> bool:
        asked.append(target)
        return False

    for module in (rows, refused):
        monkeypatch.setattr(module, "takes_copy", takes_copy)
    database = SqlDatabase(f"sqlite:///{tmp_path}/orders.db")
    target = SqlTarget("orders", None, None, "append", (), None, None, 1)
    batch = pa.record_batch({"id": range(20)})
    with sa.create_engine(f"sqlite:///{tmp_path}/orders.db").begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id INTEGER PRIMARY KEY CHECK (id NOT IN (3, 17)))")
        found = refused.refused_rows(database, connection, target, [batch])
    assert sorted(found) == [3, 17]
    assert asked == [target]
