"""When a row happened: by a column, or a function of the row, in milliseconds since 1970 UTC. Pure, but for that function.

A time is a whole number of milliseconds, or a ``datetime`` with a zone, of which parts of a millisecond do not count. Of Arrow, a
column of such integers, or of timestamps with a zone.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.rows.fields import columns_of

By: TypeAlias = str | Callable[[Any], Any]
"""The name of a column, or a function of the row."""
Times: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

EARLIEST_MS, LATEST_MS = -(10**15), 10**15
"""No row happened outside of these, some 30,000 years away from 1970: such a number is not one of milliseconds."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MILLISECOND = datetime.timedelta(milliseconds=1)


def checked_by(argument: str, by: object) -> By:
    """
    Raises:
        ConfigurationError: it is neither a name nor a function.
    """
    if not (callable(by) or (isinstance(by, str) and by)):
        raise ConfigurationError(
            f"{argument}={by!r} must say when a row happened: the name of a column, or a function of the row that gives "
            "milliseconds since 1970 UTC or a datetime with a zone."
        )
    return by


def times_of_rows(by: By, rows: Sequence[Any], *, step: str) -> Times:
    """When each of these rows happened.

    Args:
        by: column or function.
        rows: of any kind but Arrow batches.
        step: who asks, for errors.

    Raises:
        UnfitRow: a row has no such time.
        Anything that the function raises.
    """
    if not rows:
        return np.zeros(0, np.int64)
    if callable(by):
        values = list(map(by, rows))
    else:
        values = _column(by, rows)
    if not {*map(type, values)} <= {int}:
        values = [_milliseconds(value, by, step) for value in values]
    try:
        times = np.array(values, np.int64)
    except OverflowError:
        times = np.array([LATEST_MS + 1])
    return _possible(times, by, step)


def time_of_row(by: By, row: Any, *, step: str) -> int:
    """When one row happened: as :func:`times_of_rows`, which costs much more of a row alone."""
    value = by(row) if callable(by) else row.get(by) if type(row) is dict else _column(by, [row])[0]
    at_ms = value if type(value) is int else _milliseconds(value, by, step)
    if not EARLIEST_MS <= at_ms <= LATEST_MS:
        raise _impossible(by, step)
    return at_ms


def _column(name: str, rows: Sequence[Any]) -> list[Any]:
    """The value of a column in each row, None where it has none."""
    if len({*map(type, rows)}) > 1:
        return [value for row in rows for value in _column(name, [row])]
    found = columns_of([*rows], [name])
    return [None] * len(rows) if found is None else list(found[0])


def times_of_batch(by: By, batch: pa.RecordBatch, *, step: str) -> Times:
    """When each row of an Arrow batch happened.

    Args:
        by: column, or a function of the batch that gives a column.
        batch: the rows.
        step: who asks, for errors.

    Raises:
        UnfitRow: a row has no such time.
        Anything that the function raises.
    """
    if callable(by):
        column = by(batch)
    elif by in batch.schema.names:
        column = batch.column(by)
    else:
        raise UnfitRow(f"step {step!r}: the Arrow batch has no column {by!r} that says when a row happened.")
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not isinstance(column, pa.Array) or len(column) != batch.num_rows:
        raise UnfitRow(
            f"step {step!r}: {_shown(by)} of an Arrow batch must give a pyarrow.Array with a time for each row."
        )
    if column.null_count:
        raise UnfitRow(f"step {step!r}: {_shown(by)} is null in {column.null_count} rows, which have no time then.")
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = pc.floor_temporal(column, unit="millisecond").cast(pa.timestamp("ms", column.type.tz)).cast(pa.int64())
    elif not pa.types.is_signed_integer(column.type):
        raise UnfitRow(
            f"step {step!r}: {_shown(by)} is of type {column.type}; give milliseconds since 1970 UTC as signed integers, or "
            "timestamps with a zone."
        )
    return _possible(column.cast(pa.int64()).to_numpy(zero_copy_only=False), by, step)


def _milliseconds(value: Any, by: By, step: str) -> int:
    if type(value) is int:
        return value
    if isinstance(value, datetime.datetime) and value.utcoffset() is not None:
        return (value - _EPOCH) // _MILLISECOND
    said = "a datetime without a zone" if isinstance(value, datetime.datetime) else f"of type {type(value).__name__}"
    raise UnfitRow(
        f"step {step!r}: {_shown(by)} of a row is {said}; give milliseconds since 1970 UTC as an int, or a datetime with a zone."
    )


def _possible(times: Times, by: By, step: str) -> Times:
    if len(times) and not (times.min() >= EARLIEST_MS and times.max() <= LATEST_MS):
        raise _impossible(by, step)
    return times


def _impossible(by: By, step: str) -> UnfitRow:
    return UnfitRow(
        f"step {step!r}: {_shown(by)} of a row is no time in milliseconds since 1970 UTC, but may be one in micro- or "
        "nanoseconds."
    )


def _shown(by: By) -> str:
    return f"column {by!r}" if isinstance(by, str) else f"the function {getattr(by, '__qualname__', type(by).__name__)}"
