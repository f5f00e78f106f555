"""Rows that PostgreSQL and MariaDB refuse after the commit, each in its own way, and no others are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once.errors import OutputNotWritable, RowsRefused
from support.command_line import run
from support.sql_stream import SqlStream

pytestmark = pytest.mark.runs_on("DirectRunner")

CANARY = "4111-1111"
ROWS: list[dict[str, Any]] = [{"id": 1, "name": "a"}, {"id": 2, "name": CANARY}]


@pytest.fixture
def stream(sql_variable: str, tmp_path: Path) -> Iterator[SqlStream]:
    stream = SqlStream(sql_variable, str(tmp_path / "checkpoint"))
    yield stream
    stream.execute("DROP TABLE IF EXISTS beam_exactly_once_receipts")


def rejected(stream: SqlStream) -> list[tuple[int, str, Any]]:
    checkpoint = stream.checkpoint()
    bodies = checkpoint.rejected("sql", 0, 0)
    return [(row["number"], row["reason"], row["row"]) for body in bodies for row in body["rows"]]


CHECKED = "CONSTRAINT no_cards CHECK (name NOT LIKE '4111%%')"
DEFERRED = """
CREATE FUNCTION refuse_{t}() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.name LIKE '4111%%' THEN RAISE EXCEPTION 'refused by our own rule'; END IF; RETURN NEW; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {t} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_{t}()
"""
TRIGGER = """
CREATE TRIGGER refuse_{t} BEFORE INSERT ON {t} FOR EACH ROW
IF NEW.name LIKE '4111%%' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused by our own rule'; END IF
"""


@pytest.mark.parametrize(
    ("mode", "why"),  # an upsert replaces the row that a duplicate is one of
    [("append", "check"), ("append", "unique"), ("append", "trigger"), ("upsert", "check"), ("upsert", "trigger")],
)
def test_a_row_that_is_refused_is_let_pass(stream: SqlStream, sql_variable: str, mode: str, why: str) -> None:
    """By a constraint, as a duplicate of a row of before, and by a trigger, in PostgreSQL when the transaction ends."""
    is_postgres = sql_variable == "POSTGRES_URL"
    stream.create("id BIGINT PRIMARY KEY, name VARCHAR(20)" + (f", {CHECKED}" if why == "check" else ""))
    if why == "trigger":
        stream.execute((DEFERRED if is_postgres else TRIGGER).format(t=stream.table))
    if why == "unique":
        stream.execute(f"INSERT INTO {stream.table} VALUES (2, 'was there')")
    stream.send_rows(ROWS)
    options: dict[str, Any] = {"mode": mode, "key_columns": ["id"]} if mode == "upsert" else {}
    with pytest.raises(RowsRefused, match=r"Of the 2 rows that batch 0 has .* 1 are refused") as raised:
        stream.run(**options)
    assert CANARY not in str(raised.value)
    assert run("resolve", stream.location, "--batch", 0, "--reject", "--yes").exit_code == 0
    stream.run(**options)
    ((number, reason, row),) = rejected(stream)
    assert (number, row) == (1, ROWS[1])
    assert CANARY not in reason
    assert stream.rows() == [(1, "a")] + ([(2, "was there")] if why == "unique" else [])


def test_a_table_that_takes_no_row_is_no_fault_of_rows(stream: SqlStream) -> None:
    """Neither before an operator let rows pass nor after it."""
    stream.create(f"id BIGINT PRIMARY KEY, name VARCHAR(20), {CHECKED}")
    stream.send_rows(ROWS)
    with pytest.raises(RowsRefused):
        stream.run()
    assert run("resolve", stream.location, "--batch", 0, "--reject", "--yes").exit_code == 0
    stream.execute(f"ALTER TABLE {stream.table} RENAME COLUMN name TO label")
    with pytest.raises(OutputNotWritable):
        stream.run(columns=["id", "label"])
    assert rejected(stream) == []
    stream.execute(f"ALTER TABLE {stream.table} RENAME COLUMN label TO name")
    stream.run()
    assert (stream.rows(), [number for number, *_ in rejected(stream)]) == ([(1, "a")], [1])
