"""Streams to a table of SQLite: every row once, whatever happens in between."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once import secret_from_env
from beam_exactly_once.checkpoint import Attempt, Checkpoint
from beam_exactly_once.errors import ConfigurationError, Fenced, OutputNotWritable, SinkAhead, SinkBehind
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.contract import Part
from beam_exactly_once.sinks.sharded import ShardedSink, StagedPublisher
from beam_exactly_once.sinks.sql.database import SqlDatabase
from beam_exactly_once.sinks.sql.shards import SqlShards
from beam_exactly_once.sinks.sql.target import SqlTarget
from beam_exactly_once.sinks.staged_rows import StagedRows
from beam_exactly_once.sinks.transactional import Delivery
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.ending import ends_with, kill
from support.sql_stream import STEPS, SqlStream, at_step

pytestmark = pytest.mark.runs_on("DirectRunner", storage="memory")

RECEIPTS = "SELECT sink, shard, batch_id FROM beam_exactly_once_receipts ORDER BY sink, shard"
ORDERED = "id BIGINT PRIMARY KEY, name VARCHAR(20), version INTEGER"


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlStream:
    monkeypatch.setenv("SQLITE_URL", f"sqlite:///{tmp_path / 'orders.db'}")
    return SqlStream("SQLITE_URL")


def orders(*numbers: int) -> list[dict[str, int]]:
    return [{"id": number} for number in numbers]


def test_each_row_once_and_a_receipt_for_every_shard(stream: SqlStream) -> None:
    stream.create()
    stream.send_rows([{"id": 1, "name": "one"}, {"id": 2}, {"id": 3, "name": "Ü"}])
    stream.run(shards=2)
    assert stream.rows() == [(1, "one"), (2, None), (3, "Ü")]
    assert stream.execute(RECEIPTS) == [("sql", 0, 1), ("sql", 1, 1)]
    stream.run(shards=2)
    stream.send_rows(orders(4))
    stream.run(shards=1)
    assert stream.ids() == [1, 2, 3, 4]
    assert stream.execute(RECEIPTS) == [("sql", 0, 2), ("sql", 1, 2)]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("occurrence", [1, 2, 3, 4])
def test_killed_after_each_step_of_publishing(stream: SqlStream, step: str, occurrence: int) -> None:
    """Two batches in two shards: four transactions."""
    stream.create()
    stream.send_rows(orders(0, 1, 2, 3))
    with at_step(step, occurrence, kill), ends_with("killed here"):
        stream.run(shards=2)
    stream.run(shards=2)
    assert stream.ids() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "point", [("put_if_absent", "staging/rows/", 2), ("put_if_absent", "commits/", 2), ("get", "staging/rows/", 2)]
)
def test_killed_around_the_commit_with_a_replay_that_differs(stream: SqlStream, point: tuple[str, str, int]) -> None:
    stream.create()
    stream.send_rows(orders(0, 1, 2, 3))
    attempts = 0

    def unsteady(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "name": f"{attempts}-{random.random()}"[:20]}

    with watching(StoreCalls(KillPoint(*point), kill)), ends_with("killed here"):
        stream.run(through=beam.Map(unsteady))
    attempts = 1
    stream.run(through=beam.Map(unsteady))
    assert stream.ids() == [0, 1, 2, 3]
    assert len({name for _, name in stream.rows()}) == 4


def test_two_sinks_in_one_database_and_a_kill_between_them(stream: SqlStream) -> None:
    stream.create()
    stream.create(table="copies")
    stream.send_rows(orders(0, 1, 2, 3))
    with at_step("commit", 3, kill), ends_with("killed here"):
        stream.run(second_table="copies")
    stream.run(second_table="copies")
    assert stream.ids() == stream.ids("copies") == [0, 1, 2, 3]
    assert stream.execute(RECEIPTS) == [("second", 0, 1), ("sql", 0, 1)]


def test_two_sinks_to_one_table(stream: SqlStream) -> None:
    stream.create()
    stream.send_rows(orders(0, 1, 2))
    stream.run(second_table=stream.table)
    assert stream.ids() == [0, 0, 1, 1, 2, 2]


def test_a_driver_that_wakes_after_a_newer_one_went_on(stream: SqlStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is about to write batch 0, which the newer one has written, and batches after it."""
    stream.create()
    stream.send_rows(orders(*range(6)))
    write = SqlShards.write
    slept = False

    def sleeping(writer: SqlShards, one: Delivery) -> None:
        nonlocal slept
        if not slept:
            slept = True
            stream.run()
            assert stream.ids() == list(range(6))
        write(writer, one)

    monkeypatch.setattr(SqlShards, "write", sleeping)
    with pytest.raises(Fenced):
        stream.run()
    assert stream.ids() == list(range(6))


