"""A value of any type is in PostgreSQL and MariaDB as it was, whatever the column, or is refused before the commit."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_exactly_once import secret_from_env
from support.sql_values import VALUES, TableOfTypes, assert_same_or_refused

repeatable = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=600,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

BOTH = [
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "BOOLEAN",
    "NUMERIC(5,2)",
    "NUMERIC(30,10)",
    "VARCHAR(3)",
    "CHAR(3)",
    "TEXT",
    "DATE",
]
OF_DIALECT = {
    "postgresql": [
        *(
            "REAL",
            "DOUBLE PRECISION",
            "NUMERIC",
            "NUMERIC(5,-2)",
            "NUMERIC(2,5)",
            "NUMERIC(100,50)",
            "BYTEA",
            "UUID",
            "JSONB",
        ),
        *(
            "TIME",
            "TIME(0)",
            "TIMETZ",
            "TIMESTAMP",
            "TIMESTAMP(0)",
            "TIMESTAMPTZ",
            "TIMESTAMPTZ(3)",
            "INET",
            "INTEGER[]",
            "TEXT[]",
        ),
    ],
    "mysql": [
        *(
            "TINYINT",
            "MEDIUMINT UNSIGNED",
            "FLOAT",
            "DOUBLE",
            "DECIMAL(5,2) UNSIGNED",
            "BINARY(3)",
            "VARBINARY(3)",
            "BLOB",
            "TINYTEXT",
            "JSON",
        ),
        *("TIME", "TIME(6)", "DATETIME", "DATETIME(6)", "TIMESTAMP(3) NULL", "VARCHAR(3) CHARACTER SET latin1"),
    ],
}


@repeatable
@given(data=st.data())
def test_whatever_the_value_and_the_column(table: TableOfTypes, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(table.declared) - 1))
    value: Any = data.draw(VALUES)
    assert_same_or_refused(table, number, value)


@pytest.fixture
def table(sql_variable: str) -> TableOfTypes:
    dialect = "postgresql" if sql_variable == "POSTGRES_URL" else "mysql"
    engine = sa.create_engine(secret_from_env(sql_variable).resolve())
    return TableOfTypes(engine, dialect, [*BOTH, *OF_DIALECT[dialect]])
