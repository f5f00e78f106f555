"""How large a statement is that writes a row, against the one that PyMySQL makes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysql import converters
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql

from beam_exactly_once.sinks.sql.rows import insert_statement
from beam_exactly_once.sinks.sql.statements import larger_than
from beam_exactly_once.sinks.sql.target import SqlTarget

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("ü", pa.binary()), ("price", pa.decimal256(65, 30))])
TARGET = SqlTarget("t" * 64, None, None, "upsert", ("id",), None, None, 1)
HOSTILE = "'\"\\\0\n\r\x1aaü\U0001f600"
ROWS = st.fixed_dictionaries(
    {
        "id": st.none() | st.integers(-(2**63), 2**63 - 1),
        "name": st.none() | st.text(HOSTILE, max_size=400),
        "ü": st.none() | st.binary(max_size=60) | st.text(HOSTILE, max_size=400).map(str.encode),
        "price": st.none() | st.decimals(-(10**34), 10**34, allow_nan=False, places=30),
    }
)


def escaped(value: Any) -> str:
    if isinstance(value, bytes):
        return f"_binary{escaped(value.decode('ascii', 'surrogateescape'))}"
    return f"'{converters.escape_string(value)}'" if isinstance(value, str) else "NULL" if value is None else str(value)


dialect: Any = MySQLDialect_pymysql()
STATEMENT = str(insert_statement(TARGET, SCHEMA.names, "mysql").compile(dialect=dialect))


def bytes_of(row: dict[str, Any]) -> int:
    """What PyMySQL sends, and one byte that says what it is."""
    return 1 + len((STATEMENT % tuple(map(escaped, row.values()))).encode("utf-8", "surrogateescape"))


@given(st.lists(ROWS, min_size=1, max_size=3), st.integers(400, 3000))
def test_a_row_that_passes_fits(rows: list[dict[str, Any]], max_bytes: int) -> None:
    batch = pa.RecordBatch.from_pylist(rows, SCHEMA)
    assert larger_than(batch, max_bytes) is not None or max(map(bytes_of, rows)) <= max_bytes


@pytest.mark.parametrize("text", ["x" * 9000, "'" * 4500])
def test_the_largest_row_passes_but_for_a_little(text: str) -> None:
    batch = pa.RecordBatch.from_pylist([{"id": 1}, {"id": 2, "name": text}, {"id": 3}], SCHEMA)
    assert larger_than(batch, 9700) is None
    needed = larger_than(batch, 9000)
    assert needed is not None
    assert 9000 < needed <= 9700
