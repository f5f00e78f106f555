"""Dates, times and moments as ISO 8601 texts: whole, or refused. Every sink reads them by the same rule.

In the extended form alone, with ``-`` and ``:``. Without them any number may look like a date, and Python's versions differ.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa

_Read = TypeVar("_Read")
_DAY = r"\d{4}-\d\d-\d\d"
_TIME = r"(?P<clock>\d\d:\d\d(?::\d\d)?)(?:(?<=:\d\d:\d\d)[.,](?P<fraction>\d+))?"
_ZONE = r"(?:[Zz]|(?P<hours>[+-]\d\d)(?::?(?P<minutes>\d\d(?::\d\d)?))?)"
_OF_DAY = re.compile(_DAY, re.ASCII)
_OF_TIME = re.compile(rf"{_TIME}{_ZONE}?", re.ASCII)
_OF_MOMENT = re.compile(rf"(?P<day>{_DAY})(?:[Tt ]{_TIME}{_ZONE}?)?", re.ASCII)


def moment_of(text: str) -> datetime.datetime:
    """A date with a time of day, and with a zone if it says one; a date alone is its midnight.

    Raises:
        ValueError: it is none, or is finer than a microsecond.
    """
    found = _found(_OF_MOMENT, text)
    time = "" if found["clock"] is None else f"T{_time_in_microseconds(found)}"
    return _read(datetime.datetime.fromisoformat, f"{found['day']}{time}")


def day_of(text: str) -> datetime.date:
    """
    Raises:
        ValueError: it is no date, or has a time of day.
    """
    return _read(datetime.date.fromisoformat, _found(_OF_DAY, text)[0])


def time_of(text: str) -> datetime.time:
    """
    Raises:
        ValueError: it is no time of day, or is finer than a microsecond.
    """
    return _read(datetime.time.fromisoformat, _time_in_microseconds(_found(_OF_TIME, text)))


def reader_of(arrow_type: pa.DataType) -> Callable[[str], Any] | None:
    """What reads the texts of a column; None where texts are not such."""
    if pa.types.is_timestamp(arrow_type):
        return moment_of
    if pa.types.is_date(arrow_type):
        return day_of
    return time_of if pa.types.is_time(arrow_type) else None


def _found(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(_NO_ISO_TEXT)
    return found


def _time_in_microseconds(found: re.Match[str]) -> str:
    """A time as all of Python's versions read it: with no digits of a fraction or six, and with hours and minutes of a zone."""
    digits = found["fraction"] or ""
    if digits[6:].strip("0"):
        raise ValueError("the text is finer than a microsecond")
    fraction = f".{digits[:6]:0<6}" if digits else ""
    if found["hours"] is not None:
        return f"{found['clock']}{fraction}{found['hours']}:{found['minutes'] or '00'}"
    return f"{found['clock']}{fraction}{'+00:00' if found[0][-1] in 'Zz' else ''}"


def _read(read: Callable[[str], _Read], text: str) -> _Read:
    try:
        return read(text)
    except ValueError:
        raise ValueError(_NO_ISO_TEXT) from None  # Python's own error has the text


_NO_ISO_TEXT = "the text is not ISO 8601, such as 2024-02-29T23:59:59Z"
