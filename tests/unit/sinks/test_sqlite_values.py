"""A value of any type is in SQLite as it was, whatever the column, or is refused before the commit."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.sql_values import NUMBERS, VALUES, TableOfTypes, assert_same_or_refused

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=300)

DECLARED = [
    *(
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "BOOLEAN",
        "REAL",
        "DOUBLE PRECISION",
        "NUMERIC",
        "DECIMAL(30,10)",
        "NUMERIC(5,2)",
    ),
    *("TEXT", "VARCHAR(3)", "CHAR(3)", "BLOB", "DATE", "TIME", "DATETIME", "TIMESTAMP", "JSON"),
]


@pytest.fixture(scope="module")
def table() -> TableOfTypes:
    return TableOfTypes(sa.create_engine("sqlite://"), "sqlite", DECLARED)


@repeatable
@given(st.integers(0, len(DECLARED) - 1), VALUES)
def test_whatever_the_value_and_the_column(table: TableOfTypes, number: int, value: Any) -> None:
    assert_same_or_refused(table, number, value)


@repeatable
@given(st.sampled_from(["NUMERIC", "DECIMAL(30,10)", "JSON"]), NUMBERS)
@example("DECIMAL(30,10)", Decimal("9007199254740993"))
@example("NUMERIC", Decimal("9007199254740993.00"))
@example("NUMERIC", -9.297494192001171e-302)  # of whose text SQLite makes another number
@example("NUMERIC", Decimal(-(2**63)))
@example("JSON", 2**63)
@example("DECIMAL(30,10)", 3.2855043396846905e-179)  # of which Arrow makes another number
def test_sqlite_reads_and_rounds_no_number(table: TableOfTypes, declared: str, value: Any) -> None:
    assert_same_or_refused(table, DECLARED.index(declared), value)


@pytest.mark.parametrize("declared", ["NUMERIC", "DECIMAL(30,10)"])
@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (-(2**63), -(2**63)),
        (2**63 - 1, 2**63 - 1),
        (Decimal("9007199254740993.00"), 9007199254740993),
        (Decimal("0.10"), 0.1),
        ("1.5", 1.5),
        (1e19, 1e19),
    ],
    ids=repr,
)
def test_what_sqlite_keeps_is_taken(table: TableOfTypes, declared: str, value: Any, kept: float) -> None:
    assert table.through(DECLARED.index(declared), value) == kept
