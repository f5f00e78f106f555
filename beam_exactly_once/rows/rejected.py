"""``Rejected``: a record that a step could not take, with the reason, for another sink of the same stream.

    orders, rejected = stream | ReadFromKafka(…) | DecodeRecords(decode, on_error="reject")
    orders | WriteToFiles("s3://lake/orders", schema=ORDERS)
    rejected | WriteToFiles("s3://lake/rejected", name="rejected")

What is rejected goes the way of every row: staged by the same attempt, committed in the same batch.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import pyarrow as pa

from beam_exactly_once.arguments import one_of
from beam_exactly_once.errors import BeamExactlyOnceError, ConfigurationError, UnfitRow
from beam_exactly_once.logs import RECORD_SCHEMA, Record
from beam_exactly_once.logs.records import Headers
from beam_exactly_once.rows.columns import name_of

OnError: TypeAlias = Literal["fail", "reject"]
Made = TypeVar("Made")

MAX_REASON_LETTERS = 1000
MAX_ROW_LETTERS = 4000

_REPR = reprlib.Repr()
_REPR.maxlevel = 4
_REPR.maxdict = _REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxfrozenset = 50
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 500


class Rejected(NamedTuple):
    """A record that a step could not take.

    Where the row was a :class:`~beam_exactly_once.Record`, or has its columns, these are as they were in
    Kafka. Of any other row there is its ``row``.
    """

    step: str
    """Name of the step: of a ``DecodeRecords``, or of a sink."""
    error: str
    """Type of the error."""
    reason: str
    """Text of the error, at most 1000 letters of it."""
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    timestamp_ms: int | None = None
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()
    row: str | None = None
    """The row as Python shows it, at most 4000 letters of it; None if the other fields say it all."""


REJECTED_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("step", pa.string()),
        pa.field("error", pa.string()),
        pa.field("reason", pa.string()),
        *(RECORD_SCHEMA.field(name) for name in Rejected._fields[3:-1]),
        pa.field("row", pa.string()),
    ]
)
"""The columns of :class:`Rejected`, in its order."""

_KAFKA_FIELDS = Rejected._fields[3:-1]


def schema_of(rows: Sequence[Any], schema: pa.Schema | None) -> pa.Schema | None:
    """``schema``; without one, that of rejected records where all ``rows`` are such: they bring their columns."""
    return REJECTED_SCHEMA if schema is None and all(type(row) is Rejected for row in rows) else schema


def rejected_of(row: Any, error: Exception, *, step: str) -> Rejected:
    """``row`` with the reason why ``step`` could not take it.

    Args:
        row: of any kind; or a ``pa.RecordBatch`` of one row.
        error: what was raised.
        step: name of the step.
    """
    kind, reason = name_of(type(error)), _printable(str(error))[:MAX_REASON_LETTERS]
    if isinstance(row, pa.RecordBatch):
        row = _row_of_batch(row)
    if isinstance(row, Record | Rejected):
        return Rejected(step, kind, reason, **{name: getattr(row, name) for name in _KAFKA_FIELDS})
    return Rejected(step, kind, reason, row=_shown(row))


def isolated(
    count: int,
    make: Callable[[int, int], Made],
    reject: Callable[[int, Exception], None],
    is_of_row: Callable[[Exception], bool],
) -> list[Made]:
    """What ``make(start, stop)`` makes of all of ``count`` rows but those that it cannot take, in few calls: by halves.

    Args:
        count: number of rows.
        make: makes something of rows ``[start, stop)``, or raises.
        reject: told about each row that ``make`` cannot take alone.
        is_of_row: whether an error of ``make`` is that of a row; others pass through.
    """
    made: list[Made] = []
    ranges = [(0, count)] if count else []
    while ranges:
        start, stop = ranges.pop()
        try:
            made.append(make(start, stop))
        except Exception as error:
            if not is_of_row(error):
                raise
            if stop - start == 1:
                reject(start, error)
            else:
                middle = (start + stop) // 2
                ranges += [(middle, stop), (start, middle)]  # the first half is next
    return made


def is_of_row(error: Exception) -> bool:
    """Whether an exception of a user's function speaks of its rows: not the library's other errors, nor a lack of memory."""
    return isinstance(error, UnfitRow) or not isinstance(error, BeamExactlyOnceError | MemoryError)


def checked_on_error(on_error: str, *, direct: bool = False) -> bool:
    """Whether to reject.

    Args:
        on_error: what becomes of a row that does not fit.
        direct: whether rows are written before the marker.

    Raises:
        ConfigurationError: it is neither ``"fail"`` nor ``"reject"``, or a direct sink is to reject.
    """
    one_of("on_error", on_error, get_args(OnError))
    if direct and on_error == "reject":
        raise ConfigurationError(
            'on_error="reject" needs another sink for what is rejected, and a sink with direct=True is the only one of its '
            "stream. Leave one of them out."
        )
    return on_error == "reject"


def _row_of_batch(batch: pa.RecordBatch) -> Any:
    try:
        (fields,) = batch.to_pylist()
    except (ValueError, OverflowError):  # a date that Python does not know
        return str(batch)
    if set(Record._fields) <= fields.keys():
        fields["headers"] = tuple((header["key"], header["value"]) for header in fields["headers"] or ())
        return Record(*(fields[name] for name in Record._fields))
    return fields


def _shown(row: Any) -> str:
    shown = _REPR.repr(dict(row) if isinstance(row, dict) else row)  # bounded, and bears a repr that fails
    return _printable(shown)[:MAX_ROW_LETTERS]


def _printable(text: str) -> str:
    """Without lone surrogates, which no file can hold."""
    return text.encode(errors="backslashreplace").decode()
