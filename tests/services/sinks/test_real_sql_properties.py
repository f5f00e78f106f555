"""A value of any type is in PostgreSQL and MariaDB as it was, whatever the column, or is refused before the commit."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_exactly_once import secret_from_env
from beam_exactly_once.errors import UnfitRow
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


@pytest.mark.parametrize("sql_variable", ["mariadb"], indirect=True)
def test_a_row_that_fits_into_no_statement_is_found_before_the_commit(sql_variable: str) -> None:
    """A server of MySQL or MariaDB hangs up on a larger one, as if it were gone, at every start."""
    engine = sa.create_engine(secret_from_env(sql_variable).resolve())
    table = TableOfTypes(engine, "mysql", ["LONGTEXT", "LONGBLOB"])
    with engine.connect() as connection:
        max_bytes = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
    assert len(table.through(0, "x" * (max_bytes - 500))) == max_bytes - 500
    for number, value in ((0, "x" * max_bytes), (0, "'" * (max_bytes // 2)), (1, b"\0" * (max_bytes // 2))):
        with pytest.raises(UnfitRow, match=f"and the server takes {max_bytes} at most"):
            table.through(number, value)
