"""Keys of an upsert that are one to the database and two to the stream: no row of them vanishes without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once.errors import ConfigurationError
from support.sql_stream import SqlStream

pytestmark = pytest.mark.runs_on("DirectRunner")


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlStream:
    monkeypatch.setenv("SQLITE_URL", f"sqlite:///{tmp_path / 'orders.db'}")
    return SqlStream("SQLITE_URL")


@pytest.mark.parametrize("keys", [["a", "A"], ["a", "a "]])
def test_keys_that_are_one_to_the_database_alone(stream: SqlStream, keys: list[str]) -> None:
    """None of the two rows vanishes without a word."""
    collation = "NOCASE" if keys[0] != keys[1].rstrip() else "RTRIM"
    stream.create(f"name VARCHAR(20) COLLATE {collation} PRIMARY KEY, version INTEGER")
    stream.execute(f"INSERT INTO {stream.table} VALUES ('b', 0)")
    stream.send_rows([{"name": name, "version": 2 - number} for number, name in enumerate(keys)])
    upsert: dict[str, Any] = {"mode": "upsert", "key_columns": ["name"]}
    with pytest.raises(
        ConfigurationError, match=r"2 different keys \(name\) in one batch, which are 1 to the database.*newest_by="
    ):
        stream.run(**upsert)
    assert stream.rows("name, version") == [("b", 0)]
    stream.run(**upsert, newest_by="version")
    assert [version for version, _ in stream.rows("version, name")] == [0, 2]


def test_many_keys_of_text_and_number_that_differ(stream: SqlStream) -> None:
    stream.create('"100%" VARCHAR(20) COLLATE NOCASE, number INTEGER, version INTEGER, UNIQUE ("100%", number)')
    upsert: dict[str, Any] = {"mode": "upsert", "key_columns": ["100%", "number"]}
    for version in range(2):
        batch = pa.RecordBatch.from_pylist(
            [{"100%": f"k{number // 2}", "number": number % 2, "version": version} for number in range(900)]
        )
        stream.send_rows([{"version": version}])
        stream.run(through=beam.Map(lambda _, batch=batch: batch), **upsert)
    assert stream.execute(f"SELECT COUNT(*), MIN(version) FROM {stream.table}") == [(900, 1)]


def test_floating_numbers_are_no_keys(stream: SqlStream) -> None:
    stream.create("x DOUBLE PRECISION PRIMARY KEY, version INTEGER")
    stream.send_rows([{"x": 0.0}])
    with pytest.raises(ConfigurationError, match=r"'x'.*cannot be one of key_columns=.*Use integers, decimals"):
        stream.run(mode="upsert", key_columns=["x"])
