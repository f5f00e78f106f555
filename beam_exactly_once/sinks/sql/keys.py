"""Keys of an upsert: which shard each is of, and rows that have one key.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.rows.shards import shards_by
from beam_exactly_once.sinks.sql.collations import folded, is_collated
from beam_exactly_once.sinks.sql.target import SqlTarget

KEYS_AT_ONCE = 200
"""Keys that one question names: SQLite takes expressions of a thousand parts."""

_ROW = "__row"


def shards_of(batch: pa.RecordBatch, key_columns: tuple[str, ...], shards: int) -> pa.Array:
    """The shard of each row, by its key: what is one key to the database is always one shard's, on every worker.

    Columns whose texts only the database can tell apart have no say: a batch's rows of one shard are written in their order, and
    those of two in any.
    """
    telling = [name for name in key_columns if not is_collated(batch.schema.field(name))]
    rows = zip(*(batch.column(name).to_pylist() for name in telling), strict=True) if telling else [()] * batch.num_rows
    return shards_by(("\0".join(map(_folded, key)).encode() for key in rows), shards)


def has_one_shard(schema: pa.Schema, target: SqlTarget) -> bool:
    """Whether all rows are of one shard, however many there are: no column of the key tells them apart."""
    return target.mode == "upsert" and all(is_collated(schema.field(name)) for name in target.key_columns)


def _folded(value: Any) -> str:
    return folded(value) if isinstance(value, str) else repr(value)


def refuse_equal_keys(batch: pa.RecordBatch, target: SqlTarget) -> None:
    """Find before the commit what :func:`write_rows` would find after it.

    Raises:
        ConfigurationError: two rows have one key, and nothing says which is newer.
    """
    if target.newest_by is None:
        last_of_keys(pa.Table.from_batches([batch]), target)


def last_of_keys(rows: pa.Table, target: SqlTarget) -> pa.Array:
    """The positions of the last row of each key, ascending."""
    keys = list(target.key_columns)
    numbered = rows.select(keys).append_column(_ROW, pa.array(range(rows.num_rows), pa.int64()))
    last = numbered.group_by(keys).aggregate([(_ROW, "max"), (_ROW, "count")])
    if target.newest_by is None and last.num_rows < rows.num_rows:
        raise ConfigurationError(
            f"table {target.full_name} got several rows with one key ({', '.join(keys)}) in one batch, and nothing says which "
            "of them it is to keep. Give WriteToSql newest_by=, a column whose greatest value wins (of equal values, "
            "one), and start again: rows that wait are written by it, too."
        )
    positions = last[f"{_ROW}_max"]
    return positions.take(pc.sort_indices(positions))


def refuse_merged_keys(connection: sa.Connection, target: SqlTarget, keys: Sequence[tuple[Any, ...]]) -> None:
    """Find keys that only the database takes for one, once all are written: it has fewer rows of them then.

    Args:
        connection: in the transaction that wrote them.
        target: the table.
        keys: that differ here; as the driver takes them.

    Raises:
        ConfigurationError: two of them are one to the database, such as texts that differ in case alone.
    """
    quote = connection.dialect.identifier_preparer
    names = [quote.quote(name) for name in target.key_columns]
    table = quote.format_table(sa.table(target.table, schema=target.namespace))
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    # By the driver: a type that SQLAlchemy gives a value could be compared otherwise than the column's own.
    is_key = f"({' AND '.join(f'{name} = {mark}' for name in names)})"
    stored: set[tuple[Any, ...]] = set()
    for start in range(0, len(keys), KEYS_AT_ONCE):
        asked = keys[start : start + KEYS_AT_ONCE]
        statement = f"SELECT {', '.join(names)} FROM {table} WHERE {' OR '.join([is_key] * len(asked))}"
        values = tuple(value for key in asked for value in key)
        stored.update(map(tuple, connection.exec_driver_sql(statement, values)))
    if len(stored) < len(keys):
        raise ConfigurationError(
            f"table {target.full_name} got {len(keys)} different keys ({', '.join(target.key_columns)}) in one batch, which are "
            f"{len(stored)} to the database: its collation takes some texts for equal, and nothing says which row it is to keep. "
            "Give WriteToSql newest_by=, a column whose greatest value wins, or the columns a collation that tells their texts "
            "apart, and start again: rows that wait are written by it, too."
        )
