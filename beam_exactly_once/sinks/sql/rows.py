"""Staged rows into a table: appended, or as the newest of their keys.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from beam_exactly_once.rows.columns import whole_batch
from beam_exactly_once.sinks.sql.binary_copy import BEGIN, END, binary_rows, is_known
from beam_exactly_once.sinks.sql.collations import EQUALITY, Equality, is_exact
from beam_exactly_once.sinks.sql.keys import last_of_keys, refuse_merged_keys
from beam_exactly_once.sinks.sql.target import SqlTarget, quoted
from beam_exactly_once.sinks.sql.types.numbers import begins_number, number_of_sqlite

ROWS_AT_ONCE = 1000
"""Rows that one statement takes."""
ROWS_COPIED_AT_ONCE, BYTES_COPIED_AT_ONCE = 16_384, 8 << 20
"""Of COPY, which takes any number."""

_HAS_DEFAULT = b"has_default"
_READS_NUMBERS = b"reads_numbers"


def staged_field(
    name: str, arrow: pa.DataType, *, has_default: bool, equality: Equality = "exact", reads_numbers: bool = False
) -> pa.Field:
    """A column of staged rows, which says what the rows do not.

    Args:
        name: of the column.
        arrow: its type.
        has_default: whether null means the column's default.
        equality: which of its texts may be one to the database.
        reads_numbers: whether SQLite makes a number of a text that is one.
    """
    what = ((_HAS_DEFAULT, has_default), (_READS_NUMBERS, reads_numbers))
    said = {key: b"1" for key, is_so in what if is_so}
    if equality != "exact":
        said[EQUALITY] = equality.encode()
    return pa.field(name, arrow, metadata=said or None)


def write_rows(
    connection: sa.Connection,
    target: SqlTarget,
    batches: Iterable[pa.RecordBatch],
    *,
    is_copied: bool | None = None,
) -> None:
    """Write all rows that a batch has for one shard.

    Args:
        connection: to the database.
        target: the table.
        batches: the rows.
        is_copied: what :func:`takes_copy` said in this transaction; None: it is asked.

    Raises:
        ConfigurationError: two rows have one key, to the database at least, and nothing says which is newer.
        and the driver's errors.
    """
    if target.mode == "upsert":
        batches = list(_newest(list(batches), target))
    given = (part for batch in batches for part in _given(batch))
    if is_copied is None:
        is_copied = takes_copy(connection, target)
    for schema, parts in groupby(given, key=lambda part: part.schema):
        if is_copied:
            _copy(connection, target, schema, parts)
        else:
            statement = insert_statement(target, schema.names, connection.dialect.name)
            for part in parts:
                connection.execute(statement, _mappings(part, connection.dialect.name))
    if target.mode == "upsert" and target.newest_by is None:
        keys = (batch.select(list(target.key_columns)) for batch in batches)
        suspected = [batch for batch in keys if not all(map(is_exact, batch.schema))]
        rows = (row for batch in suspected for row in _mappings(batch, connection.dialect.name))
        refuse_merged_keys(connection, target, [tuple(row.values()) for row in rows])


def insert_statement(target: SqlTarget, names: Iterable[str], dialect: str) -> Any:
    """INSERT of these columns, for any number of rows; with ``mode="upsert"`` also what a known key does.

    Columns have no types here: values go to the driver as they were staged.
    """
    table = sa.table(target.table, *(sa.column(name) for name in names), schema=target.namespace)
    if target.mode == "append":
        return sa.insert(table)
    others = [column for column in table.c if column.name not in target.key_columns]
    if dialect == "postgresql" or dialect == "sqlite":
        insert: Any = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
        if not others:
            return insert.on_conflict_do_nothing(index_elements=list(target.key_columns))
        changed = {column.name: insert.excluded[column.name] for column in others}
        return insert.on_conflict_do_update(index_elements=list(target.key_columns), set_=changed)
    of_mysql = mysql.insert(table)
    changed = {column.name: of_mysql.inserted[column.name] for column in others or [table.c[target.key_columns[0]]]}
    return of_mysql.on_duplicate_key_update(changed)


def prove_writing(
    connection: sa.Connection, target: SqlTarget, schema: pa.Schema, *, is_copied: bool | None = None
) -> None:
    """Write no row, by the statement of :func:`write_rows`: whether the table takes it, and whether this user may.

    Raises:
        the driver's errors.
    """
    if takes_copy(connection, target) if is_copied is None else is_copied:
        _copy(connection, target, schema, ())
        return
    names = schema.names
    nothing = sa.select(*(sa.null().label(name) for name in names)).where(sa.false())
    statement = insert_statement(target, names, connection.dialect.name)
    connection.execute(statement.from_select(names, nothing))


def _newest(batches: list[pa.RecordBatch], target: SqlTarget) -> Iterator[pa.RecordBatch]:
    """One row a key, in the order of ``newest_by``, so that also keys that only the database takes for equal end right."""
    if not batches:
        return
    rows = pa.concat_tables([pa.Table.from_batches([batch]) for batch in batches], promote_options="default")
    if target.newest_by is not None:
        rows = rows.sort_by([(target.newest_by, "ascending")])
    yield from rows.take(last_of_keys(rows, target)).to_batches(max_chunksize=ROWS_AT_ONCE)


def _says(field: pa.Field, what: bytes) -> bool:
    return what in (field.metadata or {})


def _given(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The same rows without columns that have no value where the database has a default for them."""
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if not _says(field, _HAS_DEFAULT) or not column.null_count or batch.num_columns == 1:
            continue
        is_given = pc.is_valid(column)
        if column.null_count < batch.num_rows:
            yield from _given(batch.filter(is_given))
        others = [name for name in batch.schema.names if name != field.name]
        yield from _given(batch.filter(pc.invert(is_given)).select(others))
        return
    yield batch


