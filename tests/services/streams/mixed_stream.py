"""One stream from a real topic to a topic, a table of each database, files and a Delta table, run again and again."""

from __future__ import annotations

import os
import re
import secrets
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import apache_beam as beam
import orjson
import pyarrow as pa
import sqlalchemy as sa
from deltalake import DeltaTable

from beam_exactly_once import (
    ExactlyOnceStream,
    ReadFromKafka,
    Record,
    WriteToDelta,
    WriteToFiles,
    WriteToKafka,
    WriteToSql,
    read_batches,
    secret_from_env,
)
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.testing.crashing import StoreCalls
from beam_exactly_once.testing.hooked_publisher import Call, Hook, hooked
from services.streams.copies import records_of

DATABASES = {"postgres": "POSTGRES_URL", "mariadb": "MARIADB_URL"}
STAGED_AS = {
    "topic": r"staging/rows/topic/{batch}-",
    "postgres": r"staging/rows/postgres/{batch}-",
    "mariadb": r"staging/rows/mariadb/{batch}-",
    "files": r"part-{batch}-.*\.json",
    "delta": r"part-{batch}-.*\.parquet",
}
"""What each sink stages, by the sink's name."""
SINKS = list(STAGED_AS)
OFFSETS_PER_BATCH = 4
_SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])

Row: TypeAlias = dict[str, Any]
Step: TypeAlias = "beam.PTransform[Any, Any]"


@dataclass(frozen=True)
class MixedStream:
    """Values ``<number>`` or ``<number>|…`` become rows of ``id`` and ``text`` in every sink. Picklable.

    Args:
        bootstrap_servers: of source and output.
        source: topic.
        topic: the output.
        root: folder of all else.
    """

    bootstrap_servers: str
    source: str
    topic: str
    root: str
    table: str = field(default_factory=lambda: f"mixed_{secrets.token_hex(4)}")

    def create_tables(self) -> None:
        """Of both databases."""
        for name in DATABASES:
            self.execute(name, f"CREATE TABLE {self.table} (id BIGINT NOT NULL, text VARCHAR(100) NOT NULL)")

    def execute(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        """A statement in a transaction of its own."""
        engine = sa.create_engine(os.environ[DATABASES[database]], poolclass=sa.NullPool)
        with engine.begin() as connection:
            done = connection.exec_driver_sql(statement)
            return [tuple(row) for row in done] if done.returns_rows else []

    def run(self, *, through: Step | None = None, shards: int = 1, hook: Hook | None = None) -> None:
        """Until all is there; ``through`` is a step from rows to rows."""
        with ExitStack() as world:
            stream = ExactlyOnceStream(f"{self.root}/checkpoint")
            read = ReadFromKafka(self.bootstrap_servers, [self.source], max_batch_offsets=OFFSETS_PER_BATCH)
            rows = stream | read | "Rows" >> beam.Map(row_of)
            rows = rows if through is None else rows | "Through" >> through
            records = rows | "Records" >> beam.Map(lambda row: {"key": str(row["id"]), "value": orjson.dumps(row)})
            _ = records | "Topic" >> WriteToKafka(self.bootstrap_servers, self.topic, shards=shards, name="topic")
            for name, variable in DATABASES.items():
                _ = rows | name >> WriteToSql(secret_from_env(variable), self.table, shards=shards, name=name)
            _ = rows | "Files" >> WriteToFiles(f"{self.root}/files", format="json", name="files")
            _ = rows | "Delta" >> WriteToDelta(f"{self.root}/delta", schema=_SCHEMA, name="delta")
            if hook is not None:
                world.enter_context(hooked(stream, hook))
            stream.run()

    def shown(self) -> dict[str, list[Row]]:
        """What a reader of each sink sees, by id."""
        found = {
            "topic": [orjson.loads(one.value() or b"") for one in records_of(self.bootstrap_servers, self.topic)],
            "files": [row for batch in self.batches_of_files() for row in batch],
            "delta": self._delta_rows(),
        }
        for name in DATABASES:
            rows = self.execute(name, f"SELECT id, text FROM {self.table}")
            found[name] = [{"id": one, "text": text} for one, text in rows]
        return {name: sorted(rows, key=lambda row: int(row["id"])) for name, rows in found.items()}

    def ids(self) -> dict[str, list[int]]:
        """Of the rows that each sink shows."""
        return {name: [row["id"] for row in rows] for name, rows in self.shown().items()}

    def batches_of_files(self) -> list[list[Row]]:
        """The rows of each batch, by the manifests."""
        store = open_object_store(f"{self.root}/files")
        return [
            [orjson.loads(line) for file in batch.files for line in (store.get(file.name) or b"").splitlines()]
            for batch in read_batches(f"{self.root}/files")
        ]

    def _delta_rows(self) -> list[Row]:
        if not DeltaTable.is_deltatable(f"{self.root}/delta"):
            return []
        rows: list[Row] = DeltaTable(f"{self.root}/delta").to_pyarrow_table().to_pylist()
        return rows


def row_of(record: Record) -> Row:
    number = int((record.value or b"").partition(b"|")[0])
    return {"id": number, "text": f"text of {number}"}


def everywhere(ids: list[int]) -> dict[str, list[int]]:
    """What :meth:`MixedStream.ids` gives when every sink shows these."""
    return dict.fromkeys(SINKS, ids)


class StagingEnds(StoreCalls):
    """Runs ``act`` when something of a batch was staged for a sink."""

    def __init__(self, sink: str, batch_id: int, act: Callable[[], None]) -> None:
        super().__init__(None, act)
        self._key = re.compile(STAGED_AS[sink].format(batch=f"{batch_id:020d}"))
        self._act = act

    def after(self, method: str, key: str) -> None:
        """Look for its key."""
        if method in ("put_if_absent", "stage") and self._key.match(key):
            self._act()


def after_publishes(count: int, batch_id: int, act: Callable[[], None]) -> Hook:
    """A hook that acts once ``count`` parts of a batch are published."""
    seen = [0]
    lock = threading.Lock()

    def hook(call: Call) -> None:
        if (call.moment, call.method, call.batch_id) == ("after", "publish", batch_id):
            with lock:
                seen[0] += 1
                reached = seen[0] == count
            if reached:
                act()

    return hook


def killed_between(mixed: MixedStream, publishes: int, batch_id: int) -> None:
    """A life for a process of its own: it dies after that many publishes of a batch."""
    mixed.run(hook=after_publishes(publishes, batch_id, lambda: os.kill(os.getpid(), signal.SIGKILL)))
