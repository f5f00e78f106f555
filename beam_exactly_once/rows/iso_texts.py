"""Dates, times and moments as ISO 8601 texts: whole, or refused. Every sink reads them by the same rule."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa

_Read = TypeVar("_Read")
_FRACTION = re.compile(r"[.,](\d+)")


def moment_of(text: str) -> datetime.datetime:
    """A date with a time of day, and with a zone if it says one; a date alone is its midnight.

    Raises:
        ValueError: it is none, or is finer than a microsecond.
    """
    whole = _in_microseconds(text)
    return _read(datetime.datetime.fromisoformat, f"{whole[:-1]}+00:00" if whole.endswith(("Z", "z")) else whole)


def day_of(text: str) -> datetime.date:
    """
    Raises:
        ValueError: it is no date, or has a time of day.
    """
    return _read(datetime.date.fromisoformat, text)


def time_of(text: str) -> datetime.time:
    """
    Raises:
        ValueError: it is no time of day, or is finer than a microsecond.
    """
    return _read(datetime.time.fromisoformat, _in_microseconds(text))


def reader_of(arrow_type: pa.DataType) -> Callable[[str], Any] | None:
    """What reads the texts of a column; None where texts are not such."""
    if pa.types.is_timestamp(arrow_type):
        return moment_of
    if pa.types.is_date(arrow_type):
        return day_of
    return time_of if pa.types.is_time(arrow_type) else None


def _in_microseconds(text: str) -> str:
    """With six digits of a fraction: Python reads other numbers of them not everywhere, and cuts what is finer."""
    found = _FRACTION.search(text)
    if found is None:
        return text
    digits = found[1]
    if digits[6:].strip("0"):
        raise ValueError("the text is finer than a microsecond")
    return f"{text[: found.start()]}.{digits[:6]:0<6}{text[found.end() :]}"


def _read(read: Callable[[str], _Read], text: str) -> _Read:
    try:
        return read(text)
    except ValueError:
        raise ValueError("the text is not ISO 8601") from None  # Python's own error has the text
