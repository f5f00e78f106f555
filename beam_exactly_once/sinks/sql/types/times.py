"""Dates, times and moments; texts of them are ISO 8601."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from beam_exactly_once.rows.iso_texts import day_of, moment_of, time_of
from beam_exactly_once.sinks.sql.types.characters import Characters
from beam_exactly_once.sinks.sql.types.column import ColumnType, Maker, Misfit, as_text, same

_Read = TypeVar("_Read")
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""What Python, which writes the rows, has of moments: the years from 1 to 9999."""
_PAST_ZONES = datetime.timedelta(hours=16)
"""Of PostgreSQL's times."""
_MYSQL_MOMENTS = (datetime.datetime(1970, 1, 1, 0, 0, 1), datetime.datetime(2038, 1, 19, 3, 14, 7))


def _read(read: Callable[[str], _Read], text: str) -> _Read:
    try:
        return read(text)
    except ValueError as error:
        raise Misfit(str(error)) from None


def _moment(value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    return _read(moment_of, as_text(value))


def _mysql_moment(value: Any) -> datetime.datetime:
    moment = _moment(value)
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    first, last = _MYSQL_MOMENTS
    if not first <= moment <= last:
        raise Misfit("a TIMESTAMP of MySQL ends in 2038")
    return moment


def _day(value: Any) -> datetime.date:
    if isinstance(value, datetime.datetime):
        if value.time() != datetime.time() or value.tzinfo is not None:
            raise Misfit("a date has no time of day")
        return value.date()
    return _read(day_of, as_text(value))


def _time(value: Any) -> datetime.time:
    time = value if isinstance(value, datetime.time) else _read(time_of, as_text(value))
    if time.tzinfo is not None:
        raise Misfit("the zone of a time would be lost")
    return time


def _zoned_time(step_us: int) -> Callable[[Any], str]:
    """As text, since Arrow's times have no zone. To one without a zone PostgreSQL would give that of the session."""

    def checked(value: Any) -> str:
        time = value if isinstance(value, datetime.time) else _read(time_of, as_text(value))
        offset = time.utcoffset()
        if offset is None:
            raise Misfit("a time for this column needs a zone")
        if offset.microseconds or abs(offset) >= _PAST_ZONES:
            raise Misfit("PostgreSQL does not have its zone")
        if time.microsecond % step_us:
            raise Misfit(_too_fine(step_us))
        return time.isoformat()

    return checked


def _too_fine(step_us: int) -> str:
    return f"the column keeps no fractions of a second finer than {step_us / 1e6:g} s"


def _step_us(declared: Any, dialect: str) -> int:
    """The finest difference that a column keeps; beyond it, databases round or cut."""
    if dialect == "mysql":
        digits = getattr(declared, "fsp", None) or 0
    else:
        digits = getattr(declared, "precision", None)
    return 1 if digits is None else int(10 ** (6 - digits))


def _no_finer(step_us: int) -> Callable[[pa.Array], None]:
    def check(staged: pa.Array) -> None:
        if step_us == 1:
            return
        counts = staged.view(pa.int64())
        whole = pc.multiply(pc.divide(counts, step_us), step_us)
        if not pc.all(pc.fill_null(pc.equal(whole, counts), True)).as_py():
            raise Misfit(_too_fine(step_us))

    return check


def _in_years_of_python(step_us: int) -> Callable[[pa.Array], None]:
    no_finer = _no_finer(step_us)

    def check(staged: pa.Array) -> None:
        no_finer(staged)
        ends = pc.min_max(staged.view(pa.int64())).as_py()
        if ends["min"] is not None and not _FIRST_US <= ends["min"] <= ends["max"] <= _LAST_US:
            raise Misfit("in UTC it is not in the years from 1 to 9999")

    return check


def _moment_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    zone = "UTC" if declared.timezone else None
    check = _in_years_of_python(_step_us(declared, dialect))
    return ColumnType(pa.timestamp("us", zone), frozenset({datetime.datetime}), _moment, check=check)


def _mysql_timestamp_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    return ColumnType(pa.timestamp("us"), frozenset(), _mysql_moment, check=_no_finer(_step_us(declared, dialect)))


def _time_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    if dialect == "postgresql" and declared.timezone:
        return ColumnType(pa.string(), frozenset(), _zoned_time(_step_us(declared, dialect)), is_ordered=False)
    return ColumnType(pa.time64("us"), frozenset(), _time, check=_no_finer(_step_us(declared, dialect)))


MAKERS: dict[type, Maker] = {
    mysql.TIMESTAMP: _mysql_timestamp_type,
    sa.DateTime: _moment_type,
    sa.Date: same(ColumnType(pa.date32(), frozenset({datetime.date}), _day)),
    sa.Time: _time_type,
}
