"""A table as it is: its columns, what of it rows must give, and rows as columns of it.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from beam_exactly_once.errors import ConfigurationError, OutputNotWritable, UnfitRow
from beam_exactly_once.kafka import Record
from beam_exactly_once.rows.columns import RECORD_FIELDS, name_of
from beam_exactly_once.rows.exact import refuse_impossible
from beam_exactly_once.rows.fields import KINDS, fields_of
from beam_exactly_once.rows.python_values import python_values, refuse_unreadable
from beam_exactly_once.sinks.sql.character_sets import characters_of
from beam_exactly_once.sinks.sql.collations import Equality, equalities
from beam_exactly_once.sinks.sql.rows import staged_field
from beam_exactly_once.sinks.sql.statements import larger_than
from beam_exactly_once.sinks.sql.target import SqlTarget
from beam_exactly_once.sinks.sql.types import Characters, ColumnType, Misfit, column_type
from beam_exactly_once.sinks.sql.types.json import MariadbJson


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One column that is written."""

    name: str
    declared: str
    """Its type, as the database says it."""
    type: ColumnType
    is_required: bool
    """Every row must give it a value."""
    has_default: bool
    """Where a row gives none, the database fills it in."""
    equality: Equality = "exact"
    """Which of its texts may be one to the database."""


