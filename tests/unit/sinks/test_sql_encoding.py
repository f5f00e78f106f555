"""How often a SQL sink looks at its table."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once.sinks.sql import encoding
from beam_exactly_once.sinks.sql.database import SqlDatabase
from beam_exactly_once.sinks.sql.encoding import SqlEncoding
from beam_exactly_once.sinks.sql.target import SqlTarget

TARGET = SqlTarget("t", None, None, "append", (), None, None, 1)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    reflected = encoding.reflected

    def noting(*arguments: Any) -> Any:
        found.append(arguments)
        return reflected(*arguments)

    monkeypatch.setattr(encoding, "reflected", noting)
    return found


def test_rows_that_are_all_rejected_cost_two_looks(tmp_path: Path, looks: list[Any]) -> None:
    """One, and one more since the table may have changed; not one for each row that is tried alone."""
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute("CREATE TABLE t (id INTEGER)")
    blocks = SqlEncoding(SqlDatabase(f"sqlite:///{tmp_path}/db"), TARGET).rejecting_blocks("sink")
    assert blocks.of_rows([{"id": f"x{number}"} for number in range(64)]) == []
    assert len(blocks.rejected) == 64
    assert len(looks) == 2


def test_the_next_bundle_looks_again(tmp_path: Path, looks: list[Any]) -> None:
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute("CREATE TABLE t (id INTEGER)")
    of_sink = SqlEncoding(SqlDatabase(f"sqlite:///{tmp_path}/db"), TARGET)
    for _ in range(2):
        blocks = of_sink.blocks()
        for _ in range(3):
            blocks.of_rows([{"id": 7}])
    assert len(looks) == 2
