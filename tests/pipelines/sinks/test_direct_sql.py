"""Streams that write to a table of SQLite before the marker: every row once, or an error that says why not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles, WriteToSql
from beam_exactly_once.errors import (
    ConfigurationError,
    Fenced,
    PipelineChanged,
    ReplayDiffers,
    SinkAhead,
    SinkBehind,
    UnsupportedPipeline,
)
from beam_exactly_once.sinks.sql.shards import SqlShards
from beam_exactly_once.sinks.transactional import Delivery
from support.command_line import run as command
from support.ending import ends_with, kill
from support.sql_stream import STEPS, SqlStream, at_step, row_of

pytestmark = pytest.mark.runs_on("DirectRunner")

RECEIPTS = "SELECT shard, batch_id FROM beam_exactly_once_receipts ORDER BY shard"


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlStream:
    monkeypatch.setenv("SQLITE_URL", f"sqlite:///{tmp_path / 'orders.db'}")
    stream = SqlStream("SQLITE_URL", str(tmp_path / "checkpoint"))
    stream.create("id BIGINT, name VARCHAR(40)")
    return stream


def run(stream: SqlStream, shards: int = 2, **options: Any) -> None:
    stream.run(shards=shards, direct=True, **options)


def dies(stream: SqlStream, step: str = "commit", occurrence: int = 1, **options: Any) -> None:
    """By default after the first shard of the first batch was written."""
    with at_step(step, occurrence, kill), ends_with("killed here"):
        run(stream, **options)


def orders(*numbers: int) -> list[dict[str, int]]:
    return [{"id": number} for number in numbers]


def staged_keys(stream: SqlStream) -> list[str]:
    return [entry.key for entry in stream.store().list("staging/")]


def test_rows_are_written_once_and_stored_nowhere_else(stream: SqlStream) -> None:
    stream.send_rows(orders(*range(5)))
    run(stream)
    run(stream)
    stream.send_rows(orders(5))
    run(stream)
    assert stream.ids() == list(range(6))
    assert stream.execute(RECEIPTS) == [(0, 3), (1, 3)]
    assert staged_keys(stream) == []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("occurrence", [1, 2, 3, 4])
def test_killed_after_each_step_of_writing(stream: SqlStream, step: str, occurrence: int) -> None:
    """Two batches in two shards: four transactions."""
    stream.send_rows(orders(0, 1, 2, 3))
    dies(stream, step, occurrence)
    run(stream)
    assert stream.ids() == [0, 1, 2, 3]


@pytest.mark.parametrize("change", ["another value", "a row more", "a row less", "twice"])
def test_a_replay_that_differs_is_refused(stream: SqlStream, change: str) -> None:
    stream.send_rows(orders(0, 1))
    dies(stream, occurrence=2)
    changes = {
        "another value": beam.Map(lambda row: {**row, "name": "changed"}),
        "a row more": beam.FlatMap(lambda row: [row, {"id": row["id"] + 10}]),
        "a row less": beam.Filter(lambda row: row["id"] == 0),
        "twice": beam.FlatMap(lambda row: [row, row]),
    }
    with pytest.raises(ReplayDiffers, match=r"batch 0 from an earlier run.*--batch 0 --skip"):
        run(stream, through=changes[change])
    assert stream.ids() == [0, 1]
    run(stream)
    stream.send_rows(orders(2))
    run(stream)
    assert stream.ids() == [0, 1, 2]


def test_code_may_change_while_nothing_of_the_batch_is_written(stream: SqlStream) -> None:
    stream.send_rows(orders(0, 1))
    dies(stream, "rows")
    run(stream, through=beam.Map(lambda row: {**row, "name": "new code"}))
    assert stream.rows() == [(0, "new code"), (1, "new code")]


def test_a_batch_whose_replay_differs_can_be_skipped(stream: SqlStream) -> None:
    """What is there stays, and the shards go on together."""
    counter = itertools.count()
    stream.send_rows(orders(0, 1, 2))
    dies(stream, shards=3)
    written = stream.ids()
    with pytest.raises(ReplayDiffers):
        run(stream, shards=3, through=beam.Map(lambda row: {**row, "name": f"run {next(counter)}"}))
    assert command("resolve", stream.location, "--batch", 0, "--skip", "--yes").exit_code == 0
    run(stream, shards=3)
    assert stream.ids() == sorted([*written, 2])
    assert stream.execute(RECEIPTS) == [(0, 1), (1, 1), (2, 1)]


def test_a_batch_cannot_be_abandoned(stream: SqlStream) -> None:
    """Its rows may be there, and the next batch would write them again."""
    stream.send_rows(orders(0, 1))
    dies(stream)
    result = command("resolve", stream.location, "--batch", 0, "--abandon", "--yes")
    assert result.exit_code == ConfigurationError.exit_code
    assert "has direct=True" in result.stderr
    run(stream)
    assert stream.ids() == [0, 1]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"direct": True, "shards": 2}, {"direct": True, "shards": 3}),
        ({"direct": True, "shards": 2}, {"shards": 2}),
        ({"shards": 2}, {"direct": True, "shards": 2}),
    ],
)
def test_neither_shards_nor_the_way_may_change(
    stream: SqlStream, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """Rows would go to other shards, where the receipts do not know them."""
    stream.send_rows(orders(0, 1))
    stream.run(**before)
    stream.send_rows(orders(2))
    with pytest.raises(PipelineChanged, match=r"direct=|shards=2, now 3"):
        stream.run(**after)
    assert stream.ids() == [0, 1]


def test_a_direct_sink_is_the_only_one(stream: SqlStream, tmp_path: Path) -> None:
    both = ExactlyOnceStream(stream.location)
    rows = both | ReadFromKafka("memory:9092", ["orders"]) | "FromJson" >> beam.Map(row_of)
    _ = rows | WriteToSql(stream.url, stream.table, direct=True)
    _ = rows | WriteToFiles(str(tmp_path / "out"), format="json")
    with pytest.raises(UnsupportedPipeline, match=r"sink 'sql' has direct=True and is not the only one \(files\)"):
        both.run()


def test_a_driver_that_wakes_after_a_newer_one_went_on(stream: SqlStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is about to write batch 0, which the newer one has written, and batches after it."""
    stream.send_rows(orders(*range(6)))
    write, slept = SqlShards.write, []

    def sleeping(writer: SqlShards, one: Delivery) -> None:
        if not slept:
            slept.append(one.batch_id)
            run(stream)
        write(writer, one)

    monkeypatch.setattr(SqlShards, "write", sleeping)
    with pytest.raises(Fenced):
        run(stream)
    assert slept == [0]
    assert stream.ids() == list(range(6))


