"""What a database quotes of a row is in no message; the names of columns and constraints are."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest

from beam_exactly_once.sinks.sql.driver_errors import said_without_values

CARD = "4111-1111-1111-1111"


class OfPostgres(Exception):
    def __init__(self, state: str, primary: str, detail: str = "", **names: str) -> None:
        super().__init__(f"{primary}\nDETAIL:  {detail}")
        self.sqlstate = state
        fields = ("constraint_name", "column_name", "table_name", "context", "source_file")
        none: dict[str, Any] = dict.fromkeys(fields)
        self.diag = SimpleNamespace(message_primary=primary, **{**none, **names})


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            OfPostgres(
                "23514",
                'new row violates check "c"',
                f"Failing row contains ({CARD})",
                constraint_name="c",
                table_name="t",
            ),
            "SQLSTATE 23514, constraint c, table t",
        ),
        (OfPostgres("22P02", f'invalid input syntax for type integer: "{CARD}"'), "SQLSTATE 22P02"),
        (
            OfPostgres("23502", "null value", f"Failing row contains ({CARD})", column_name="x"),
            "SQLSTATE 23502, column x",
        ),
        (Exception(1062, f"Duplicate entry '{CARD}' for key 'PRIMARY'"), "error 1062, PRIMARY"),
        (
            Exception(1062, f"Duplicate entry 'key '{CARD[:4]}' x' for key 'orders.by_card'"),
            "error 1062, orders.by_card",
        ),
        (
            Exception(1366, f"Incorrect integer value: '{CARD}' for column `d`.`t`.`c` at row 1"),
            "error 1366, d`.`t`.`c",
        ),
        (Exception(1406, "Data too long for column 'name' at row 1"), "error 1406, name"),
        (Exception(1048, "Column 'name' cannot be null"), "error 1048, name"),
        (Exception(3819, "Check constraint 'no_cards' is violated."), "error 3819, no_cards"),
        (Exception(4025, "CONSTRAINT `no_cards` failed for `d`.`t`"), "error 4025, no_cards"),
        (
            Exception(
                1452, "a foreign key constraint fails (`d`.`t`, CONSTRAINT `of` FOREIGN KEY (`c`) REFERENCES `e`"
            ),
            "error 1452, of",
        ),
        (
            Exception(3140, f"Invalid JSON text: \"{CARD}\" at position 0 in value for column 't.c'."),
            "error 3140, t.c",
        ),
    ],
)
def test_an_error_about_a_row_names_column_and_constraint_alone(cause: Exception, said: str) -> None:
    assert said_without_values(cause) == said
    assert CARD not in said


NOT_TOLD = "its message is not shown, since it may hold a value of a row"
IN_FUNCTION = {"context": "PL/pgSQL function f() line 3 at EXECUTE"}
RAISED = {"context": "PL/pgSQL function f() line 3 at RAISE", "source_file": "pl_exec.c"}


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (OfPostgres("P0001", f"no {CARD}"), "SQLSTATE P0001"),
        (OfPostgres("P0001", "no", **{**RAISED, "column_name": CARD}), "SQLSTATE P0001"),
        (OfPostgres("42501", f"no {CARD}", **RAISED), "SQLSTATE 42501"),
        (OfPostgres("40001", f"no {CARD}", **RAISED), "SQLSTATE 40001"),
        (OfPostgres("42P01", f'relation "{CARD}" does not exist', **IN_FUNCTION), "SQLSTATE 42P01"),
        (OfPostgres("XX000", f"no {CARD}"), "SQLSTATE XX000"),
        (OfPostgres("0A000", f"no {CARD}"), "SQLSTATE 0A000"),
        (Exception(1644, CARD), "error 1644"),
        (Exception(1644, f"no column '{CARD[:4]}' at row 1"), "error 1644"),
        (Exception(1644, f"for key '{CARD[:4]}'"), "error 1644"),
        (Exception(1300, f"Invalid utf8mb4 character string: '{CARD}'"), "error 1300"),
        (Exception(3141, f'Invalid JSON text in argument 1 to function json_extract: "{CARD}"'), "error 3141"),
        (Exception(3156, f"Invalid JSON value for CAST to INTEGER from column {CARD} at row 1"), "error 3156"),
        (Exception(1292, f"Truncated incorrect DOUBLE value: 'column '{CARD[:4]}'"), "error 1292"),
        (Exception(1292, f"Truncated incorrect DOUBLE value: 'column '{CARD[:4]}' at row 1'"), "error 1292"),
        (Exception(1064, f"You have an error in your SQL syntax near '{CARD}'"), "error 1064"),
        (sqlite3.IntegrityError(f"no {CARD}"), "error 0"),
        (sqlite3.OperationalError(f"JSON path error near '{CARD}'"), "error 0"),
        (Exception(f"no {CARD}"), NOT_TOLD),
        (Exception({"C": "P0001", "M": CARD}), NOT_TOLD),
        (None, NOT_TOLD),
    ],
    ids=repr,
)
def test_what_is_not_known_to_hold_no_value_is_not_told(cause: Exception | None, said: str) -> None:
    assert said_without_values(cause) == said
    assert CARD[:4] not in said


def test_what_a_trigger_of_sqlite_says_is_not_told() -> None:
    """Newer ones may say a value."""
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE t (a TEXT)")
        connection.execute(f"CREATE TRIGGER r BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'locked {CARD}'); END")
        with pytest.raises(sqlite3.IntegrityError) as caught:
            connection.execute("INSERT INTO t VALUES ('a')")
    connection.close()
    assert CARD not in said_without_values(caught.value)


class OperationalError(Exception):
    """Of a driver."""


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (OfPostgres("42P01", 'relation "orders" does not exist'), 'relation "orders" does not exist'),
        (OfPostgres("42501", "permission denied for table t", **IN_FUNCTION), "permission denied for table t"),
        (OfPostgres("55P03", "canceling statement", context="while locking tuple"), "canceling statement"),
        (OfPostgres("42P10", "no unique constraint", source_file="plancat.c"), "no unique constraint"),
        (Exception(1146, "Table 'd.orders' doesn't exist"), "(1146, \"Table 'd.orders' doesn't exist\")"),
        (Exception(2003, "Can't connect"), '(2003, "Can\'t connect")'),
        (sqlite3.OperationalError("database is locked"), "database is locked"),
        (sqlite3.OperationalError("no such table: orders"), "no such table: orders"),
        (sqlite3.IntegrityError("UNIQUE constraint failed: orders.id"), "UNIQUE constraint failed: orders.id"),
        (
            OperationalError("connection failed: FATAL:  password\n\tIs it running?\nCONTEXT:  COPY t, line 1: 4111"),
            "connection failed: FATAL: password Is it running?",
        ),
    ],
    ids=repr,
)
def test_other_errors_are_told_as_they_are(cause: Exception, said: str) -> None:
    assert said_without_values(cause) == said