def takes_copy(connection: sa.Connection, target: SqlTarget) -> bool:
    """Whether rows are written by COPY of psycopg, several times faster than INSERT.

    PostgreSQL refuses it for views and under row-level security, and runs no rules for it. All of these may come while a stream
    runs, so each transaction asks anew.
    """
    if target.mode != "append" or connection.dialect.driver != "psycopg":
        return False
    return bool(connection.scalar(_TAKES_COPY, {"table": target.quoted_name}))


_TAKES_COPY = sa.text(
    "SELECT relkind IN ('r', 'p') AND NOT relhasrules AND NOT row_security_active(oid) FROM pg_class "
    "WHERE oid = to_regclass(:table)"
)


def _copy(connection: sa.Connection, target: SqlTarget, schema: pa.Schema, parts: Iterable[pa.RecordBatch]) -> None:
    """Binary where all columns have types whose bytes are known here, several times faster; else as text."""
    driver: Any = connection.connection.driver_connection
    types = _own_types(connection, target)
    is_binary = driver.info.encoding == "utf-8" and all(is_known(one.type, types.get(one.name, "")) for one in schema)
    form = " (FORMAT BINARY)" if is_binary else ""
    statement = f"COPY {target.quoted_name} ({', '.join(map(quoted, schema.names))}) FROM STDIN{form}"
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        if is_binary:
            copy.write(BEGIN)
            for part in _joined(parts):
                copy.write(binary_rows(part, types))
            copy.write(END)
        else:
            for part in parts:
                for row in zip(*(column.to_pylist() for column in part.columns), strict=True):
                    copy.write_row(row)


def _joined(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in larger batches: to make bytes of a small one costs nearly as much."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for part in parts:
        waiting.append(part)
        rows, size = rows + part.num_rows, size + part.nbytes
        if rows >= ROWS_COPIED_AT_ONCE or size >= BYTES_COPIED_AT_ONCE:
            yield whole_batch(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield whole_batch(waiting)


def _own_types(connection: sa.Connection, target: SqlTarget) -> dict[str, str]:
    """PostgreSQL's own types of a table's columns: of a domain that below it, of an enumeration text, of all else none."""
    found = connection.execute(_OWN_TYPES, {"table": target.quoted_name})
    return {one.attname: one.typname for one in found}


_OWN_TYPES = sa.text(
    "SELECT attname, CASE base.typtype WHEN 'e' THEN 'text' ELSE base.typname END AS typname "
    "FROM pg_attribute JOIN pg_type declared ON declared.oid = atttypid "
    "JOIN pg_type base ON base.oid = COALESCE(NULLIF(declared.typbasetype, 0), declared.oid) "
    "WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped "
    "AND (base.typtype = 'e' OR base.typtype = 'b' AND base.typnamespace = 'pg_catalog'::regnamespace)"
)


def _mappings(batch: pa.RecordBatch, dialect: str) -> list[dict[str, Any]]:
    if dialect != "sqlite":
        return batch.to_pylist()  # type: ignore[no-any-return]
    columns = [_for_sqlite(column, field) for column, field in zip(batch.columns, batch.schema, strict=True)]
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _for_sqlite(column: pa.Array, field: pa.Field) -> list[Any]:
    """SQLite knows neither decimals nor times: they become the numbers that it keeps, and texts."""
    values = column.to_pylist()
    convert: Callable[[Any], Any] | None = None
    if pa.types.is_decimal(column.type):
        convert = number_of_sqlite
    elif _says(field, _READS_NUMBERS):
        convert = _number_or_text
    elif pa.types.is_timestamp(column.type):
        convert = _moment_text
    elif pa.types.is_date(column.type) or pa.types.is_time(column.type):
        convert = _iso_text
    return values if convert is None else [None if value is None else convert(value) for value in values]


def _number_or_text(text: str) -> int | float | str:
    return number_of_sqlite(Decimal(text)) if begins_number(text) else text


def _moment_text(value: Any) -> str:
    return str(value.isoformat(" ", "microseconds"))


def _iso_text(value: Any) -> str:
    return str(value.isoformat())