def test_a_checkpoint_of_five_batches_ago(stream: SqlStream) -> None:
    """Asked before anything runs; and a checkpoint of one batch ago by the receipt."""
    stream.send_rows(orders(*range(16)))
    run(stream)
    store = stream.store()
    last = 7
    store.delete([f"{kind}/{last:020d}.json" for kind in ("offsets", "commits")])
    with pytest.raises(SinkAhead, match="holds batch 7 of plan"):
        run(stream)
    lost = [f"{kind}/{batch_id:020d}.json" for kind in ("offsets", "commits") for batch_id in range(last - 4, last + 1)]
    store.delete(lost)
    with pytest.raises(SinkAhead, match="holds batch 7 of this stream"):
        run(stream)
    assert stream.ids() == list(range(16))


def test_a_sink_that_lost_batches_is_noticed(stream: SqlStream) -> None:
    stream.send_rows(orders(*range(6)))
    run(stream)
    older = "batch_id = 0, nonce = 'older' WHERE shard = 1"
    stream.execute(f"UPDATE beam_exactly_once_receipts SET {older}")
    stream.send_rows(orders(6))
    with pytest.raises(SinkBehind, match="shard 1, holds batch 0 of this stream, where batch 3 must find batch 2"):
        run(stream)


def test_a_wiped_checkpoint_skips_nothing(stream: SqlStream) -> None:
    stream.send_rows(orders(0, 1, 2))
    run(stream)
    store = stream.store()
    store.delete([entry.key for entry in store.list()])
    run(stream)
    assert stream.ids() == [0, 0, 1, 1, 2, 2]


def test_upserts(stream: SqlStream) -> None:
    stream.execute(f"CREATE UNIQUE INDEX by_id ON {stream.table} (id)")
    stream.send_rows([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 1, "name": "c"}])
    dies(stream, mode="upsert", key_columns=["id"])
    run(stream, mode="upsert", key_columns=["id"])
    assert stream.rows() == [(1, "c"), (2, "b")]
