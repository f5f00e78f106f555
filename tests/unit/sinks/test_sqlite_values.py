"""A value of any type is in SQLite as it was, whatever the column, or is refused before the commit."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from support.sql_values import VALUES, TableOfTypes, assert_same_or_refused

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
