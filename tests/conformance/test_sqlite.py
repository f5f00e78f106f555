"""The stories of sinks on rows in an SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once import WriteToSql
from beam_exactly_once.testing import STORIES, SinkUnderTest, Story
from beam_exactly_once.testing.conformance import Row


class Sqlite(SinkUnderTest):
    """A table each name."""

    late_batches = 20  # each takes a tenth of a second

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, name: str, shards: int) -> beam.PTransform[Any, Any]:
        with closing(sqlite3.connect(self._file)) as database, database:
            database.execute(f"create table if not exists {name} (id integer not null, text text not null)")
        return WriteToSql(f"sqlite:///{self._file}", name, name=name, shards=shards, direct=self.is_direct)

    def read(self, name: str) -> list[Row]:
        with closing(sqlite3.connect(self._file)) as database:
            return [{"id": one, "text": text} for one, text in database.execute(f"select id, text from {name}")]


@pytest.mark.parametrize("story", STORIES, ids=str)
def test_a_table(story: Story, tmp_path: Path) -> None:
    story.check(Sqlite(tmp_path / "rows.sqlite"))


class DirectSqlite(Sqlite):
    """Written before the marker."""

    is_direct = True


@pytest.mark.parametrize("story", STORIES, ids=str)
def test_a_table_that_is_written_directly(story: Story, tmp_path: Path) -> None:
    story.check(DirectSqlite(tmp_path / "rows.sqlite"))
