"""Children of a process that has used a database: each has a session of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once.sinks.sql.database import SqlDatabase
from support.sql_stream import SqlStream

pytestmark = pytest.mark.runs_on("DirectRunner")

FORK = multiprocessing.get_context("fork")
WAIT_S = 180


@pytest.fixture
def stream(sql_variable: str, tmp_path: Path) -> Iterator[SqlStream]:
    stream = SqlStream(sql_variable, str(tmp_path / "checkpoint"))
    yield stream
    stream.execute("DROP TABLE IF EXISTS beam_exactly_once_receipts")


def test_a_child_that_dies_before_its_commit_leaves_nothing_to_its_sibling(stream: SqlStream) -> None:
    """In a session that both hold, the commit of one would be that of the other one's half."""
    stream.create()
    stream.send_rows([{"id": 0}])
    stream.run()  # the parent connects
    database = SqlDatabase(stream.url)

    def insert(connection: Any, number: int) -> None:
        connection.exec_driver_sql(f"INSERT INTO {stream.table} (id) VALUES ({number})")

    def dies_before_its_commit(told: Connection) -> None:
        def half(connection: Any) -> None:
            insert(connection, 1)
            told.send("written")
            signal.pause()

        database.transact(half, "writing a half")

    def commits() -> None:
        database.transact(lambda connection: insert(connection, 2), "writing a whole")
        os._exit(0)

    parents_end, childs_end = FORK.Pipe()
    first = FORK.Process(target=dies_before_its_commit, args=(childs_end,))
    first.start()
    try:
        assert parents_end.poll(WAIT_S)
        second = FORK.Process(target=commits)
        second.start()
        second.join(WAIT_S)
        assert second.exitcode == 0
    finally:
        first.kill()
        first.join(WAIT_S)

    assert stream.ids() == [0, 2]
    database.transact(lambda connection: insert(connection, 3), "writing in the parent")
    assert stream.ids() == [0, 2, 3]
