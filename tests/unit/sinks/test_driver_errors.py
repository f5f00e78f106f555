"""What a database quotes of a row is in no message; the names of columns and constraints are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from beam_exactly_once.sinks.sql.driver_errors import said_without_values

CARD = "4111-1111-1111-1111"


class OfPostgres(Exception):
    def __init__(self, state: str, primary: str, detail: str = "", **names: str) -> None:
        super().__init__(f"{primary}\nDETAIL:  {detail}")
        self.sqlstate = state
        none: dict[str, Any] = dict.fromkeys(("constraint_name", "column_name", "table_name"))
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
    ],
)
def test_an_error_about_a_row_names_column_and_constraint_alone(cause: Exception, said: str) -> None:
    assert said_without_values(cause) == said
    assert CARD not in said


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (OfPostgres("42P01", 'relation "orders" does not exist'), 'relation "orders" does not exist'),
        (Exception(1146, "Table 'd.orders' doesn't exist"), "(1146, \"Table 'd.orders' doesn't exist\")"),
        (Exception("database is locked."), "database is locked"),
    ],
)
def test_other_errors_are_told_as_they_are(cause: Exception, said: str) -> None:
    assert said_without_values(cause) == said
