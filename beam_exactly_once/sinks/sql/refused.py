"""The rows that a database refuses by themselves: tried one upon the other, in savepoints.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa
import sqlalchemy as sa

from beam_exactly_once.sinks.sql.database import SqlDatabase
from beam_exactly_once.sinks.sql.rows import prove_writing, takes_copy, write_rows
from beam_exactly_once.sinks.sql.target import SqlTarget

_NUMBER = "__number"


def refused_rows(
    database: SqlDatabase, connection: sa.Connection, target: SqlTarget, batches: Iterable[pa.RecordBatch]
) -> dict[int, str]:
    """The positions of rows that are refused, and what the driver said of each. The others are written, to be rolled back.

    Raises:
        the driver's errors: those that pass, or that are no row's fault.
    """
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    if not tables:
        return {}
    rows = pa.concat_tables(tables, promote_options="default")
    rows = rows.append_column(_NUMBER, pa.array(range(rows.num_rows), pa.int64()))
    if target.newest_by is not None:  # where the newest of a key is refused, the one before it stays
        rows = rows.sort_by([(target.newest_by, "ascending")])
    is_copied = takes_copy(connection, target)
    prove_writing(connection, target, rows.drop_columns([_NUMBER]).schema, is_copied=is_copied)
    if database.dialect == "postgresql":  # those that are looked at when the transaction ends
        connection.execute(sa.text("SET CONSTRAINTS ALL IMMEDIATE"))
    refused: dict[int, str] = {}

    def write(some: pa.Table) -> None:
        with connection.begin_nested():
            write_rows(connection, target, some.drop_columns([_NUMBER]).to_batches(), is_copied=is_copied)

    _try(database, write, rows, refused)
    return refused


def _try(database: SqlDatabase, write: Callable[[pa.Table], None], rows: pa.Table, refused: dict[int, str]) -> None:
    """Write the rows, in halves where they are refused together."""
    try:
        write(rows)
    except database.errors as error:
        said = database.refusal(error)
        if said is None:
            raise
        if rows.num_rows == 1:
            refused[rows.column(_NUMBER)[0].as_py()] = said
            return
    else:
        return
    middle = rows.num_rows // 2
    _try(database, write, rows.slice(0, middle), refused)
    _try(database, write, rows.slice(middle), refused)
