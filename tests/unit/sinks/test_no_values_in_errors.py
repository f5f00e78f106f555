"""A value that a sink cannot take is in no message of it: the message is for logs, the row for the rejected output."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from beam_exactly_once.errors import BeamExactlyOnceError
from beam_exactly_once.rows.columns import batch_of_rows, fitted_batch
from beam_exactly_once.rows.encoding import RowEncoding
from beam_exactly_once.sinks.files.encoding import FileEncoding
from beam_exactly_once.sinks.files.layout import FileLayout
from beam_exactly_once.sinks.sql.database import SqlDatabase
from beam_exactly_once.sinks.sql.encoding import SqlEncoding
from beam_exactly_once.sinks.sql.target import SqlTarget

CANARY = "4111222233334444"
VALUES: list[Any] = [
    CANARY,
    int(CANARY),
    float(CANARY),
    CANARY.encode(),
    [CANARY],
    {CANARY: CANARY},
    datetime.datetime(2024, 1, 1, 11, 12, 13, 141516),
]
TYPES = [
    pa.int8(),
    pa.float32(),
    pa.date32(),
    pa.time64("us"),
    pa.timestamp("s"),
    pa.decimal128(3, 1),
    pa.bool_(),
    pa.list_(pa.int8()),
    pa.struct([("a", pa.int8())]),
]


def message(call: Callable[[], object]) -> str:
    """Of the error; empty where the value fits."""
    try:
        call()
    except BeamExactlyOnceError as error:
        return str(error)
    return ""


def is_told(text: str) -> bool:
    return any(part in text for part in (CANARY, "4.111222", "141516", "11:12:13"))


@pytest.mark.parametrize("arrow_type", TYPES, ids=str)
def test_a_row_that_does_not_fit_a_schema(arrow_type: pa.DataType) -> None:
    texts = [
        message(lambda value=value: batch_of_rows([{"a": value}], pa.schema([("a", arrow_type)]))) for value in VALUES
    ]  # type: ignore[misc]
    assert any(texts)
    assert not any(map(is_told, texts))


@pytest.mark.parametrize("arrow_type", TYPES, ids=str)
def test_an_arrow_batch_that_cannot_become_it(arrow_type: pa.DataType) -> None:
    batches = [pa.record_batch({"a": [value]}) for value in VALUES if not isinstance(value, dict)]
    texts = [message(lambda batch=batch: fitted_batch(batch, pa.schema([("a", arrow_type)]))) for batch in batches]  # type: ignore[misc]
    assert any(texts)
    assert not any(map(is_told, texts))


def encode(encoding: RowEncoding, *rows: Any) -> None:
    blocks = encoding.blocks()
    blocks.of_rows(list(rows))
    blocks.rest()


@pytest.mark.parametrize("value", ["", f"{CANARY}" * 20, f"{CANARY}\ud800"])
def test_a_value_that_names_no_folder(value: str) -> None:
    schema = pa.schema([("p", pa.string()), ("a", pa.int64())])
    layout = FileLayout(schema=schema, partition_by=("p",))
    text = message(lambda: encode(FileEncoding(layout), {"p": value, "a": 1}))
    assert text
    assert not is_told(text)


@pytest.mark.parametrize(
    "declared", ["INTEGER", "DATE", "TIME", "TIMESTAMP", "BOOLEAN", "BLOB", "DECIMAL(3,1)", "REAL"]
)
def test_a_row_that_does_not_fit_a_table(declared: str, tmp_path: Path) -> None:
    database = SqlDatabase(f"sqlite:///{tmp_path / 'a.db'}")
    database.transact(
        lambda connection: connection.exec_driver_sql(f"CREATE TABLE t (a {declared}, id BIGINT PRIMARY KEY)"), ""
    )
    encoding = SqlEncoding(database, SqlTarget("t", None, None, "append", (), None, None, 1))
    texts = [message(lambda value=value: encode(encoding, {"a": value, "id": 1})) for value in VALUES]  # type: ignore[misc]
    assert any(texts)
    assert not any(map(is_told, texts))


def test_two_rows_of_one_key(tmp_path: Path) -> None:
    database = SqlDatabase(f"sqlite:///{tmp_path / 'a.db'}")
    database.transact(lambda connection: connection.exec_driver_sql("CREATE TABLE t (id TEXT PRIMARY KEY)"), "")
    encoding = SqlEncoding(database, SqlTarget("t", None, None, "upsert", ("id",), None, None, 1))
    text = message(lambda: encode(encoding, {"id": CANARY}, {"id": CANARY}))
    assert "several rows with one key (id)" in text
    assert not is_told(text)
