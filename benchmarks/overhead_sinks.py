"""What ``exactly_once_overhead.py`` compares: sinks, each with the ways to write to it.

``plain`` is a bundle-wise at-least-once writer, as one would write it: no staging, no receipts. It encodes rows as the sink does,
so that the ways differ by the guarantee and not by the encoding; but Delta's files are deltalake's own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import apache_beam as beam
import deltalake
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

import support
from beam_exactly_once import (
    Record,
    Secret,
    WriteToDelta,
    WriteToFiles,
    WriteToKafka,
    WriteToSql,
    secret_from_env,
)
from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.kafka.topic_admin import TopicAdmin
from beam_exactly_once.kafka.transaction_producer import TransactionSettings
from beam_exactly_once.rows.encoding import RowEncoding
from beam_exactly_once.sinks.files.encoding import FileEncoding
from beam_exactly_once.sinks.files.layout import FileLayout
from beam_exactly_once.sinks.kafka.encoding import KafkaEncoding
from beam_exactly_once.sinks.kafka.rows import outgoing
from beam_exactly_once.sinks.kafka.shards import KafkaOutput
from beam_exactly_once.sinks.sql.database import SqlDatabase
from beam_exactly_once.sinks.sql.encoding import SqlEncoding
from beam_exactly_once.sinks.sql.rows import write_rows
from beam_exactly_once.sinks.sql.target import SqlTarget
from beam_exactly_once.transforms.encode_rows import ToBlocks

PLAIN = "plain"
ROW_GROUP_ROWS = 131_072
FLUSH_S = 60.0

SCHEMA = pa.schema([("id", pa.int64()), ("customer", pa.int64()), ("paid", pa.bool_()), ("note", pa.string())])
DDL = "CREATE TABLE {table} (id BIGINT, customer BIGINT, paid BOOLEAN, note VARCHAR(200))"

Rows: TypeAlias = beam.PCollection[Any]
Way: TypeAlias = Callable[[Rows, str], object]
"""Applies a writer of rows to a place."""


@dataclass(frozen=True)
class Sink:
    """One kind of output, and the ways to write there."""

    row_of: Callable[[Record], Any]
    new_place: Callable[[str], contextlib.AbstractContextManager[str]]
    """Makes an empty output, given a folder of its own, and gives what the ways call it; removes it afterwards."""
    count: Callable[[str], int]
    """Rows at a place: at least those that were read."""
    ways: Mapping[str, Way]
    server: str | None = None
    """The variable that says where it is."""


def order_of(record: Record) -> dict[str, Any]:
    order: dict[str, Any] = orjson.loads(record.value or b"{}")
    return order


def message_of(record: Record) -> dict[str, Any]:
    return {"key": record.key, "value": orjson.dumps(orjson.loads(record.value or b"{}"))}


@contextlib.contextmanager
def new_folder(work_dir: str) -> Iterator[str]:
    yield f"{work_dir}/output"


class WriteParquet(beam.DoFn):
    """A file a bundle."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._file: pq.ParquetWriter | None = None

    def process(self, folder_block: tuple[str, pa.RecordBatch]) -> None:
        self._waiting.append(folder_block[1])
        self._waiting_rows += folder_block[1].num_rows
        if self._waiting_rows >= ROW_GROUP_ROWS:
            self._write()

    def finish_bundle(self) -> None:
        if self._waiting:
            self._write()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self) -> None:
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            self._file = pq.ParquetWriter(self._folder / f"{secrets.token_hex(8)}.parquet", SCHEMA, compression="zstd")
        self._file.write_table(pa.Table.from_batches(self._waiting), row_group_size=ROW_GROUP_ROWS)
        self._waiting, self._waiting_rows = [], 0


def plainly(rows: Rows, encoding: RowEncoding, write: beam.DoFn) -> object:
    """Rows as the sink encodes them, to a writer that knows of no batch."""
    blocks = rows | beam.ParDo(ToBlocks(encoding, PLAIN)).with_output_types(encoding.block_type)
    return blocks | "Write" >> beam.ParDo(write)


def file_encoding() -> FileEncoding:
    return FileEncoding(FileLayout(schema=SCHEMA))


FILES = Sink(
    order_of,
    new_folder,
    lambda place: sum(pq.read_metadata(file).num_rows for file in Path(place).rglob("*.parquet")),
    {
        PLAIN: lambda rows, place: plainly(rows, file_encoding(), WriteParquet(place)),
        "staged": lambda rows, place: rows | WriteToFiles(place, schema=SCHEMA),
    },
)


