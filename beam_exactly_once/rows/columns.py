"""Rows of any kind to Arrow columns of one schema: never a value changed in silence."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.kafka import RECORD_SCHEMA, Record
from beam_exactly_once.rows.absent_columns import MAY_BE_ABSENT, needed_columns
from beam_exactly_once.rows.exact import Changed, cast_exactly, is_possible, refuse_changed, refuse_impossible
from beam_exactly_once.rows.fields import KINDS, columns_of
from beam_exactly_once.rows.iso_texts import reader_of

RECORD_FIELDS = len(Record._fields)
"""Of one record, where the fields of many are in one list."""

_MISFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""What pyarrow raises for a value that a type cannot hold."""
_ARRAY_CODES = {pa.int64(): "q", pa.int32(): "i", pa.int8(): "b"}


def batch_of_rows(rows: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    """The rows as columns of ``schema``, in order.

    Fields that ``schema`` does not name are left out; a missing one is null.

    Args:
        rows: at least one.
        schema: columns and types.

    Raises:
        UnfitRow: a row does not fit ``schema``. The message names the column, its type and the row's type.
    """
    batches = [_batch_of_kind(kind, list(run), schema) for kind, run in groupby(rows, key=type)]
    return whole_batch(batches)


def batch_of_records(fields: Sequence[Any], schema: pa.Schema | None) -> pa.RecordBatch:
    """Kafka records as columns of ``schema``, or of :data:`RECORD_SCHEMA` when there is none.

    Args:
        fields: the fields of the first record, then those of the second and so on: a list of records would keep
            the garbage collector busy.
        schema: columns and types, by the names of the fields.

    Raises:
        UnfitRow: as :func:`batch_of_rows`.
        ConfigurationError: records have no such column.
    """
    columns = {name: fields[number::RECORD_FIELDS] for number, name in enumerate(Record._fields)}
    if schema is None:
        arrays = [_record_array(columns[field.name], field) for field in RECORD_SCHEMA]
        return pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)
    if columns.keys().isdisjoint(schema.names):
        raise ConfigurationError(str(_no_columns(Record, schema)))  # no record has them
    misspelt = [name for name in needed_columns(schema) if name not in columns]
    if misspelt:
        raise ConfigurationError(
            f"schema= names the column {misspelt[0]!r}, which no Kafka record has: it would be null in every row. Records have "
            f"{', '.join(Record._fields)}. Correct it, leave it out, or say that rows may lack it: "
            f"pyarrow.field({misspelt[0]!r}, …, metadata={{{MAY_BE_ABSENT.decode()!r}: 'true'}})."
        )
    nulls = [None] * len(columns["offset"])
    arrays = [column_of(columns.get(field.name, nulls), field, Record) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def fitted_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """``batch`` with the columns and types of ``schema``; itself if it has them already.

    Raises:
        UnfitRow: a value cannot be cast without loss.
        ConfigurationError: a column is missing, or of a type that cannot be cast.
    """
    if batch.schema.equals(schema):
        return checked_batch(batch)
    columns = []
    for field in schema:
        try:
            column = batch.column(field.name)
        except KeyError:
            raise ConfigurationError(
                f"got an Arrow batch without exactly one column {field.name!r}; it has "
                f"{', '.join(batch.schema.names)}. Every batch must have the columns of the sink's schema."
            ) from None
        refuse_impossible(column, field.name)
        try:
            columns.append(_not_null(column if column.type == field.type else cast_exactly(column, field.type), field))
        except pa.ArrowException as error:
            kind = UnfitRow if isinstance(error, pa.ArrowInvalid) else ConfigurationError
            raise kind(
                f"column {field.name!r} of an Arrow batch is of type {column.type} and cannot become "
                f"{field.type}: {said(error)}. Change the sink's schema=, or cast the column before it."
            ) from None
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def checked_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """``batch``, if its values are what its schema says.

    Raises:
        UnfitRow: one is not.
        ConfigurationError: two columns have one name, and what reads rows by their names would see one of them.
    """
    names = batch.schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError(
            f"got an Arrow batch with two columns {twice!r}, of which readers would see one. Rename one before the sink, as "
            "batch.rename_columns(…) does, or leave it out."
        )
    for column, field in zip(batch.columns, batch.schema, strict=True):
        refuse_impossible(_not_null(column, field), field.name)
    return batch


def check_schema(schema: object) -> None:
    """Refuse what cannot be the schema of a sink's rows.

    Raises:
        ConfigurationError: it is not a schema, or has no columns, or two of one name.
    """
    if not isinstance(schema, pa.Schema):
        raise ConfigurationError(
            f"schema= must be a pyarrow.Schema, not a {type(schema).__name__}: "
            'pyarrow.schema([("name", pyarrow.string()), …]).'
        )
    if not schema.names or len(set(schema.names)) != len(schema.names):
        raise ConfigurationError("schema= must have at least one column, and no two of one name.")


def whole_batch(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Batches of one schema, with rows, as one."""
    if len(batches) == 1:
        return batches[0]
    (whole,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return whole


def _batch_of_kind(kind: type, rows: list[Any], schema: pa.Schema) -> pa.RecordBatch:
    columns = columns_of(rows, schema.names)
    if columns is None:
        raise _no_columns(kind, schema)
    arrays = [column_of(values, field, kind) for values, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _no_columns(kind: type, schema: pa.Schema) -> UnfitRow:
    return UnfitRow(
        f"got a row of type {name_of(kind)}, which has none of the columns {', '.join(schema.names)}. Give it {KINDS}."
    )


def _record_array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    """A column of Kafka records; what is known of them makes it twice as fast."""
    fast = None
    if field.name == "topic":
        fast = _repeated(values, field.type)
    elif field.name == "headers":
        fast = None if any(values) else _empty_lists(len(values), field.type)
    elif field.type in _ARRAY_CODES:
        fast = _integers(values, field.type)
    return column_of(values, field, Record) if fast is None else fast


def _repeated(values: Sequence[Any], arrow_type: pa.DataType) -> pa.Array | None:
    """The array of one text repeated; None if it is not."""
    first = values[0]
    if type(first) is str and values.count(first) == len(values):
        return pa.repeat(pa.scalar(first, arrow_type), len(values))
    return None


def _empty_lists(size: int, arrow_type: pa.DataType) -> pa.Array:
    starts = pa.Array.from_buffers(pa.int32(), size + 1, [None, pa.py_buffer(bytes(4 * (size + 1)))])
    return pa.ListArray.from_arrays(starts, pa.array([], arrow_type.value_type), type=arrow_type)


def _integers(values: Sequence[Any], arrow_type: pa.DataType) -> pa.Array | None:
    """The array of whole numbers that fit; None if any does not, or is null. The standard library refuses fractions."""
    try:
        numbers = array(_ARRAY_CODES[arrow_type], values)
    except (TypeError, OverflowError):
        return None
    return pa.Array.from_buffers(arrow_type, len(values), [None, pa.py_buffer(numbers)])


def column_of(values: Sequence[Any], field: pa.Field, kind: type) -> pa.Array:
    """One column.

    Args:
        values: of the rows.
        field: name, type, and whether null is one of its values.
        kind: of the rows, for messages.

    Raises:
        UnfitRow: as :func:`batch_of_rows`.
    """
    try:
        column = _exact_array(values, field.type)
    except _MISFIT:
        raise _misfit(values, field, kind) from None
    return _not_null(column, field)


def _exact_array(values: Sequence[Any], arrow_type: pa.DataType) -> pa.Array:
    """The array of ``values``, among them texts of dates, times and moments. Raises one of ``_MISFIT``."""
    try:
        column = pa.array(values, arrow_type)
    except pa.ArrowTypeError:
        read = reader_of(arrow_type)
        if read is None or str not in map(type, values):
            raise
        values = [read(value) if type(value) is str else value for value in values]
        column = pa.array(values, arrow_type)
    refuse_changed(values, arrow_type)
    if not is_possible(column):
        raise ValueError("it is beyond what the type has")
    return column


def _not_null(column: pa.Array, field: pa.Field) -> pa.Array:
    if not field.nullable and _nulls(column):
        raise UnfitRow(
            f"a row has no value in column {field.name!r}, which its schema declares not nullable. "
            "Declare the column nullable, or drop such rows before the sink."
        )
    return column


def _nulls(column: pa.Array) -> int:
    """Of a dictionary also those among its values, which Arrow does not count."""
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return int(column.null_count)


def _misfit(values: Sequence[Any], field: pa.Field, kind: type) -> UnfitRow:
    for value in values:
        try:
            _exact_array([value], field.type)
        except _MISFIT as error:
            return UnfitRow(
                f"a row ({name_of(kind)}) does not fit its schema: column {field.name!r} is "
                f"{field.type}, the value is of type {name_of(type(value))} ({said(error)}). "
                f"Change schema=, convert the value before the sink, or route such rows elsewhere."
            )
    return UnfitRow(f"rows do not fit column {field.name!r} ({field.type}).")


def name_of(kind: type) -> str:
    """A type's name, for messages."""
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def said(error: Exception) -> str:
    """What an error says of a value, without the value: Arrow and Python quote it."""
    is_ours = type(error) is ValueError or isinstance(error, Changed | pa.ArrowNotImplementedError)
    return " ".join(str(error).split())[:100] if is_ours else type(error).__name__
