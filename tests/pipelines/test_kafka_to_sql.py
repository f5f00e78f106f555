"""The ready-made pipeline to a table, and rows of every kind."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pytest
from click.testing import CliRunner

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToSql
from beam_exactly_once.cli import main as cli
from beam_exactly_once.errors import EXIT_CHECKPOINT, EXIT_CONFIGURATION, EXIT_DONE
from beam_exactly_once.pipelines.kafka_to_sql import main
from beam_exactly_once.testing import MemoryKafka

pytestmark = pytest.mark.runs_on("DirectRunner")


@pytest.fixture
def cluster() -> MemoryKafka:
    return MemoryKafka({"orders": 2})


def send(cluster: MemoryKafka, values: Iterable[bytes | None]) -> None:
    cluster.append(Record("orders", partition=number % 2, value=value) for number, value in enumerate(values))


class Database:
    """A file of SQLite."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "orders.db"
        self.url = f"sqlite:///{self.path}"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.path) as connection:
            return list(connection.execute(statement))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


def flags(database: Database, tmp_path: Path, *more: str) -> list[str]:
    return [
        "--bootstrap-servers=memory:9092",
        "--topics=orders",
        f"--checkpoint-location={tmp_path / 'checkpoint'}",
        f"--output-url={database.url}",
        "--output-table=orders",
        *more,
    ]


@pytest.mark.parametrize("more", [(), ("--output-direct", "--output-shards=2")])
def test_the_fields_of_json_values_are_columns(
    cluster: MemoryKafka, database: Database, tmp_path: Path, more: tuple[str, ...]
) -> None:
    database.execute("CREATE TABLE orders (id BIGINT PRIMARY KEY, amount DECIMAL(20,2), name TEXT, more TEXT)")
    send(cluster, [b'{"id": 1, "amount": 0.10, "name": "\xc3\xbc"}', b'{"id": 2, "amount": 7, "more": {"a": [1.50]}}'])
    with cluster.serving():
        assert main(flags(database, tmp_path, *more)) == EXIT_DONE
        assert main(flags(database, tmp_path, *more)) == EXIT_DONE
    assert database.execute("SELECT * FROM orders ORDER BY id") == [
        (1, 0.1, "ü", None),
        (2, 7, None, '{"a":[1.50]}'),
    ]


def test_the_commands_look_at_such_a_stream(cluster: MemoryKafka, database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE orders (id BIGINT)")
    send(cluster, [b'{"id": 1}'])
    with cluster.serving():
        assert main(flags(database, tmp_path)) == EXIT_DONE
    status = CliRunner().invoke(cli, ["status", str(tmp_path / "checkpoint")])
    assert status.exit_code == EXIT_DONE, status.output
    assert "1 rows to sql" in status.output
    assert "orders" in status.output.partition("sink sql")[2].splitlines()[0]
    look = ["verify", str(tmp_path / "checkpoint")]
    assert "not looked at: --output-url says where" in CliRunner().invoke(cli, look).output
    verified = CliRunner().invoke(cli, [*look, "--output-url", database.url])
    assert verified.exit_code == EXIT_DONE, verified.output
    assert "receipts of sink sql" in verified.output
    database.execute("UPDATE beam_exactly_once_receipts SET nonce = 'older'")
    verified = CliRunner().invoke(cli, [*look, "--output_url", database.url])
    assert verified.exit_code == EXIT_CHECKPOINT
    assert "shard 0, holds batch 0 of attempt older" in verified.output
    database.path.unlink()
    assert CliRunner().invoke(cli, [*look, "--output-url", database.url]).exit_code == EXIT_CHECKPOINT
    assert not database.path.exists()


def test_upsert_of_some_columns(
    cluster: MemoryKafka, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("CREATE TABLE orders (id BIGINT PRIMARY KEY, version INT)")
    send(cluster, [b'{"id": 1, "version": 2, "x": 0}', b'{"id": 1, "version": 3, "x": 0}', b'{"id": 1, "version": 1}'])
    monkeypatch.setenv("ORDERS_URL", database.url)
    upsert = [
        "--output-mode=upsert",
        "--output-key-columns=id",
        "--output-newest-by=version",
        "--output-columns=id, version",
        "--output-shards=2",
    ]
    with cluster.serving():
        assert main(flags(database, tmp_path, *upsert, "--output-url=${env:ORDERS_URL}")) == EXIT_DONE
    assert database.execute("SELECT * FROM orders") == [(1, 3)]


def test_records_as_they_are(cluster: MemoryKafka, database: Database, tmp_path: Path) -> None:
    database.execute('CREATE TABLE orders (topic TEXT, "partition" INT, "offset" BIGINT, value BLOB)')
    send(cluster, [b"\xff", None, b"c"])
    columns = "--output-columns=topic,partition,offset,value"
    with cluster.serving():
        assert main(flags(database, tmp_path, "--decoder=none", columns)) == EXIT_DONE
    found = database.execute('SELECT * FROM orders ORDER BY "partition", "offset"')
    assert found == [("orders", 0, 0, b"\xff"), ("orders", 0, 1, b"c"), ("orders", 1, 0, None)]


@pytest.mark.parametrize("value", [b"{", None, b"[1]", b"\xff"])
def test_a_value_that_is_no_object(
    cluster: MemoryKafka, database: Database, tmp_path: Path, value: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    database.execute("CREATE TABLE orders (id BIGINT)")
    send(cluster, [b'{"id": 1}', value])
    with cluster.serving():
        assert main(flags(database, tmp_path)) == EXIT_CONFIGURATION
    error = capsys.readouterr().err
    assert error.startswith("UnfitRow: ")
    assert "record orders-1 at offset 0: the value is not a JSON object; --rejected-location takes" in error
    assert database.execute("SELECT * FROM orders") == []


class Named(NamedTuple):
    id: int
    name: str | None = None


@dataclasses.dataclass
class Data:
    id: int
    name: str | None = None


def to_named(number: int) -> Named:
    return Named(number)


def to_data(number: int) -> Data:
    return Data(number)


def to_row(number: int) -> beam.Row:
    return beam.Row(id=number, name=None)


def to_batch(number: int) -> pa.RecordBatch:
    return pa.record_batch({"id": pa.array([number], pa.int16())})


def to_dict(number: int) -> dict[str, Any]:
    return {"name": None, "id": number}


def to_any(number: int) -> Any:
    return [to_named, to_data, to_row, to_batch, to_dict][number % 5](number)


@pytest.mark.parametrize("make", [to_named, to_data, to_row, to_batch, to_dict, to_any])
def test_rows_of_every_kind(
    cluster: MemoryKafka, database: Database, tmp_path: Path, make: Callable[[int], Any]
) -> None:
    database.execute("CREATE TABLE orders (id BIGINT, name TEXT)")
    send(cluster, [b"%d" % number for number in range(200)])
    with cluster.serving(), ExactlyOnceStream(str(tmp_path / "checkpoint")) as stream:
        numbers = (
            stream | ReadFromKafka("memory:9092", ["orders"]) | "Parse" >> beam.Map(lambda record: int(record.value))
        )
        _ = numbers | "Make" >> beam.Map(make) | WriteToSql(database.url, "orders")
    assert database.execute("SELECT * FROM orders ORDER BY id") == [(number, None) for number in range(200)]
