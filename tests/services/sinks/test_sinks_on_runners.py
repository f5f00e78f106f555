"""Sinks with receipts on the runners whose workers are other processes: Kafka, PostgreSQL and Delta Lake, by value."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
import sqlalchemy as sa
from apache_beam.options.pipeline_options import PipelineOptions
from deltalake import DeltaTable

from beam_exactly_once import (
    ExactlyOnceStream,
    ReadFromKafka,
    Record,
    WriteToDelta,
    WriteToKafka,
    WriteToSql,
    secret_from_env,
)
from services.streams.copies import numbers_of, records_of
from services.streams.topics import Topic

SCHEMA = pa.schema([("id", pa.int64())])
on_postgres = pytest.mark.parametrize("sql_variable", ["postgres"], indirect=True)
ON_PRISM = pytest.param("prism", marks=pytest.mark.runs_on("PrismRunner"))
ON_FLINK = pytest.param("flink", marks=pytest.mark.runs_on("FlinkRunner cluster"))


@pytest.fixture(params=[ON_PRISM, ON_FLINK])
def options(request: pytest.FixtureRequest) -> PipelineOptions:
    if request.param == "prism":
        location = request.getfixturevalue("prism_location")
        return PipelineOptions(["--runner=PrismRunner", f"--prism_location={location}"])
    return PipelineOptions(request.getfixturevalue("shared_flink"))


@pytest.fixture
def source(new_topic: Callable[..., Topic]) -> Topic:
    return new_topic(2)


class Table:
    """Of PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.name = f"orders_{secrets.token_hex(4)}"
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)
        with self._engine.begin() as connection:
            connection.execute(sa.text(f"CREATE TABLE {self.name} (id BIGINT NOT NULL)"))

    def ids(self) -> list[int]:
        with self._engine.connect() as connection:
            return sorted(connection.scalars(sa.text(f"SELECT id FROM {self.name}")))


@pytest.fixture
def table(sql_variable: str) -> Table:
    return Table(secret_from_env(sql_variable).resolve())


def row_of(record: Record) -> dict[str, int]:
    assert record.value is not None
    return {"id": int(record.value)}


def send(source: Topic, start: int, stop: int) -> None:
    for partition in range(2):
        source.send([b"%d" % number for number in range(start, stop) if number % 2 == partition], partition)


def run(source: Topic, checkpoint: Path, options: PipelineOptions, write: Callable[[Any], None]) -> None:
    """Batches of forty offsets; ``write`` applies sinks to the records."""
    with ExactlyOnceStream(str(checkpoint), options=options) as stream:
        write(stream | ReadFromKafka(source.bootstrap_servers, [source.name], max_batch_offsets=40))


@on_postgres
def test_three_sinks_of_one_stream(
    source: Topic, output: Topic, table: Table, options: PipelineOptions, tmp_path: Path
) -> None:
    def write(records: beam.PCollection[Record]) -> None:
        rows = records | beam.Map(row_of)
        _ = records | WriteToKafka(output.bootstrap_servers, output.name, shards=2)
        _ = rows | WriteToSql(secret_from_env("POSTGRES_URL"), table.name, shards=2)
        _ = rows | WriteToDelta(str(tmp_path / "delta"), schema=SCHEMA)

    for start in (0, 40):
        send(source, start, start + 40)
        run(source, tmp_path / "checkpoint", options, write)
    assert numbers_of(records_of(output.bootstrap_servers, output.name)) == list(range(80))
    assert table.ids() == list(range(80))
    found = DeltaTable(str(tmp_path / "delta")).to_pyarrow_table()
    assert sorted(found["id"].to_pylist()) == list(range(80))


@on_postgres
def test_a_table_that_is_written_directly(
    source: Topic, table: Table, options: PipelineOptions, tmp_path: Path
) -> None:
    def write(records: beam.PCollection[Record]) -> None:
        sink = WriteToSql(secret_from_env("POSTGRES_URL"), table.name, shards=2, direct=True)
        _ = records | beam.Map(row_of) | sink

    for start in (0, 40):
        send(source, start, start + 40)
        run(source, tmp_path / "checkpoint", options, write)
    assert table.ids() == list(range(80))


def test_a_topic_that_is_written_directly(
    source: Topic, output: Topic, options: PipelineOptions, tmp_path: Path
) -> None:
    def write(records: beam.PCollection[Record]) -> None:
        _ = records | WriteToKafka(output.bootstrap_servers, output.name, shards=2, direct=True)

    for start in (0, 40):
        send(source, start, start + 40)
        run(source, tmp_path / "checkpoint", options, write)
    assert numbers_of(records_of(output.bootstrap_servers, output.name)) == list(range(80))