def test_a_late_publisher_of_any_old_batch_writes_nothing(stream: SqlStream) -> None:
    stream.create()
    stream.send_rows(orders(*range(6)))
    stream.run()
    checkpoint = newest(stream)[0]
    markers = [checkpoint.read_marker(batch_id) for batch_id in range(3)]
    target = SqlTarget(stream.table, None, None, "append", (), None, None, 1)
    staged = StagedRows("sql", StoreLocation(stream.location, None))
    publisher = StagedPublisher(ShardedSink("sql", SqlShards("sql", SqlDatabase(stream.url), target), 1), staged)
    for before, marker in zip([None, *markers], markers, strict=False):
        assert marker is not None
        part = Part(checkpoint.stream_id, marker.attempt, before and before.attempt, 0, marker.committables["sql"])
        if marker is markers[-1]:
            publisher.publish(part)
        else:
            with pytest.raises(SinkAhead):
                publisher.publish(part)
    assert stream.ids() == list(range(6))


def newest(stream: SqlStream) -> tuple[Checkpoint, int]:
    checkpoint = stream.checkpoint()
    return checkpoint, max(checkpoint.marker_ids())


def test_a_checkpoint_of_five_batches_ago_decides_nothing(stream: SqlStream) -> None:
    """The sink is asked before anything runs."""
    stream.create()
    stream.send_rows(orders(*range(16)))
    stream.run()
    checkpoint, last = newest(stream)
    lost = [f"{kind}/{batch_id:020d}.json" for kind in ("offsets", "commits") for batch_id in range(last - 4, last + 1)]
    checkpoint.store.delete(lost)
    with pytest.raises(SinkAhead, match=f"holds batch {last} "):
        stream.run()
    assert newest(stream)[1] == last - 5
    assert stream.ids() == list(range(16))


@pytest.mark.parametrize("lost", ["the table of receipts", "one receipt", "an older copy"])
def test_a_sink_that_lost_batches_is_noticed(stream: SqlStream, lost: str) -> None:
    stream.create()
    stream.send_rows(orders(*range(6)))
    stream.run(shards=2)
    if lost == "the table of receipts":
        stream.execute("DROP TABLE beam_exactly_once_receipts")
    elif lost == "one receipt":
        stream.execute("DELETE FROM beam_exactly_once_receipts WHERE shard = 1")
    else:
        stream.execute("UPDATE beam_exactly_once_receipts SET batch_id = 0, nonce = 'older'")
    with pytest.raises(SinkBehind):
        stream.run(shards=2)
    assert stream.ids() == list(range(6))


def test_receipts_that_vanish_after_the_first_batch_are_noticed(stream: SqlStream) -> None:
    """No batch before it says that there must be a receipt."""
    stream.create()
    stream.send_rows(orders(0, 1))
    stream.run()
    stream.execute("DROP TABLE beam_exactly_once_receipts")
    with pytest.raises(SinkBehind, match="the table of receipts is gone"):
        stream.run()
    assert stream.ids() == [0, 1]


def test_a_wiped_checkpoint_skips_nothing(stream: SqlStream) -> None:
    stream.create()
    stream.send_rows(orders(0, 1, 2))
    stream.run()
    store = stream.store()
    store.delete([entry.key for entry in store.list()])
    stream.run()
    assert stream.ids() == [0, 0, 1, 1, 2, 2]


def test_shards_come_and_go(stream: SqlStream) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    shards = random.Random(seed)
    stream.create(ORDERED)
    for version in range(8):
        stream.send_rows({"id": number, "version": version} for number in range(version % 3, version % 3 + 2))
        stream.run(mode="upsert", key_columns=["id"], shards=shards.randint(1, 5))
    assert stream.rows("id, version") == [(0, 6), (1, 7), (2, 7), (3, 5)]


