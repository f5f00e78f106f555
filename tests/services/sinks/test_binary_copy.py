"""What PostgreSQL keeps of binary COPY: each value as it was, in domains and enumerations too. Other types go as text."""

from __future__ import annotations

import datetime
import secrets
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
import sqlalchemy as sa

from beam_exactly_once.sinks.sql import rows
from beam_exactly_once.sinks.sql.table import reflected
from beam_exactly_once.sinks.sql.target import SqlTarget
from support.sql_stream import SqlStream

on_postgres = pytest.mark.parametrize("sql_variable", ["postgres"], indirect=True)

UTC = datetime.timezone.utc
FIRST, LAST = datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)
INTEGERS = {"SMALLINT": 15, "INTEGER": 31, "BIGINT": 63}
KNOWN: list[tuple[str, list[Any]]] = [
    *((name, [0, 2**bits - 1, -(2**bits)]) for name, bits in INTEGERS.items()),
    ("BOOLEAN", [True, False]),
    ("REAL", [0.5, -1.5, float("inf")]),
    ("DOUBLE PRECISION", [0.1, 5e-324, -1.7976931348623157e308, float("-inf")]),
    ("NUMERIC(5,2)", [Decimal("999.99"), Decimal("-0.01"), Decimal("0.00")]),
    ("NUMERIC(38,0)", [Decimal(10**38 - 1), Decimal(1 - 10**38)]),
    ("NUMERIC(38,37)", [Decimal("9.9999999999999999999999999999999999999"), Decimal("-1e-37")]),
    ("TEXT", ["", "tab\t, newline\n, \\N, \\., ' and Ü €"]),
    ("VARCHAR(3)", ["ü12"]),
    ("BYTEA", [b"", b"\x00\xff\\x"]),
    ("DATE", [FIRST.date(), LAST.date(), datetime.date(1999, 12, 31)]),
    ("TIME", [datetime.time(), datetime.time(23, 59, 59, 999999)]),
    ("TIMESTAMP", [FIRST, LAST, datetime.datetime(1999, 12, 31, 23, 59, 59, 999999)]),
    ("TIMESTAMPTZ", [FIRST.replace(tzinfo=UTC), LAST.replace(tzinfo=UTC)]),
    ("JSON", [{"a": [1, None, "ü"]}]),
    ("JSONB", [{"a": [1, None, "ü"]}, 1.5]),
    ("UUID", [uuid.UUID(int=10)]),
    ("positive", [1, 2**31 - 1]),
    ("colour", ["red", "grün"]),
]


@pytest.fixture
def stream(sql_variable: str) -> Iterator[SqlStream]:
    """With types of its own in a namespace of its own."""
    stream = SqlStream(sql_variable)
    namespace = f"of_{secrets.token_hex(4)}"
    stream.execute(f"CREATE SCHEMA {namespace}")
    stream.execute(f"CREATE DOMAIN {namespace}.positive AS INTEGER CHECK (VALUE > 0)")
    stream.execute(f"CREATE TYPE {namespace}.colour AS ENUM ('red', 'grün')")
    stream.table = f"{namespace}.orders"
    yield stream
    stream.execute(f"DROP SCHEMA {namespace} CASCADE")


def written(stream: SqlStream, declared: str, values: list[Any]) -> tuple[int, list[Any]]:
    """How often batches, joined, went in binary form, and what the table has in the end."""
    namespace, table = stream.table.split(".")
    own = f"{namespace}.{declared}" if declared in ("positive", "colour") else declared
    stream.create(f"id BIGINT PRIMARY KEY, v {own}")
    target = SqlTarget(table, namespace, None, "append", (), None, None, 1)
    given = [{"id": number, "v": value} for number, value in enumerate([None, *values, None])]
    with (
        mock.patch.object(rows, "binary_rows", wraps=rows.binary_rows) as in_binary,
        stream.engine.begin() as connection,
    ):
        found = reflected(connection, target, "postgresql")
        rows.prove_writing(connection, target, found.schema)
        assert not in_binary.called
        block = found.block_of_rows(given)
        rows.write_rows(connection, target, [block.slice(0, 2), block.slice(2)])
    return in_binary.call_count, [value for (value,) in stream.execute(f"SELECT v FROM {stream.table} ORDER BY id")]


@on_postgres
@pytest.mark.parametrize(("declared", "values"), KNOWN, ids=[name for name, _ in KNOWN])
def test_what_was_written_is_there(stream: SqlStream, declared: str, values: list[Any]) -> None:
    assert written(stream, declared, values) == (1, [None, *values, None])


@on_postgres
@pytest.mark.parametrize(("declared", "values"), [("NUMERIC", [Decimal("1.500")]), ("INTEGER[]", [[1, None, 3]])])
def test_other_types_go_as_text(stream: SqlStream, declared: str, values: list[Any]) -> None:
    assert written(stream, declared, values) == (0, [None, *values, None])


@on_postgres
def test_a_column_whose_type_changed_since_rows_were_staged_goes_as_text(stream: SqlStream) -> None:
    namespace, table = stream.table.split(".")
    stream.create("id INTEGER")
    target = SqlTarget(table, namespace, None, "append", (), None, None, 1)
    with stream.engine.begin() as connection:
        block = reflected(connection, target, "postgresql").block_of_batch(
            pa.record_batch({"id": pa.array([1], pa.int16())})
        )
        connection.execute(sa.text(f"ALTER TABLE {stream.table} ALTER COLUMN id TYPE BIGINT"))
        rows.write_rows(connection, target, [block])
    assert stream.ids() == [1]
