"""Which errors of a database pass: its code says so, never a text or a name that is in its message."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa

from beam_exactly_once.errors import OutputNotWritable, SinkUnavailable
from beam_exactly_once.sinks.sql import database as sql_database
from beam_exactly_once.sinks.sql.database import SqlDatabase

TABLES = (
    "CREATE TABLE locked (busy INTEGER CONSTRAINT is_full CHECK (busy <> 1), id INTEGER UNIQUE)",
    "CREATE TRIGGER busy BEFORE INSERT ON locked WHEN NEW.busy = 2 "
    "BEGIN SELECT RAISE(ABORT, 'database is locked'); END",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "orders.db") as connection:
        for statement in TABLES:
            connection.execute(statement)
    connection.close()
    return tmp_path / "orders.db"


def transact(file: Path, statement: str) -> Any:
    work = lambda connection: connection.execute(sa.text(statement))  # noqa: E731
    return SqlDatabase(f"sqlite:///{file}").transact(work, "writing")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO locked VALUES (1, 1)",
        "INSERT INTO locked VALUES (2, 2)",
        "INSERT INTO locked VALUES (3, 3), (3, 3)",
        "INSERT INTO busy VALUES (1)",
        "INSERT INTO locked (is_full) VALUES (1)",
    ],
    ids=["check", "trigger", "unique", "no table", "no column"],
)
def test_names_and_texts_in_an_error_of_sqlite_do_not_make_it_pass(file: Path, statement: str) -> None:
    with pytest.raises(OutputNotWritable):
        transact(file, statement)


def test_a_lock_of_sqlite_passes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sql_database._CONNECT_ARGUMENTS, "pysqlite", {"timeout": 0})
    monkeypatch.setattr(sql_database, "MAX_TRIES", 1)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(SinkUnavailable, match="database is locked"):
            transact(file, "INSERT INTO locked VALUES (4, 4)")
    finally:
        other.close()


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (sqlite3.OperationalError("database is locked"), True),
        (sqlite3.OperationalError("database table is locked: orders"), True),
        (sqlite3.OperationalError("database or disk is full"), True),
        (sqlite3.OperationalError("disk I/O error"), True),
        (sqlite3.OperationalError("no such table: database is locked"), False),
        (sqlite3.OperationalError("no such column: busy"), False),
        (sqlite3.IntegrityError("database is locked"), False),
        (sqlite3.IntegrityError("CHECK constraint failed: busy"), False),
    ],
    ids=repr,
)
def test_python_without_codes_of_sqlite_knows_its_own_texts(file: Path, error: Exception, passes: bool) -> None:
    """Those that a program makes have no code, as all in Python 3.10."""
    assert not hasattr(error, "sqlite_errorcode")
    assert (SqlDatabase(f"sqlite:///{file}").refusal(error) is None) == passes


class OfPostgres(Exception):
    def __init__(self, state: str) -> None:
        super().__init__("connection lost: deadlock detected: database is locked")
        self.sqlstate = state


@pytest.mark.parametrize(
    ("url", "error", "passes"),
    [
        ("postgresql://localhost/orders", OfPostgres("23514"), False),
        ("postgresql://localhost/orders", OfPostgres("P0001"), False),
        ("postgresql://localhost/orders", OfPostgres("40P01"), True),
        ("mysql://localhost/orders", Exception(1644, "Lock wait timeout exceeded; error 1205"), False),
        ("mysql://localhost/orders", Exception(1205, "Lock wait timeout exceeded"), True),
    ],
)
def test_a_server_s_code_decides(url: str, error: Exception, passes: bool) -> None:
    assert (SqlDatabase(url).refusal(error) is None) == passes


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (pymysql.err.IntegrityError(1062, "Duplicate entry 'already closed' for key 'PRIMARY'"), False),
        (pymysql.err.OperationalError(1644, "connection was killed"), False),
        (pymysql.err.OperationalError(1927, "Connection was killed"), True),
        (pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query"), True),
        (pymysql.err.InterfaceError("Already closed"), True),
    ],
    ids=repr,
)
def test_a_text_of_a_row_is_no_lost_connection(error: Exception, is_lost: bool) -> None:
    """SQLAlchemy takes all of these for one."""
    engine = SqlDatabase("mysql://localhost/orders").engine
    context = SimpleNamespace(original_exception=error, is_disconnect=engine.dialect.is_disconnect(error, None, None))
    assert context.is_disconnect
    for listener in engine.dialect.dispatch.handle_error:
        listener(context)
    assert context.is_disconnect == is_lost