def test_a_checkpoint_knows_the_table_and_no_secret(stream: SqlStream) -> None:
    stream.create()
    stream.send_rows(orders(0))
    stream.run()
    store = stream.store()
    bodies = [store.get(entry.key) or b"" for entry in store.list()]
    assert any(stream.table.encode() in body for body in bodies)
    assert not [body for body in bodies if b"orders.db" in body]


# -- upsert ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_the_newest_of_a_key_wins(stream: SqlStream, shards: int) -> None:
    stream.create(ORDERED)
    stream.send_rows(
        [
            {"id": 1, "name": "new", "version": 2},
            {"id": 1, "name": "old", "version": 1},
            {"id": 2, "name": "two", "version": 9},
            {"id": 3, "name": "three", "version": 1},
            {"id": 2, "name": "a later batch", "version": 1},
        ]
    )
    stream.run(mode="upsert", key_columns=["id"], newest_by="version", shards=shards)
    assert stream.rows() == [(1, "new"), (2, "a later batch"), (3, "three")]


def test_equal_keys_of_a_batch_need_an_order(stream: SqlStream) -> None:
    stream.create(ORDERED)
    stream.send_rows([{"id": 1, "version": 1}, {"id": 1, "version": 2}])
    with pytest.raises(ConfigurationError, match=r"several rows with one key \(id\).*newest_by="):
        stream.run(mode="upsert", key_columns=["id"])
    assert stream.ids() == []
    stream.run(mode="upsert", key_columns=["id"], newest_by="version")
    assert stream.rows("id, version") == [(1, 2)]


