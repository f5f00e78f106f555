"""Values of every type in tables of PostgreSQL and MariaDB: what fits arrives as it is, the rest is found before a commit."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once.errors import OutputNotWritable
from support.rejected_rows import rejected_in
from support.sql_stream import SqlStream

pytestmark = pytest.mark.runs_on("DirectRunner")

KEYED = "id BIGINT PRIMARY KEY, name VARCHAR(20)"
UPSERT: dict[str, Any] = {"mode": "upsert", "key_columns": ["id"]}


@pytest.fixture
def stream(sql_variable: str, tmp_path: Path) -> Iterator[SqlStream]:
    stream = SqlStream(sql_variable, str(tmp_path / "checkpoint"))
    yield stream
    stream.execute("DROP TABLE IF EXISTS beam_exactly_once_receipts")


def orders(*numbers: int) -> list[dict[str, int]]:
    return [{"id": number} for number in numbers]


EAST = datetime.timezone(datetime.timedelta(hours=2))
MOMENT = datetime.datetime(2026, 2, 28, 23, 59, 59, 123456)
TYPES: list[tuple[str, str, Any, Any]] = [
    ("SMALLINT", "SMALLINT", -7, -7),
    ("BIGINT", "BIGINT", 2**62, 2**62),
    ("BOOLEAN", "BOOLEAN", True, True),
    ("DOUBLE PRECISION", "DOUBLE", 0.1, 0.1),
    ("NUMERIC(20,4)", "DECIMAL(20,4)", 0.5, Decimal("0.5000")),
    (
        "NUMERIC(38,2)",
        "DECIMAL(38,2)",
        "123456789012345678901234567890.12",
        Decimal("123456789012345678901234567890.12"),
    ),
    ("TEXT", "TEXT", "tab\t, newline\n, \\N, \\., ' and Ü €", "tab\t, newline\n, \\N, \\., ' and Ü €"),
    ("VARCHAR(3)", "VARCHAR(3)", b"\xc3\xbc12", "ü12"),
    ("BYTEA", "BLOB", b"\x00\xff\\x", b"\x00\xff\\x"),
    ("DATE", "DATE", "2026-02-28", MOMENT.date()),
    ("TIMESTAMP", "DATETIME(6)", MOMENT.isoformat(), MOMENT),
    ("TIMESTAMP", "TIMESTAMP(6) NULL", f"{MOMENT.isoformat()}Z", MOMENT),
    ("TIME", "TIME", datetime.time(1, 2, 3), None),
]
POSTGRES_ONLY: list[tuple[str, str, Any, Any]] = [
    ("NUMERIC", "", "1.500", Decimal("1.500")),
    ("TIMESTAMPTZ", "", f"{MOMENT.isoformat()}+02:00", MOMENT.replace(tzinfo=EAST)),
    ("JSONB", "", {"a": [1, None, "ü"]}, {"a": [1, None, "ü"]}),
    ("UUID", "", "00000000-0000-0000-0000-00000000000A", uuid.UUID(int=10)),
    ("INTEGER[]", "", [1, None, 3], [1, None, 3]),
    ("INET", "", "10.0.0.1", None),
]


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_values_of_every_type(stream: SqlStream, sql_variable: str, mode: str) -> None:
    is_postgres = sql_variable == "POSTGRES_URL"
    types = TYPES + (POSTGRES_ONLY if is_postgres else [])
    declared = [f"c{number} {one[0] if is_postgres else one[1]}" for number, one in enumerate(types)]
    stream.create(f"id BIGINT PRIMARY KEY, {', '.join(declared)}")
    given = {f"c{number}": one[2] for number, one in enumerate(types)}
    stream.send_rows(orders(1, 2, 3))
    options = UPSERT if mode == "upsert" else {}
    stream.run(through=beam.Map(lambda row: {**given, **row} if row["id"] != 2 else row), **options)
    for number, (*_, expected) in enumerate(types):
        first, second, third = (row[1] for row in stream.rows(f"id, c{number}"))
        assert (second, third) == (None, first)
        if expected is not None:
            assert first == expected, declared[number]


MISFITS: list[tuple[str, str, Any, Any]] = [
    ("SMALLINT", "SMALLINT", 7, 40_000),
    ("BOOLEAN", "BOOLEAN", True, "yes"),
    ("REAL", "FLOAT", 0.5, 1e39),
    ("DOUBLE PRECISION", "DOUBLE", 0.5, "0.5"),
    ("NUMERIC(5,2)", "DECIMAL(5,2)", "1.25", "1000.25"),
    ("NUMERIC(5,2)", "DECIMAL(5,2)", "1.25", "1.255"),
    ("VARCHAR(3)", "VARCHAR(3)", "abc", "abcd"),
    ("CHAR(3)", "CHAR(3)", "abc", "abcd"),
    ("TEXT", "TINYTEXT", "abc", 7),
    ("BYTEA", "VARBINARY(3)", b"abc", 7),
    ("DATE", "DATE", "2026-02-28", "2026-02-29"),
    ("TIMESTAMP", "DATETIME(6)", "2026-02-28T01:02:03", "yesterday"),
    ("TIME", "TIME", "01:02:03", "25:00:00"),
    ("JSONB", "JSON", {"a": "\U0001f600"}, {1, 2}),
]


def nested(depth: int) -> Any:
    return [] if depth == 1 else [nested(depth - 1)]


MISFITS_OF: dict[str, list[tuple[str, Any, Any]]] = {
    "POSTGRES_URL": [
        ("TEXT", "a", "a\0b"),
        ("JSONB", {"a": "b"}, {"a": ["b\0"]}),
        ("JSONB", {"a": "\\u0000"}, {"\0": 1}),
        ("UUID", "00000000-0000-0000-0000-00000000000A", "00000000"),
        ("INTEGER[]", [1, 2], [1, "two"]),
        ("JSONB", {"a": 1}, {"a": Decimal("1e200000")}),
        ("NUMERIC", "1e131071", "1e131072"),
        ("NUMERIC(100,50)", "0." + "0" * 49 + "1", "0." + "0" * 50 + "1"),
        ("CHAR(3)", "abc", "ab "),
        ("NUMERIC", "1e-16383", "1e-16384"),
        ("NUMERIC(2,5)", "0.00099", "0.00100"),
        ("NUMERIC(5,-2)", "9999900", "99999950"),
        ("NUMERIC(5,-2)", "100", "150"),
        ("NUMERIC(90,2)", "1e87", "1e88"),
        ("NUMERIC(90,2)", "0.01", "0.001"),
        ("REAL", 1e-40, 1e-60),
        ("REAL", 3.4028235e38, 3.4028236e38),
        ("REAL", float("inf"), 3.5e38),
        ("REAL[]", [0.5], [1e39]),
        ("INET", "10.0.0.1/8", "10.0.0.256"),
        ("INET", "::1", "::1/129"),
        ("INET", "fe80::1", "fe80::1%eth0"),
        ("INET", "10.0.0.1", "10.0.0.1/255.0.0.0"),
        ("CIDR", "2001:db8::/32", "10.0.0.1/8"),
        ("MACADDR", "08:00:2b:01:02:03", "08:00:2b:01:02"),
        ("MACADDR", "08002b:010203", "08002b01-0203"),
        ("MACADDR", "0800.2b01.0203", "0800.2b01-0203"),
    ],
    "MARIADB_URL": [
        ("TINYTEXT", "a", "a" * 256),
        ("VARBINARY(3)", b"abc", b"abcd"),
        ("BINARY(3)", b"abc", b"ab"),
        ("CHAR(3)", "abc", "ab "),
        ("TIMESTAMP NULL", "2026-02-28T01:02:03", "2040-01-01T00:00:00"),
        ("ENUM('a', 'b')", "a", "c"),
        ("DOUBLE", 0.5, float("nan")),
        ("INTEGER UNSIGNED", 2**32 - 1, -1),
        ("MEDIUMINT", -(2**23), 2**23),
        ("MEDIUMINT UNSIGNED", 2**24 - 1, 2**24),
        ("FLOAT", 3.402823e38, 3.4028235e38),
        ("FLOAT UNSIGNED", 1.0, -1.0),
        ("FLOAT(5,2)", 999.99, 999.996),
        ("DOUBLE(5,2)", -999.99, -1000.0),
        ("DECIMAL(5,2) UNSIGNED", "1", "-1"),
        ("JSON", '{"a": 1e400}', "hello"),
        ("JSON", '"hello"', ""),
        ("JSON", 12, '"\\ud800"'),
        ("JSON", nested(31), nested(32)),
        ("JSON", {"a": Decimal("1e400")}, json.dumps(nested(32))),
        ("JSON", "[" * 31 + "]" * 31, {"a": [nested(31)[0]]}),
        ("SET('a', 'b')", "a,b", "a,c"),
        ("VARCHAR(3) CHARACTER SET latin1", "€\x81ÿ", "\u0416"),
        ("VARCHAR(3) CHARACTER SET ascii", "a", "ü"),
        ("VARCHAR(3) CHARACTER SET latin2", "ř", "ñ"),
        ("VARCHAR(3) CHARACTER SET greek", "Ω", "ř"),
        ("VARCHAR(3) CHARACTER SET sjis", "あ", "ñ"),
        ("VARCHAR(3) CHARACTER SET ujis", "語", "\U0001f600"),
        ("ENUM('ř') CHARACTER SET latin2", "ř", "ñ"),
        ("TEXT CHARACTER SET utf8mb3", "\uffff", "\U0001f600"),
    ],
}


def test_values_that_do_not_fit_are_rejected_before_the_database_sees_them(
    stream: SqlStream, sql_variable: str, tmp_path: Path
) -> None:
    """Of every type. What only the database found would stop the stream."""
    is_postgres = sql_variable == "POSTGRES_URL"
    values = [(one[0] if is_postgres else one[1], *one[2:]) for one in MISFITS] + MISFITS_OF[sql_variable]
    stream.create(f"id BIGINT, {', '.join(f'c{number} {one[0]}' for number, one in enumerate(values))}")
    stream.send_rows(orders(*range(2 * len(values))))

    def through(row: dict[str, Any]) -> dict[str, Any]:
        number, is_misfit = divmod(row["id"], 2)
        return {**row, f"c{number}": values[number][1 + is_misfit]}

    stream.run(through=beam.Map(through), rejected=tmp_path / "bad")
    found = stream.execute(f"SELECT * FROM {stream.table} ORDER BY id")
    assert [row[0] for row in found] == list(range(0, 2 * len(values), 2))
    assert [[column is not None for column in row[1:]].index(True) for row in found] == list(range(len(values)))
    rejected = rejected_in(tmp_path / "bad", "step", "reason", "row")
    assert [len(batch) for batch in rejected] == [1] * len(values)
    for number, ((step, reason, shown),) in enumerate(rejected):
        assert step == "sql"
        assert f"column 'c{number}'" in reason
        assert f"'id': {2 * number + 1}" in shown


def test_a_text_that_only_the_database_would_refuse_is_found_before_the_commit(stream: SqlStream) -> None:
    stream.create()
    stream.send_rows([{"id": 1, "name": "x" * 21}])
    with pytest.raises(Exception, match="21 characters, the column takes 20"):
        stream.run()
    assert list(stream.store().list("commits/")) == []


def test_a_constraint_refuses_after_the_commit_until_the_table_is_changed(stream: SqlStream) -> None:
    stream.create(KEYED)
    stream.send_rows(orders(0, 1, 2, 2))
    with pytest.raises(OutputNotWritable, match=r"(23505|1062).*Nothing of this transaction was written"):
        stream.run()
    assert stream.ids() == [0, 1]
    stream.execute(f"ALTER TABLE {stream.table} ADD COLUMN number INTEGER")
    with pytest.raises(OutputNotWritable, match=r"23505|1062"):
        stream.run()
    stream.run(**UPSERT, newest_by="id")
    assert stream.ids() == [0, 1, 2]