class WriteDelta(beam.DoFn):
    """A commit of the table a bundle."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._waiting: list[pa.RecordBatch] = []

    def process(self, folder_block: tuple[str, pa.RecordBatch]) -> None:
        self._waiting.append(folder_block[1])

    def finish_bundle(self) -> None:
        if self._waiting:
            rows, self._waiting = pa.Table.from_batches(self._waiting), []
            zstd = deltalake.WriterProperties(compression="ZSTD")
            deltalake.write_deltalake(self._table, rows, mode="append", writer_properties=zstd)


DELTA = Sink(
    order_of,
    new_folder,
    lambda place: sum(deltalake.DeltaTable(place).get_add_actions().column("num_records").to_pylist()),
    {
        PLAIN: lambda rows, place: plainly(rows, file_encoding(), WriteDelta(place)),
        "staged": lambda rows, place: rows | WriteToDelta(place, schema=SCHEMA),
    },
)


class WriteKafka(beam.DoFn):
    """A producer as it comes, but for what the sink sets for speed; flushed at the end of a bundle."""

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def setup(self) -> None:
        config = {"compression.type": "lz4", "linger.ms": 20, "queue.buffering.max.kbytes": 128 * 1024}
        servers = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
        self._producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", **config})

    def process(self, block: tuple[int, pa.RecordBatch]) -> None:
        records = outgoing(block[1], by_partition=False)
        assert records.keys is not None
        for value, key in zip(records.values, records.keys, strict=True):
            while True:
                try:
                    self._producer.produce(self._topic, value, key)
                    break
                except BufferError:
                    self._producer.poll(0.01)

    def finish_bundle(self) -> None:
        if self._producer.flush(FLUSH_S):
            raise RuntimeError("the broker does not take the records")


@contextlib.contextmanager
def new_topic(_: str) -> Iterator[str]:
    servers = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    topic = f"overhead-{secrets.token_hex(4)}"
    with TopicAdmin(KafkaSettings(servers)) as new:
        new.create(topic, support.PARTITIONS, 1, {})
    yield topic
    admin = AdminClient({"bootstrap.servers": servers})
    made = [name for name in admin.list_topics(timeout=FLUSH_S).topics if name.startswith(topic)]  # its receipts, too
    for deleted in admin.delete_topics(made).values():
        deleted.result()


def count_offsets(topic: str) -> int:
    """With those of transactions' ends, which is more than there are records."""
    with support.closing_consumer(os.environ["KAFKA_BOOTSTRAP_SERVERS"]) as consumer:
        partitions = [TopicPartition(topic, partition) for partition in range(support.PARTITIONS)]
        return sum(consumer.get_watermark_offsets(one, timeout=FLUSH_S)[1] for one in partitions)


def plain_kafka(rows: Rows, topic: str) -> object:
    settings = TransactionSettings(KafkaSettings(os.environ["KAFKA_BOOTSTRAP_SERVERS"]))
    output = KafkaOutput(topic, settings, by_partition=False, order_by=(), shards=1, receipts_prefix="", direct=False)
    return plainly(rows, KafkaEncoding(output), WriteKafka(topic))


def to_kafka(rows: Rows, topic: str, **options: Any) -> object:
    return rows | WriteToKafka(os.environ["KAFKA_BOOTSTRAP_SERVERS"], topic, receipts_prefix=topic, **options)


KAFKA = Sink(
    message_of,
    new_topic,
    count_offsets,
    {
        PLAIN: plain_kafka,
        "staged": to_kafka,
        "direct": lambda rows, topic: to_kafka(rows, topic, direct=True),
    },
    "KAFKA_BOOTSTRAP_SERVERS",
)


class WriteSql(beam.DoFn):
    """A transaction a bundle, which writes as the sink does."""

    def __init__(self, database: SqlDatabase, target: SqlTarget) -> None:
        self._database = database
        self._target = target
        self._waiting: list[pa.RecordBatch] = []

    def process(self, block: tuple[int, pa.RecordBatch]) -> None:
        self._waiting.append(block[1])

    def finish_bundle(self) -> None:
        rows, self._waiting = self._waiting, []
        self._database.transact(lambda connection: write_rows(connection, self._target, rows), "writing")


def sql_sink(server: str | None) -> Sink:
    """A place is ``folder table``; the folder is that of SQLite's file."""

    def url(folder: str) -> str | Secret:
        return f"sqlite:///{folder}/orders.db" if server is None else secret_from_env(server)

    @contextlib.contextmanager
    def new_table(work_dir: str) -> Iterator[str]:
        table = f"overhead_{secrets.token_hex(4)}"
        execute(work_dir, DDL.format(table=table))
        yield f"{work_dir} {table}"
        execute(work_dir, f"DROP TABLE {table}")

    def execute(folder: str, statement: str) -> None:
        SqlDatabase(url(folder)).transact(lambda connection: connection.execute(sa.text(statement)), statement)

    def plain(rows: Rows, place: str) -> object:
        folder, table = place.split()
        database, target = SqlDatabase(url(folder)), SqlTarget(table, None, None, "append", (), None, None, 1)
        return plainly(rows, SqlEncoding(database, target), WriteSql(database, target))

    def to_sql(rows: Rows, place: str, **options: Any) -> object:
        folder, table = place.split()
        return rows | WriteToSql(url(folder), table, **options)

    def count(place: str) -> int:
        folder, table = place.split()
        statement = sa.text(f"SELECT COUNT(*) FROM {table}")
        return int(SqlDatabase(url(folder)).transact(lambda connection: connection.scalar(statement), "counting"))

    ways = {PLAIN: plain, "staged": to_sql, "direct": lambda rows, place: to_sql(rows, place, direct=True)}
    return Sink(order_of, new_table, count, ways, server)


SINKS = {
    "files": FILES,
    "delta": DELTA,
    "kafka": KAFKA,
    "sqlite": sql_sink(None),
    "postgresql": sql_sink("POSTGRES_URL"),
    "mariadb": sql_sink("MARIADB_URL"),
}
