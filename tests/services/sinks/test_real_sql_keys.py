"""Keys of an upsert on PostgreSQL and MariaDB: those that are one to the database are of one shard, and no row vanishes."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once.errors import ConfigurationError
from support.sql_stream import SqlStream

pytestmark = pytest.mark.runs_on("DirectRunner")

MOMENT = datetime.datetime(2026, 2, 28, 23, 59, 59, 123456)
SHARDS = 5
POSTGRES: dict[str, tuple[list[str], list[list[str]]]] = {
    "a column's collation": (
        ['CREATE TABLE {table} (name TEXT COLLATE "letters_alone" PRIMARY KEY, version INTEGER)'],
        [["Straße", "STRASSE"], ["b"]],
    ),
    "an index's collation": (
        [
            "CREATE TABLE {table} (name TEXT NOT NULL, version INTEGER)",
            'CREATE UNIQUE INDEX ON {table} (name COLLATE "letters_alone")',
        ],
        [["a", "A"], ["b"]],
    ),
    "a domain's collation": (
        [
            'CREATE DOMAIN of_{table} AS TEXT COLLATE "letters_alone"',
            "CREATE TABLE {table} (name of_{table} PRIMARY KEY, version INTEGER)",
        ],
        [["a", "A"], ["b"]],
    ),
    "citext": (
        [
            "CREATE EXTENSION IF NOT EXISTS citext",
            "CREATE DOMAIN of_{table} AS CITEXT",
            "CREATE TABLE {table} (name of_{table} PRIMARY KEY, version INTEGER)",
        ],
        [["a", "A"], ["b"]],
    ),
}
MARIADB = {
    "case, accents, spaces": ("VARCHAR(20) COLLATE utf8mb4_general_ci", [["a", "A", "á", "a "], ["b"]]),
    "letters and emoji": ("VARCHAR(20) COLLATE utf8mb4_general_ci", [["s", "ß"], ["\U0001f600", "\U0001f4a9"]]),
    "digits and controls": ("VARCHAR(20) COLLATE utf8mb4_unicode_ci", [["1", "\u0661"], ["a", "\x01a"]]),
    "a table's default": ("VARCHAR(20)", [["[", "Å", "å"], ["A"]]),
    "bytes": ("VARCHAR(20) COLLATE utf8mb4_bin", [["a", "a  "], ["A"], ["á"]]),
}
CASES = [
    *(pytest.param("postgres", *POSTGRES[case], id=case) for case in POSTGRES),
    *(
        pytest.param(
            "mariadb",
            [f"CREATE TABLE {{table}} (name {declared} PRIMARY KEY, version INTEGER) CHARSET latin1"],
            keys,
            id=case,
        )
        for case, (declared, keys) in MARIADB.items()
    ),
]


@pytest.fixture
def stream(sql_variable: str, tmp_path: Path) -> Iterator[SqlStream]:
    stream = SqlStream(sql_variable, str(tmp_path / "checkpoint"))
    if sql_variable == "POSTGRES_URL":
        stream.execute(
            "CREATE COLLATION IF NOT EXISTS letters_alone (provider = icu, locale = 'und-u-ks-level1', deterministic = false)"
        )
    yield stream
    stream.execute("DROP TABLE IF EXISTS beam_exactly_once_receipts")


@pytest.mark.parametrize(("sql_variable", "statements", "keys"), CASES, indirect=["sql_variable"])
def test_keys_that_are_one_to_the_database_alone(
    stream: SqlStream, statements: list[str], keys: list[list[str]]
) -> None:
    """However many shards there are: without a word none of them vanishes, and the newest of them is written last."""
    for statement in statements:
        stream.execute(statement.replace("{table}", stream.table))
    names = [name for of_one in keys for name in of_one]
    batch = pa.RecordBatch.from_pylist([{"name": name, "version": number} for number, name in enumerate(names)])
    stream.send_rows([0])
    upsert: dict[str, Any] = {"mode": "upsert", "key_columns": ["name"], "shards": SHARDS}
    with pytest.raises(ConfigurationError, match=r"different keys \(name\) in one batch, which are . to the database"):
        stream.run(through=beam.Map(lambda _: batch), **upsert)
    stream.run(through=beam.Map(lambda _: batch), **upsert, newest_by="version")
    assert [version for (version,) in stream.rows("version")] == [names.index(of_one[-1]) for of_one in keys]


@pytest.mark.parametrize("sql_variable", ["mariadb"], indirect=True)
@pytest.mark.parametrize("number", ["", ", number INTEGER"])
def test_what_tells_no_shards_apart(stream: SqlStream, number: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log says so at the start; another column of the key tells them apart."""
    stream.create(
        f"name VARCHAR(20) COLLATE utf8mb4_general_ci{number}, UNIQUE (name{number.removesuffix(' INTEGER')})"
    )
    names = ["name", "number"] if number else ["name"]
    rows = [dict(zip(names, (f"k{number}", number), strict=False)) for number in range(20)]
    stream.send_rows(rows)
    stream.run(mode="upsert", key_columns=names, shards=SHARDS)
    assert len(stream.rows("name")) == 20
    markers = map(stream.checkpoint().read_marker, stream.checkpoint().marker_ids())
    used = {one["shard"] for marker in markers if marker is not None for one in marker.committables["sql"]}
    assert len(used) == (SHARDS if number else 1)
    assert ("one shard writes all rows, not 5" in caplog.text) == (not number)


@pytest.mark.parametrize("kind", ["CHAR(9)", "VARCHAR(9)"])
def test_keys_of_text_that_differ_are_found_again(stream: SqlStream, sql_variable: str, kind: str) -> None:
    """Of many columns, with values of other types beside the text."""
    collation = ' COLLATE "C"' if sql_variable == "POSTGRES_URL" else ""
    moment = "TIMESTAMP(6)" if sql_variable == "POSTGRES_URL" else "DATETIME(6)"
    stream.create(
        f"name {kind}{collation}, at {moment}, price DECIMAL(9,2), d DATE, version INTEGER, UNIQUE (name, at, price, d)"
    )
    rows = [
        {"name": f"k{number // 2}", "at": MOMENT, "price": Decimal(number), "d": MOMENT.date(), "version": number}
        for number in range(450)
    ]
    batch = pa.RecordBatch.from_pylist(rows)
    stream.send_rows([0])
    stream.run(through=beam.Map(lambda _: batch), mode="upsert", key_columns=["name", "at", "price", "d"])
    assert [version for (version,) in stream.rows("version")] == list(range(450))


@pytest.mark.parametrize("shards", [1, 3])
def test_upsert_by_shards(stream: SqlStream, shards: int) -> None:
    stream.create("id BIGINT PRIMARY KEY, version INTEGER")
    for version in range(4):
        stream.send_rows({"id": number % 5, "version": version} for number in range(version, version + 4))
    stream.run(mode="upsert", key_columns=["id"], newest_by="version", shards=shards)
    assert stream.rows("id, version") == [(0, 3), (1, 3), (2, 2), (3, 3), (4, 3)]
