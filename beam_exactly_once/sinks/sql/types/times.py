"""Dates, times and moments; texts of them are ISO 8601."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from beam_exactly_once.sinks.sql.types.column import ColumnType, Maker, Misfit, as_text, same

_MYSQL_MOMENTS = (datetime.datetime(1970, 1, 1, 0, 0, 1), datetime.datetime(2038, 1, 19, 3, 14, 7))


def _moment(value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    text = as_text(value)
    return datetime.datetime.fromisoformat(f"{text[:-1]}+00:00" if text.endswith(("Z", "z")) else text)


def _mysql_moment(value: Any) -> datetime.datetime:
    moment = _moment(value)
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    first, last = _MYSQL_MOMENTS
    if not first <= moment <= last:
        raise Misfit("a TIMESTAMP of MySQL ends in 2038")
    return moment


def _day(value: Any) -> datetime.date:
    return datetime.date.fromisoformat(as_text(value))


def _time(value: Any) -> datetime.time:
    return datetime.time.fromisoformat(as_text(value))


def _moment_type(declared: Any, dialect: str, charset: str | None) -> ColumnType:
    zone = "UTC" if declared.timezone else None
    return ColumnType(pa.timestamp("us", zone), frozenset({datetime.datetime}), _moment)


MAKERS: dict[type, Maker] = {
    mysql.TIMESTAMP: same(ColumnType(pa.timestamp("us"), frozenset(), _mysql_moment)),
    sa.DateTime: _moment_type,
    sa.Date: same(ColumnType(pa.date32(), frozenset({datetime.date}), _day)),
    sa.Time: same(ColumnType(pa.time64("us"), frozenset({datetime.time}), _time)),
}
