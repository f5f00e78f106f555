"""Values as JSON says them. What it cannot say, though a writer of JSON would say something, is found and refused."""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa

from beam_exactly_once.rows.fields import fields_of

MOMENTS_APART = orjson.OPT_PASSTHROUGH_DATETIME
"""With this option orjson asks :func:`text_of_moment`. By itself it writes 00:00:00.086399 as 00:00:00.86399, and cuts zones."""

_ALL = 10**9
"""Values of a list that are shown."""
_NAMES = {None: "null", True: "true", False: "false"}
_FINITE = frozenset({str, int, bool, type(None), bytes, datetime.datetime, datetime.date, datetime.time})
"""Types that hold no number which JSON lacks."""


def text_of_moment(value: Any) -> str:
    """A date or a time as JSON has it: ISO 8601.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not JSON")


def in_json(value: Any) -> Any:
    """Decimals as text, durations as seconds, dates and times as ISO 8601; other values as they are.

    Raises:
        ValueError: a number of seconds has not that many digits.
    """
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
        if datetime.timedelta(seconds=seconds) != value:
            raise ValueError("a number of seconds has not that many digits")
        return seconds
    return text_of_moment(value) if isinstance(value, (datetime.date, datetime.time)) else value


def shown(column: pa.Array) -> Any:
    """The only value of a column, of any type, in JSON, for people: bytes as base64, and never an error.

    What Python has no value for, such as nanoseconds, is as Arrow shows it.
    """
    try:
        (value,) = column.to_pylist()
    except (ValueError, OverflowError, LookupError, NotImplementedError, pa.ArrowException):
        text = column.to_string(window=len(column), container_window=_ALL, skip_new_lines=True)
        return f"{text[1:-1]} ({column.type})"
    return _shown(value)


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _shown(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(one) for one in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    with suppress(ValueError):
        value = in_json(value)
    is_json = (
        value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
    )
    return value if is_json else str(value)


def refuse_null_numbers(text: bytes, value: Any) -> None:
    """Refuse NaN and infinities, which orjson writes as ``null``.

    Args:
        text: the JSON that was made of ``value``. Only where it has more of ``null`` than ``value`` has of None, a look at
            each number is needed.

    Raises:
        ValueError: ``value`` holds one.
    """
    if b"null" in text and not _says_why(text, value) and _holds_null_number(value):
        raise ValueError("NaN and infinities are not JSON")


def _says_why(text: bytes, value: Any) -> bool:
    """Whether the None of a flat row are all the ``null`` there are: half of the time that a look at each value takes."""
    try:
        return type(value) is dict and list(value.values()).count(None) == text.count(b"null")
    except (TypeError, ValueError):  # an array, which is neither equal to None nor not
        return False


def _holds_null_number(value: Any) -> bool:
    kind = type(value)
    if kind in _FINITE:
        return False
    if isinstance(value, float):
        return not math.isfinite(value)
    if kind is list or kind is tuple:
        return any(map(_holds_null_number, value))
    if hasattr(value, "tolist"):  # of numpy
        return _holds_null_number(value.tolist())
    fields = fields_of(value)
    return fields is not None and any(map(_holds_null_number, fields.values()))


def refuse_equal_names(fields: Mapping[Any, Any]) -> None:
    """Refuse keys that become one name, such as ``1`` and ``"1"``.

    Raises:
        ValueError: two of them do.
    """
    names = {_NAMES.get(key, str(key)) if key is None or isinstance(key, bool) else str(key) for key in fields}
    if len(names) < len(fields):
        raise ValueError("two keys have one name in JSON")