def test_equal_keys_that_only_the_commit_brought_together(stream: SqlStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two bundles, say. The batch is decided, and waits for a start that says what wins."""
    stream.create(ORDERED)
    stream.send_rows([{"id": 1, "version": 2}, {"id": 1, "version": 1}])
    monkeypatch.setattr("beam_exactly_once.sinks.sql.encoding.refuse_equal_keys", lambda *_: None)
    with pytest.raises(ConfigurationError, match="newest_by="):
        stream.run(mode="upsert", key_columns=["id"])
    stream.run(mode="upsert", key_columns=["id"], newest_by="version")
    assert stream.rows("id, version") == [(1, 2)]


def test_what_rows_do_not_say_is_the_default_and_stays(stream: SqlStream) -> None:
    stream.create(f"{ORDERED}, state VARCHAR(9) NOT NULL DEFAULT 'new'")
    upsert = {"mode": "upsert", "key_columns": ["id"]}
    stream.send_rows([{"id": 1, "name": "a"}, {"id": 2, "name": "b", "state": "paid"}])
    stream.run(**upsert)
    assert stream.rows("id, name, state") == [(1, "a", "new"), (2, "b", "paid")]
    stream.send_rows([{"id": 1, "state": "lost"}, {"id": 2}])
    stream.run(**upsert)
    assert stream.rows("id, name, state") == [(1, None, "lost"), (2, None, "paid")]


def test_only_the_columns_that_are_named(stream: SqlStream) -> None:
    stream.create(ORDERED)
    stream.execute(f"INSERT INTO {stream.table} VALUES (1, 'kept', 1)")
    stream.send_rows([{"id": 1, "name": "not this", "version": 2, "more": "nor this"}])
    stream.run(mode="upsert", key_columns=["id"], columns=["id", "version"])
    assert stream.rows("id, name, version") == [(1, "kept", 2)]


def test_the_database_numbers_rows(stream: SqlStream) -> None:
    stream.create("number INTEGER PRIMARY KEY, id BIGINT, name TEXT")
    stream.send_rows(orders(7, 8))
    stream.run()
    assert stream.rows("number, id") == [(1, 7), (2, 8)]


# -- what does not fit -------------------------------------------------------------------------------------------

UNFIT = [
    pytest.param({"id": "x"}, r"column 'id' is BIGINT\(\), the value is of type str \(", id="type"),
    pytest.param({"id": 1.5}, r"'id'.*type float \(it is not a whole number", id="fraction"),
    pytest.param({"id": 2**63}, "'id'", id="range"),
    pytest.param({"id": None}, "no value for column 'id'.*NOT NULL", id="null"),
    pytest.param({"name": "x"}, "no value for column 'id'.*NOT NULL", id="missing"),
    pytest.param({"id": 1, "nmae": "x"}, "has 'nmae', which is not a column.*id, name", id="unknown field"),
    pytest.param(7, "type int", id="no row"),
]


@pytest.mark.parametrize(("unfit", "message"), UNFIT)
def test_a_row_that_does_not_fit_is_one_error_and_nothing_is_lost(stream: SqlStream, unfit: Any, message: str) -> None:
    stream.create()
    stream.send_rows(orders(0, 1, 2))

    def spoilt(row: dict[str, Any]) -> Any:
        return unfit if row["id"] == 2 else row

    with pytest.raises(ConfigurationError, match=message):
        stream.run(through=beam.Map(spoilt))
    assert stream.ids() == [0, 1]
    stream.run()
    assert stream.ids() == [0, 1, 2]


def test_a_column_that_is_added_after_the_error(stream: SqlStream) -> None:
    stream.create()
    stream.send_rows([{"id": 1, "colour": "red"}])
    with pytest.raises(ConfigurationError, match="ADD COLUMN"):
        stream.run()
    stream.execute(f"ALTER TABLE {stream.table} ADD COLUMN colour TEXT")
    stream.run()
    assert stream.rows("id, colour") == [(1, "red")]


def test_what_only_the_database_can_refuse_waits_until_it_does_not(stream: SqlStream) -> None:
    stream.create("id BIGINT NOT NULL, name VARCHAR(20)")
    stream.execute(f"CREATE UNIQUE INDEX once ON {stream.table} (id)")
    stream.send_rows(orders(0, 1, 1, 2))
    with pytest.raises(OutputNotWritable, match=r"UNIQUE constraint failed.*Nothing of this transaction was written"):
        stream.run()
    assert stream.ids() == [0, 1]
    with pytest.raises(OutputNotWritable, match="UNIQUE constraint"):
        stream.run()
    stream.execute("DROP INDEX once")
    stream.run()
    assert stream.ids() == [0, 1, 1, 2]


REFUSED = [
    pytest.param({}, None, OutputNotWritable, "does not exist", id="no table"),
    pytest.param(
        {"columns": ["id", "nmae"]}, "id BIGINT, name TEXT", ConfigurationError, "no column 'nmae'", id="no column"
    ),
    pytest.param(
        {"columns": ["name"]}, "id BIGINT NOT NULL, name TEXT", ConfigurationError, "must be among", id="needed"
    ),
    pytest.param(
        {"mode": "upsert", "key_columns": ["id"]},
        "id BIGINT, name TEXT",
        ConfigurationError,
        "UNIQUE INDEX",
        id="no key",
    ),
    pytest.param(
        {"mode": "upsert", "key_columns": ["id"]},
        "id JSON UNIQUE",
        ConfigurationError,
        "key_columns= nor",
        id="odd key",
    ),
]


@pytest.mark.parametrize(("options", "columns", "error", "message"), REFUSED)
def test_a_table_that_is_not_as_it_should_be(
    stream: SqlStream, options: Any, columns: str | None, error: type[Exception], message: str
) -> None:
    """Found out before the first batch is planned."""
    if columns is not None:
        stream.create(columns)
    stream.send_rows(orders(0))
    with pytest.raises(error, match=message):
        stream.run(**options)
    assert list(stream.store().list("offsets/")) == []


def test_an_unreadable_file_of_sqlite(stream: SqlStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GONE_URL", f"sqlite:///{tmp_path / 'no' / 'folder.db'}")
    with pytest.raises(OutputNotWritable, match="unable to open"):
        stream.run(url=secret_from_env("GONE_URL"))


def test_receipts_are_attempts(stream: SqlStream) -> None:
    """As the checkpoint has them."""
    stream.create()
    stream.send_rows(orders(0))
    stream.run()
    marker = newest(stream)[0].read_marker(0)
    assert marker is not None
    ((epoch, batch_id, nonce),) = stream.execute("SELECT writer_epoch, batch_id, nonce FROM beam_exactly_once_receipts")
    assert Attempt(epoch, batch_id, nonce) == marker.attempt
