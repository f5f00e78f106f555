"""Values as JSON says them. What it cannot say, though a writer of JSON would say something, is found and refused."""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from beam_exactly_once.rows.fields import fields_of

ASKING = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
"""With these options orjson asks :func:`known_to_json`. By itself it writes 00:00:00.086399 as 00:00:00.86399, cuts zones, and
leaves out fields of dataclasses that begin with an underscore."""

_ALL = 10**9
"""Values of a list that are shown."""
_FINITE = frozenset({str, int, bool, type(None), bytes, datetime.datetime, datetime.date, datetime.time})
"""Types that hold no number which JSON lacks."""
_OF_PYTHON = frozenset({np.float64, np.int64, np.int32, np.bool_})
"""Common types of numpy that Python has, too: ten times as fast as one orjson for each."""
_NO_NUMBER = "NaN and infinities are not JSON"


def known_to_json(value: Any) -> Any:
    """A date or a time as text, a dataclass as its fields.

    Raises:
        TypeError: it is neither.
        ValueError: it is no moment.
    """
    if is_dataclass(value):
        fields = fields_of(value)
        if fields is not None:
            return fields
    return text_of_moment(value)


def known_with_numpy(value: Any) -> Any:
    """The same, and numbers, moments and arrays of numpy.

    Of moments, orjson by itself cuts nanoseconds, and writes what is beyond its years as other years.

    Raises:
        TypeError, ValueError: as :func:`known_to_json`, or a moment is not whole in microseconds.
    """
    if type(value) in _OF_PYTHON:
        return value.item()
    if not isinstance(value, (np.ndarray, np.generic)):
        return known_to_json(value)
    if value.dtype.kind == "M":
        return _moments(value)
    return orjson.Fragment(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def _moments(moments: Any) -> Any:
    """As Python has them; an array as lists of them."""
    years = moments.astype("datetime64[Y]")  # first: what is far away would come back as another moment
    if not np.all((np.datetime64("0001") <= years) & (years <= np.datetime64("9999"))):
        raise ValueError("it is not within the years 1 to 9999")
    exact = moments.astype("datetime64[us]")
    if not np.all(exact == moments):
        raise ValueError("it is finer than a microsecond")
    return exact.tolist()


def text_of_moment(value: Any) -> str:
    """A date or a time as JSON has it: ISO 8601.

    Raises:
        TypeError: it is neither.
        ValueError: it is none of them, as NaT of pandas.
    """
    if isinstance(value, (datetime.date, datetime.time)):
        if value != value:
            raise ValueError("it is no moment")
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
    return shown_value(value)


def shown_value(value: Any) -> Any:
    """The same of a value of Python: what JSON does not know is text. An int may have any size."""
    if isinstance(value, dict):
        return {_shown_key(key): shown_value(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [shown_value(one) for one in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    with suppress(ValueError):
        value = in_json(value)
    is_json = (
        value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
    )
    return value if is_json else str(value)


def _shown_key(key: Any) -> str:
    plain = shown_value(key)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def refuse_null_numbers(text: bytes, value: Any) -> None:
    """Refuse NaN and infinities, which orjson writes as ``null``.

    Args:
        text: the JSON that was made of ``value``. Only where it has more of ``null`` than ``value`` has of None, a look at
            each number is needed.

    Raises:
        ValueError: ``value`` holds one.
    """
    if b"null" in text and not _says_why(text, value) and _holds_null_number(value):
        raise ValueError(_NO_NUMBER)


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
    if isinstance(value, (list, tuple)):
        return any(map(_holds_null_number, value))
    if isinstance(value, Enum):
        return _holds_null_number(value.value)
    if hasattr(value, "tolist"):  # of numpy
        return _holds_null_number(value.tolist())
    fields = fields_of(value)
    return fields is not None and any(map(_holds_null_number, fields.values()))


def named(fields: Mapping[Any, Any]) -> dict[str, Any]:
    """Fields by the names that JSON has for their keys.

    Raises:
        TypeError: a key has none.
        ValueError: a key is a number that JSON lacks, or two become one name, such as ``1`` and ``"1"``.
    """
    names = {_name_of(key): value for key, value in fields.items()}
    if len(names) < len(fields):
        raise ValueError("two keys have one name in JSON")
    return names


def _name_of(key: Any) -> str:
    if type(key) is str:
        return key
    if isinstance(key, Enum):
        return _name_of(key.value)
    if isinstance(key, (datetime.date, datetime.time)):
        return text_of_moment(key)
    if isinstance(key, float) and not math.isfinite(key):
        raise ValueError(_NO_NUMBER)
    (name,) = orjson.loads(orjson.dumps({key: None}, option=orjson.OPT_NON_STR_KEYS))
    return str(name)