@dataclasses.dataclass(frozen=True)
class SqlTable:
    """The columns of a table that a sink writes."""

    name: str
    columns: tuple[Column, ...]
    is_whole: bool
    """A field of a row that is none of these columns is a mistake; else the user chose to leave it out."""
    max_statement_bytes: int | None = None
    """A row must fit into one statement; None: of any size."""

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """As rows are staged."""
        return pa.schema(
            staged_field(
                one.name,
                one.type.arrow,
                has_default=one.has_default,
                equality=one.equality,
                reads_numbers=one.type.reads_numbers,
            )
            for one in self.columns
        )

    def block_of_rows(self, rows: Sequence[Any]) -> pa.RecordBatch:
        """Rows (mappings, NamedTuples, dataclasses, ``beam.Row``) as columns.

        Raises:
            UnfitRow: a row does not fit; names the column, its type and the value's.
        """
        mappings = [_fields(row) for row in rows]
        unknown = self._unknown(set().union(*mappings))
        if unknown:
            raise UnfitRow(self._no_columns(unknown, type(rows[0])))
        return self._block(lambda name: [row.get(name) for row in mappings], type(rows[0]))

    def block_of_records(self, fields: Sequence[Any]) -> pa.RecordBatch:
        """Kafka records, as one list of all their fields, as columns.

        Raises:
            UnfitRow: as :meth:`block_of_rows`.
            ConfigurationError: no record fits.
        """
        columns = {name: fields[number::RECORD_FIELDS] for number, name in enumerate(Record._fields)}
        return self._block_of_columns(columns, len(fields) // RECORD_FIELDS, Record)

    def block_of_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """An Arrow batch with the columns of the table.

        Raises:
            UnfitRow: as :meth:`block_of_rows`.
            ConfigurationError: no row of such a batch fits.
        """
        names = batch.schema.names
        if len(set(names)) != len(names):
            raise ConfigurationError(f"an Arrow batch has two columns of one name: {names}.")
        written = self.schema.names
        columns = {name: batch.column(name) if name in written else None for name in names}
        return self._block_of_columns(columns, batch.num_rows, pa.RecordBatch)

    def _block_of_columns(self, columns: Mapping[str, Any], count: int, kind: type) -> pa.RecordBatch:
        """Of rows that all have the same columns: one that is too much, or lacks, is the fault of none of them."""
        unknown = self._unknown(columns)
        if unknown:
            raise ConfigurationError(self._no_columns(unknown, kind))
        for column in self.columns:
            if column.is_required and column.name not in columns:
                raise ConfigurationError(self._no_value(column, kind))
        nulls = [None] * count
        return self._block(lambda name: columns.get(name, nulls), kind)

    def _block(self, values_of: Callable[[str], list[Any]], kind: type) -> pa.RecordBatch:
        arrays = [self._array(column, values_of(column.name), kind) for column in self.columns]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        needed = None if self.max_statement_bytes is None else larger_than(batch, self.max_statement_bytes)
        if needed is not None:
            raise UnfitRow(
                f"a row ({name_of(kind)}) needs a statement of {needed} bytes to be written to table {self.name}, and the server "
                f"takes {self.max_statement_bytes} at most. Make it smaller, or raise max_allowed_packet of the server."
            )
        return batch

    def _unknown(self, names: Iterable[str]) -> list[str]:
        """Fields of rows that are mistakes."""
        return sorted(str(name) for name in set(names) - set(self.schema.names)) if self.is_whole else []

    def _no_columns(self, unknown: list[str], kind: type) -> str:
        return (
            f"a row ({name_of(kind)}) has {', '.join(map(repr, unknown))}, which is not a column of table "
            f"{self.name} that can be written; those are {', '.join(self.schema.names)}. ALTER TABLE {self.name} ADD COLUMN, "
            "or name with columns= what is to be written."
        )

    def _no_value(self, column: Column, kind: type) -> str:
        return (
            f"a row ({name_of(kind)}) has no value for column {column.name!r} ({column.declared}) of table "
            f"{self.name}, which is NOT NULL and has no default, or is needed as a key. Give it one before the "
            "sink, route such rows elsewhere, or change the table."
        )

    def _array(self, column: Column, values: list[Any] | pa.Array, kind: type) -> pa.Array:
        array = _as_it_is(column, values) if isinstance(values, pa.Array) else None
        if array is None:
            listed = python_values(values, column.name) if isinstance(values, pa.Array) else values
            array = self._array_of_values(column, listed, kind)
        if column.is_required and array.null_count:
            raise UnfitRow(self._no_value(column, kind))
        return array

    def _array_of_values(self, column: Column, values: list[Any], kind: type) -> pa.Array:
        try:
            return column.type.staged(values)
        except (Misfit, TypeError, ValueError, OverflowError, pa.ArrowException):
            raise self._misfit(column, values, kind) from None

    def _misfit(self, column: Column, values: list[Any], kind: type) -> UnfitRow:
        for value in values:
            try:
                column.type.staged([value])
            except (Misfit, TypeError, ValueError, OverflowError, pa.ArrowException) as error:
                return UnfitRow(
                    f"a row ({name_of(kind)}) does not fit table {self.name}: column {column.name!r} is "
                    f"{column.declared}, the value is of type {name_of(type(value))} "
                    f"({error if isinstance(error, Misfit) else type(error).__name__}). Convert it before the sink, route such "
                    "rows elsewhere, or change the column."
                )
        return UnfitRow(f"rows do not fit column {column.name!r} ({column.declared}).")


def reflected(connection: sa.Connection, target: SqlTarget, dialect: str) -> SqlTable:
    """The table as it is now.

    Raises:
        OutputNotWritable: there is none, or it is not transactional.
        ConfigurationError: it is not what the sink's arguments say.
    """
    inspector = sa.inspect(connection)
    table, schema = target.table, target.namespace
    if not inspector.has_table(table, schema):
        raise OutputNotWritable(
            f"table {target.full_name} does not exist in the database, or is not visible to this user. Create it, or "
            "correct table=."
        )
    if dialect == "mysql":
        refuse_engine(inspector, table, schema)
    characters = characters_of(connection, target, dialect)
    compared = equalities(connection, target, dialect)
    described = {column["name"]: column for column in inspector.get_columns(table, schema)}
    for name in _checked_as_json(connection, target) & described.keys():
        declared = described[name]["type"]
        if isinstance(declared, mysql.LONGTEXT):
            described[name]["type"] = MariadbJson(charset=declared.charset, collation=declared.collation)
    primary_key = inspector.get_pk_constraint(table, schema)["constrained_columns"]
    keyed = set(target.compared_columns)
    columns = []
    for name, description in described.items():
        is_chosen = target.columns is None or name in target.columns
        is_generated = "computed" in description or _is_always_identity(description)
        is_row_id = dialect == "sqlite" and primary_key == [name] and isinstance(description["type"], sa.Integer)
        has_default = _has_default(description) or is_row_id
        if is_chosen and not (is_generated and target.columns is None):
            staged_as = _column_type(target, description, name in keyed, dialect, characters.get(name))
            is_required = name in keyed or not (description["nullable"] or has_default)
            shown, equality = repr(description["type"]), compared.get(name, "exact")
            columns.append(Column(name, shown, staged_as, is_required, has_default, equality))
        elif not (description["nullable"] or has_default or is_generated):
            raise ConfigurationError(
                f"column {name!r} of table {target.full_name} is NOT NULL and has no default, so it must be among the columns= "
                "of WriteToSql."
            )
    missing = [name for name in (*(target.columns or ()), *sorted(keyed)) if name not in described]
    if missing:
        raise ConfigurationError(
            f"table {target.full_name} has no column {missing[0]!r}, which WriteToSql needs; it has {', '.join(described)}."
        )
    if target.mode == "upsert":
        _refuse_keys(inspector, target, primary_key, [column.name for column in columns], dialect)
    max_bytes = connection.scalar(sa.text("SELECT @@max_allowed_packet")) if dialect == "mysql" else None
    return SqlTable(target.full_name, tuple(columns), target.columns is None, max_bytes)


def _checked_as_json(connection: sa.Connection, target: SqlTarget) -> set[str]:
    """Columns of MariaDB that take only what is JSON."""
    if not getattr(connection.dialect, "is_mariadb", False):
        return set()
    of_table = {"table": target.table, "schema": target.namespace}
    clauses = connection.execute(_CHECKS_OF_MARIADB, of_table).scalars()
    found = [_JSON_VALID.fullmatch(str(clause)) for clause in clauses]
    return {one[1].replace("``", "`") for one in found if one is not None}


_CHECKS_OF_MARIADB = sa.text(
    "SELECT check_clause FROM information_schema.check_constraints "
    "WHERE table_name = :table AND constraint_schema = COALESCE(:schema, DATABASE())"
)
_JSON_VALID = re.compile(r"json_valid\(`((?:[^`]|``)+)`\)", re.IGNORECASE)


def _column_type(
    target: SqlTarget, description: Any, is_keyed: bool, dialect: str, characters: Characters | None
) -> ColumnType:
    name, declared = description["name"], description["type"]
    staged_as = column_type(declared, dialect, characters)
    if staged_as is None:
        raise ConfigurationError(
            f"column {name!r} of table {target.full_name} is of type {declared!r}, which WriteToSql does not know. Leave it out "
            "with columns=, or write to a view that casts it."
        )
    if is_keyed and not staged_as.is_ordered:
        raise ConfigurationError(
            f"column {name!r} of table {target.full_name} is of type {declared!r}, which can be neither one of key_columns= nor "
            "newest_by= of WriteToSql: whether two of its values are equal is the database's to say."
        )
    if name in target.key_columns and pa.types.is_floating(staged_as.arrow):
        raise ConfigurationError(
            f"column {name!r} of table {target.full_name} is of type {declared!r}, which cannot be one of key_columns= of "
            "WriteToSql: databases round floating numbers, and take 0.0 and -0.0 for one. Use integers, decimals or texts."
        )
    return staged_as


def _has_default(description: Any) -> bool:
    default = description.get("default")
    is_null = default is None or str(default).upper().startswith("NULL")
    return not is_null or "identity" in description or description.get("autoincrement") is True


def _is_always_identity(description: Any) -> bool:
    return bool((description.get("identity") or {}).get("always"))


def refuse_engine(inspector: sa.Inspector, table: str, namespace: str | None) -> None:
    """Refuse a table of MySQL whose engine has no transactions.

    Raises:
        OutputNotWritable: it is such.
    """
    engine = inspector.get_table_options(table, namespace).get("mysql_engine", "InnoDB")
    if str(engine).lower() != "innodb":
        name = table if namespace is None else f"{namespace}.{table}"
        raise OutputNotWritable(
            f"table {name} is of engine {engine}, which has no transactions: ALTER TABLE {name} ENGINE=InnoDB."
        )


def _refuse_keys(
    inspector: sa.Inspector, target: SqlTarget, primary_key: Sequence[str], written: Sequence[str], dialect: str
) -> None:
    uniques = [set(primary_key)]
    uniques += [set(one["column_names"]) for one in inspector.get_unique_constraints(target.table, target.namespace)]
    for index in inspector.get_indexes(target.table, target.namespace):
        is_partial = bool(index.get("dialect_options", {}).get(f"{dialect}_where") is not None)
        if index["unique"] and not is_partial and None not in index["column_names"]:
            uniques.append({str(name) for name in index["column_names"]})
    key = set(target.key_columns)
    if key not in uniques:
        raise ConfigurationError(
            f"key_columns={list(target.key_columns)} of WriteToSql are neither the primary key nor a unique index of table "
            f"{target.full_name}. Name one, or CREATE UNIQUE INDEX on them."
        )
    others = [unique for unique in uniques if unique and unique != key and unique <= set(written)]
    if dialect == "mysql" and others:
        raise ConfigurationError(
            f"table {target.full_name} has another unique key, ({', '.join(sorted(others[0]))}), and MySQL would update a row "
            "that is equal in either. Leave one of its columns out with columns=, or drop it."
        )


def _as_it_is(column: Column, given: pa.Array) -> pa.Array | None:
    """A column of an Arrow batch as it is staged; None where its values must be looked at, or one of them is to be named."""
    refuse_impossible(given, column.name)
    refuse_unreadable(pa.RecordBatch.from_arrays([given], names=[column.name]))
    try:
        return column.type.staged_column(given)
    except Misfit:
        return None


def _fields(row: Any) -> Mapping[str, Any]:
    fields = fields_of(row)
    if fields is None:
        raise UnfitRow(f"got a row of type {name_of(type(row))}. Give it {KINDS}.")
    return fields
