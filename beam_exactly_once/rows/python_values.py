"""Columns that can be read as Python values, whole: what user code gets after the commit is proved before it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.exact import has_times, refuse_impossible


def python_values(column: pa.Array, name: str) -> list[Any]:
    """The values of a column as Python has them.

    Raises:
        UnfitRow: Python has one of them not: nanoseconds, a date beyond the year 9999, a zone that is not known.
    """
    refuse_impossible(column, name)
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except _UNREADABLE as error:
        raise _unreadable(column, name, error) from None


def refuse_unreadable(batch: pa.RecordBatch) -> None:
    """Find what ``to_pylist()`` would fail on: nanoseconds, days and moments beyond the years 1 to 9999, unknown zones.

    Raises:
        UnfitRow: a column holds such a value.
    """
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if not has_times(field.type):
            continue
        try:
            _read(column)
        except _UNREADABLE as error:
            raise _unreadable(column, field.name, error) from None


def _read(column: pa.Array) -> None:
    if pa.types.is_date(column.type) or (pa.types.is_timestamp(column.type) and column.type.unit != "ns"):
        for end in pc.min_max(column).values():  # whatever lies between two that can be read can be
            end.as_py()
    else:
        column.to_pylist()


_UNREADABLE = (ValueError, OverflowError, LookupError, NotImplementedError, pa.ArrowException)


def _unreadable(column: pa.Array, name: str, error: Exception) -> UnfitRow:
    return UnfitRow(
        f"a row does not fit: column {name!r} is of type {column.type}, and holds a value that Python cannot have "
        f"({type(error).__name__}). Python's times are of microseconds, in the years 1 to 9999, in zones that this "
        "machine knows. Cast the column before the sink, or route such rows elsewhere."
    )
