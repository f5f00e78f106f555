"""Functions for ``ForEachBatch``. They are pickled, by reference, so they find by a name what a test looks at or changes."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from beam_exactly_once import BatchRows

CALLS: dict[str, list[tuple[int, list[Any]]]] = defaultdict(list)
"""What user code was called with, by a name."""
HOOKS: dict[tuple[str, str], Callable[[int], None]] = {}
"""What runs before a step of user code, by the step and a name; it takes the batch's number."""


def noting(name: str, of_row: Callable[[Any], Any]) -> Callable[[BatchRows], None]:
    """Notes something of each row."""
    return partial(_note, name, of_row)


def noting_arrow(name: str, of_batch: Callable[[Any], Any]) -> Callable[[BatchRows], None]:
    """Notes something of each Arrow batch."""
    return partial(_note_arrow, name, of_batch)


def storing(database: str) -> Callable[[BatchRows], None]:
    """Follows the rule: column ``number`` of the rows, and the batch's number, in one transaction."""
    return partial(_store, database)


def _hook(step: str, name: str, batch_id: int) -> None:
    HOOKS.get((step, name), lambda batch_id: None)(batch_id)


def _note(name: str, of_row: Callable[[Any], Any], rows: BatchRows) -> None:
    _hook("call", name, rows.batch_id)
    CALLS[name].append((rows.batch_id, [of_row(row) for row in rows]))


def _note_arrow(name: str, of_batch: Callable[[Any], Any], rows: BatchRows) -> None:
    CALLS[name].append((rows.batch_id, [of_batch(batch) for batch in rows.arrow()]))


def _store(database: str, rows: BatchRows) -> None:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        _hook("begin", database, rows.batch_id)
        connection.execute("create table if not exists numbers (number integer)")
        connection.execute("create table if not exists stored (stream text primary key, batch_id integer)")
        connection.execute("begin immediate")
        found = connection.execute("select batch_id from stored where stream = ?", [rows.stream_id]).fetchone()
        if found is None or found[0] < rows.batch_id:
            connection.executemany("insert into numbers values (:number)", rows)
            connection.execute("insert or replace into stored values (?, ?)", [rows.stream_id, rows.batch_id])
        _hook("commit", database, rows.batch_id)
        connection.execute("commit")
