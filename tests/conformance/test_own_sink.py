"""A sink of one's own, as docs/sinks/own_sink.md has it, by public names alone: it passes every story, and broken ones do not."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles
from beam_exactly_once.errors import SinkBehind
from beam_exactly_once.sinks import Delivery, TransactionalSink, WriteTo
from beam_exactly_once.testing import STORIES, SinkUnderTest, Story, run_in_memory

PAGE = Path(__file__).parents[2] / "docs" / "sinks" / "own_sink.md"
SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])
STORY = {str(story): story for story in STORIES}

MakeSink = Callable[[str, str], TransactionalSink]


def sink_of_the_page() -> Any:
    """The class of the page's first example, in a module of its own, as its reader has it."""
    module = sys.modules["own_sink"] = ModuleType("own_sink")
    code = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)[0]
    exec(compile(code, PAGE.name, "exec"), module.__dict__)
    return module.SqliteSink


SqliteSink = sink_of_the_page()


class OwnSink(SinkUnderTest):
    """A table each name. ``shards``: None for as many as the story says."""

    late_batches = 20  # each takes a tenth of a second

    def __init__(
        self, file: Path, shards: int | None = None, make: MakeSink = SqliteSink, direct: bool = False
    ) -> None:
        self._file = str(file)
        self._shards = shards
        self._make = make
        self.is_direct = direct

    def write(self, name: str, shards: int) -> beam.PTransform[Any, Any]:
        SqliteSink(self._file, name).prepare("")  # so that it can be read before a stream has run
        sink = self._make(self._file, name)
        return WriteTo(sink, schema=SCHEMA, shards=self._shards or shards, direct=self.is_direct, name=name)

    def read(self, name: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self._file)) as database:
            return [{"id": one, "text": text} for one, text in database.execute(f"select id, text from {name}")]


@pytest.mark.parametrize("story", STORIES, ids=str)
def test_it_keeps_the_contract(story: Story, tmp_path: Path) -> None:
    story.check(OwnSink(tmp_path / "rows.sqlite", shards=3))


def test_one_shard(tmp_path: Path) -> None:
    STORY["killed_around_every_call_to_the_publisher"].check(OwnSink(tmp_path / "rows.sqlite", shards=1))


def test_another_number_of_shards_at_each_start(tmp_path: Path) -> None:
    STORY["a_replay_that_gives_other_rows_in_another_order"].check(OwnSink(tmp_path / "rows.sqlite"))


@pytest.mark.parametrize(
    "story",
    [
        "killed_around_every_call_to_the_publisher",
        "a_replay_that_gives_other_rows_in_another_order",
        "a_checkpoint_of_five_batches_ago_is_refused",
    ],
)
def test_it_keeps_the_contract_directly(story: str, tmp_path: Path) -> None:
    """What is direct about it is not the sink's: see ``test_sqlite.py``."""
    STORY[story].check(OwnSink(tmp_path / "rows.sqlite", direct=True))


class NeverAsks(TransactionalSink):
    """Writes whatever it is given."""

    kind = "sqlite"

    def __init__(self, file: str, table: str) -> None:
        self.location = f"{file}#{table}"
        self.file, self.table = file, table

    def write(self, delivery: Delivery) -> None:
        with closing(sqlite3.connect(self.file, timeout=60)) as database, database:
            for batch in delivery.rows():
                database.executemany(f"insert into {self.table} values (:id, :text)", batch.to_pylist())


class KeepsNoReceipt(NeverAsks):
    """Does as it is told, and forgets it."""

    def write(self, delivery: Delivery) -> None:
        if delivery.is_due(None):
            super().write(delivery)


class ForgetsTheSecondShard(NeverAsks):
    """Loses rows."""

    def write(self, delivery: Delivery) -> None:
        if not delivery.key.endswith("/1"):
            super().write(delivery)


@pytest.mark.parametrize(
    ("broken", "story", "error", "words"),
    [
        (NeverAsks, "killed_around_every_call_to_the_publisher", AssertionError, "more than once"),
        (NeverAsks, "a_late_publish_wakes_after_many_batches", AssertionError, "more than once"),
        (KeepsNoReceipt, "every_batch_is_there_once", SinkBehind, "holds no batch"),
        (ForgetsTheSecondShard, "every_batch_is_there_once", AssertionError, "lost"),
    ],
)
def test_a_broken_sink_is_found_out(
    broken: MakeSink, story: str, error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        STORY[story].check(OwnSink(tmp_path / "rows.sqlite", make=broken))


def row_of(record: Record) -> dict[str, Any]:
    """A text that is no number fits no column of numbers."""
    value = (record.value or b"").decode()
    return {"id": int(value) if value.isdigit() else value, "text": value}


@pytest.mark.parametrize("shards", [1, 3])
def test_rows_that_do_not_fit_are_rejected(shards: int, tmp_path: Path) -> None:
    file = str(tmp_path / "rows.sqlite")

    def build(stream: ExactlyOnceStream) -> None:
        rows = stream | ReadFromKafka("kafka:9092", ["in"]) | beam.Map(row_of)
        rejected = rows | WriteTo(SqliteSink(file, "orders"), schema=SCHEMA, shards=shards, on_error="reject")
        _ = rejected | WriteToFiles("rejected", format="json")

    ran = run_in_memory(build, {"in": [[b"1", b"two", b"3"], [b"four"], [b"5"]]})
    assert sorted(row["id"] for row in OwnSink(tmp_path / "rows.sqlite").read("orders")) == [1, 3, 5]
    assert [(row["step"], row["row"]) for row in ran.rows("files")] == [
        ("sqlite", "{'id': 'two', 'text': 'two'}"),
        ("sqlite", "{'id': 'four', 'text': 'four'}"),
    ]
