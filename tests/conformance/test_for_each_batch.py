"""The stories of sinks on ``ForEachBatch``: user code that only appends, and user code that follows the one rule."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import BatchRows, ForEachBatch
from beam_exactly_once.testing import STORIES, SinkUnderTest, Story, conformance
from beam_exactly_once.testing.conformance import Row

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


def append(file: str, table: str, rows: BatchRows) -> None:
    """Writes whatever it is called with."""
    with closing(sqlite3.connect(file)) as database, database:
        database.executemany(f"insert into {table} values (:id, :text)", rows)


def append_once(file: str, table: str, rows: BatchRows) -> None:
    """Stores the number of the batch in the same transaction, under the stream's id, and ignores one at or below it."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=60)) as database:
        database.execute("begin immediate")
        key = f"{rows.stream_id} {table}"
        stored = database.execute("select batch_id from stored where stream = ?", [key]).fetchone()
        if stored is None or stored[0] < rows.batch_id:
            database.executemany(f"insert into {table} values (:id, :text)", rows)
            database.execute("insert or replace into stored values (?, ?)", [key, rows.batch_id])
        database.execute("commit")


class Appended(SinkUnderTest):
    """A table each name, without the rule."""

    is_exactly_once = False
    late_batches = 20  # each takes a tenth of a second
    user_function = staticmethod(append)

    def __init__(self, file: Path) -> None:
        self._file = str(file)
        with closing(sqlite3.connect(file)) as database:
            database.execute("create table stored (stream text primary key, batch_id integer not null)")

    def write(self, name: str, shards: int) -> beam.PTransform[Any, Any]:
        with closing(sqlite3.connect(self._file)) as database, database:
            database.execute(f"create table if not exists {name} (id integer not null, text text not null)")
        return ForEachBatch(partial(self.user_function, self._file, name), schema=SCHEMA, name=name)

    def read(self, name: str) -> list[Row]:
        with closing(sqlite3.connect(self._file)) as database:
            return [{"id": one, "text": text} for one, text in database.execute(f"select id, text from {name}")]


class AppendedOnce(Appended):
    """By the rule."""

    is_exactly_once = True
    user_function = staticmethod(append_once)


GIVEN_AGAIN = [
    Story(check)
    for check in (
        conformance.every_batch_is_there_once,
        conformance.killed_around_every_call_to_the_publisher,
        conformance.a_late_publish_wakes_after_many_batches,
        conformance.published_by_two_at_once,
        conformance.a_wiped_checkpoint_skips_nothing,
    )
]
"""Where a function without the rule has its batch twice."""


@pytest.mark.parametrize("story", GIVEN_AGAIN, ids=str)
def test_at_least_once(story: Story, tmp_path: Path) -> None:
    story.check(Appended(tmp_path / "rows.sqlite"))


# The rule takes the checkpoint's word for a batch's number.
BY_THE_RULE = [story for story in STORIES if story.check is not conformance.a_checkpoint_of_five_batches_ago_is_refused]


@pytest.mark.parametrize("story", BY_THE_RULE, ids=str)
def test_exactly_once_by_the_rule(story: Story, tmp_path: Path) -> None:
    story.check(AppendedOnce(tmp_path / "rows.sqlite"))


def test_what_only_appends_is_not_exactly_once(tmp_path: Path) -> None:
    """The stories tell the two apart."""
    sink = Appended(tmp_path / "rows.sqlite")
    sink.is_exactly_once = True
    with pytest.raises(AssertionError, match="more than once"):
        conformance.killed_around_every_call_to_the_publisher(sink)
