"""Rows as lines of text, and columns as CSV can hold them: never a value changed in silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.rows.columns import name_of
from beam_exactly_once.sinks.files.types import refuse_cut_zones, refuse_types, refuse_years


def text_lines(rows: Sequence[Any]) -> bytes:
    """One line a row, each with its newline.

    Args:
        rows: str, written as UTF-8, or bytes, written as they are.

    Raises:
        UnfitRow: a row is neither, or cannot be one line.
    """
    try:
        lines = b"".join([(row.encode() if isinstance(row, str) else row) + b"\n" for row in rows])
    except (TypeError, UnicodeEncodeError):
        raise UnfitRow(_no_text(rows)) from None
    return _one_line_each(lines, len(rows))


def text_lines_of_batch(batch: pa.RecordBatch) -> bytes:
    """One line a row of an Arrow batch with one column of text or bytes.

    Raises:
        UnfitRow: a row cannot be one line.
        ConfigurationError: it has other columns.
    """
    refuse_no_text(batch.schema)
    column = batch.column(0).cast(pa.large_binary())
    if column.null_count:
        raise UnfitRow(
            f"got a row without a value in column {batch.schema.names[0]!r}, and a line of text cannot be "
            "null. Drop such rows before the sink, or use another format=."
        )
    whole = pa.LargeListArray.from_arrays(pa.array([0, len(column)], pa.int64()), column)
    joined = pc.binary_join(whole, pa.scalar(b"\n", column.type))[0].as_buffer()
    return _one_line_each(joined.to_pybytes() + b"\n", batch.num_rows)


def refuse_no_text(schema: pa.Schema) -> None:
    """Refuse columns that are not lines of text.

    Raises:
        ConfigurationError: it is not one column of text or bytes.
    """
    if len(schema) != 1 or not (_is_string(schema.types[0]) or _is_binary(schema.types[0])):
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
        raise ConfigurationError(
            f"files of text have one column of text or bytes, besides those of partition_by; here "
            f'the columns are: {columns}. Name it: schema=pyarrow.schema([("value", pyarrow.binary())]).'
        )


def csv_columns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch in types that CSV can hold: bytes become text, dictionaries their values.

    Raises:
        UnfitRow: bytes are not text; a row would be an empty line; a date or a moment would be no text, or another.
        ConfigurationError: a type has no form in CSV.
    """
    schema = csv_schema(batch.schema)
    columns = [one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in batch.columns]
    if len(schema) == 1 and columns[0].null_count:
        raise UnfitRow(
            f"got a row without a value in its only column {schema.names[0]!r}: readers of CSV pass over the "
            "empty line that it would be. Drop such rows before the sink, or write a second column."
        )
    for number, field in enumerate(schema):
        try:
            columns[number] = columns[number].cast(field.type)
        except pa.ArrowInvalid:
            raise UnfitRow(
                f"got a row with bytes in column {field.name!r} that are not UTF-8, which CSV cannot hold. "
                'Make text of them before the sink (base64), or use format="json" or "parquet".'
            ) from None
        refuse_years(columns[number], field.name)
        refuse_cut_zones(columns[number], field.name)
    return batch if schema.equals(batch.schema) else pa.RecordBatch.from_arrays(columns, schema=schema)


def csv_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a CSV file for rows of ``schema``.

    Raises:
        ConfigurationError: a type has no form in CSV.
    """
    refuse_types(schema, "csv")
    return pa.schema([field.with_type(_csv_type(field)) for field in schema])


def _csv_type(field: pa.Field) -> pa.DataType:
    column_type = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if _is_string(column_type) or _is_binary(column_type):
        is_large = pa.types.is_large_string(column_type) or pa.types.is_large_binary(column_type)
        return pa.large_string() if is_large else pa.string()
    return column_type


def _is_string(column_type: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(column_type) for is_kind in kinds)


def _is_binary(column_type: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(is_kind(column_type) for is_kind in kinds)


def _one_line_each(lines: bytes, rows: int) -> bytes:
    if lines.count(b"\n") == rows and b"\r" not in lines:
        return lines
    raise UnfitRow(
        "got a row that holds a line end (\\n or \\r): readers would take it for several rows. Replace line "
        'ends before the sink, or use format="json", "csv" or "parquet".'
    )


def _no_text(rows: Sequence[Any]) -> str:
    kinds = sorted({name_of(type(row)) for row in rows} - {"str", "bytes"})
    return (
        f"got a row of type {', '.join(kinds) or 'str that is not Unicode text'}, and writes text. Give it str, "
        'bytes, or one column: schema=pyarrow.schema([("value", pyarrow.binary())]).'
    )
