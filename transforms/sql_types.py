"""Types of a database's columns: how values are staged for each, and which values it takes. Never a value changed in silence.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

_BINARY = (sa.LargeBinary, sa.BINARY, sa.VARBINARY, sa.BLOB, mysql.TINYBLOB, mysql.MEDIUMBLOB, mysql.LONGBLOB)
_DECIMAL_DIGITS_MAX = 76
_MYSQL_BYTES_MAX = {
    "TINYTEXT": 2**8,
    "TINYBLOB": 2**8,
    "TEXT": 2**16,
    "BLOB": 2**16,
    "MEDIUMTEXT": 2**24,
    "MEDIUMBLOB": 2**24,
}
_MYSQL_MOMENTS = (datetime.datetime(1970, 1, 1, 0, 0, 1), datetime.datetime(2038, 1, 19, 3, 14, 7))


class Misfit(Exception):
    """A value that a column does not take."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """How the values of a column are staged."""

    arrow: pa.DataType
    exact: frozenset[type]
    """Values of these types are staged as they are."""
    convert: Callable[[Any], Any]
    """Makes another value one of those; raises Misfit, TypeError or ValueError."""
    is_ordered: bool = True
    """Staged values are equal, and less, where the database's are: such a column may be a key."""


def column_type(declared: Any, dialect: str) -> ColumnType | None:
    """How a column that is declared so is staged; None for a type that is not known here."""
    if isinstance(declared, postgresql.DOMAIN):
        return column_type(declared.data_type, dialect)
    if isinstance(declared, postgresql.ARRAY):
        return _array_type(column_type(declared.item_type, dialect), declared.dimensions)
    if isinstance(declared, sa.Boolean) or (isinstance(declared, mysql.TINYINT) and declared.display_width == 1):
        return ColumnType(pa.bool_(), frozenset({bool}), _refuse, is_ordered=False)
    if isinstance(declared, sa.Integer):
        return ColumnType(_integer(declared, dialect), frozenset({int}), _whole)
    if isinstance(declared, sa.Float):
        # MySQL refuses NaN only when it is written, and SQLite makes it NULL.
        exact, convert = (frozenset({float}), _floating) if dialect == "postgresql" else (frozenset(), _finite)
        return ColumnType(pa.float64(), exact, convert)
    if isinstance(declared, sa.Numeric):
        return _decimal_type(declared)
    if isinstance(declared, sa.JSON):
        return ColumnType(pa.string(), frozenset(), json_text, is_ordered=False)
    if isinstance(declared, sa.Uuid):
        return ColumnType(pa.string(), frozenset(), _uuid_text)
    if isinstance(declared, sa.Enum):
        return ColumnType(pa.string(), frozenset(), _one_of(tuple(declared.enums)))
    if isinstance(declared, sa.String):
        return _text_type(declared, dialect)
    if isinstance(declared, (postgresql.INET, postgresql.CIDR, postgresql.MACADDR)):
        return ColumnType(pa.string(), frozenset({str}), str)
    if isinstance(declared, _BINARY):
        return _binary_type(declared, dialect)
    if isinstance(declared, mysql.TIMESTAMP):
        return ColumnType(pa.timestamp("us"), frozenset(), _mysql_moment)
    if isinstance(declared, sa.DateTime):
        zone = "UTC" if declared.timezone else None
        return ColumnType(pa.timestamp("us", zone), frozenset({datetime.datetime}), _moment)
    if isinstance(declared, sa.Date):
        return ColumnType(pa.date32(), frozenset({datetime.date}), _day)
    if isinstance(declared, sa.Time):
        return ColumnType(pa.time64("us"), frozenset({datetime.time}), _time)
    return None


def json_text(value: Any) -> str:
    """A value as JSON text; exact numbers stay exact."""
    return orjson.dumps(value, default=_json_default).decode()


def _json_default(value: Any) -> Any:
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} is not JSON")


def _integer(declared: Any, dialect: str) -> pa.DataType:
    is_unsigned = bool(getattr(declared, "unsigned", False))
    if dialect == "sqlite" or isinstance(declared, sa.BigInteger):
        return pa.uint64() if is_unsigned else pa.int64()
    if isinstance(declared, mysql.TINYINT):
        return pa.uint8() if is_unsigned else pa.int8()
    if isinstance(declared, sa.SmallInteger):
        return pa.uint16() if is_unsigned else pa.int16()
    return pa.uint32() if is_unsigned else pa.int32()


def _decimal_type(declared: Any) -> ColumnType:
    digits, scale = declared.precision, declared.scale or 0
    if digits is None or digits > _DECIMAL_DIGITS_MAX or not 0 <= scale <= digits:
        return ColumnType(pa.string(), frozenset(), lambda value: str(_decimal(value)), is_ordered=False)
    arrow = pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)
    return ColumnType(arrow, frozenset({Decimal, int}), _decimal)


def _text_type(declared: Any, dialect: str) -> ColumnType:
    length, bytes_max = declared.length, _bytes_max(declared, dialect)
    has_no_nul = dialect == "postgresql"

    def checked(value: Any) -> str:
        text = json_text(value) if isinstance(value, (dict, list)) else _text(value)
        if length is not None and dialect != "sqlite" and len(text) > length:
            raise Misfit(f"it has {len(text)} characters, the column takes {length}")
        if has_no_nul and "\0" in text:
            raise Misfit("PostgreSQL takes no NUL character in text")
        if bytes_max is not None and len(text.encode()) > bytes_max:
            raise Misfit(f"it has {len(text.encode())} bytes, the column takes {bytes_max}")
        return text

    return ColumnType(pa.string(), frozenset(), checked)


def _binary_type(declared: Any, dialect: str) -> ColumnType:
    bytes_max = _bytes_max(declared, dialect)
    if bytes_max is None:
        return ColumnType(pa.binary(), frozenset({bytes}), _bytes)

    def checked(value: Any) -> bytes:
        if len(_bytes(value)) > bytes_max:
            raise Misfit(f"it has {len(value)} bytes, the column takes {bytes_max}")
        return _bytes(value)

    return ColumnType(pa.binary(), frozenset(), checked)


def _bytes_max(declared: Any, dialect: str) -> int | None:
    """How many bytes a column of MySQL takes, where that is not its number of characters."""
    if dialect != "mysql":
        return None
    size = _MYSQL_BYTES_MAX.get(type(declared).__name__)
    if size is not None:
        return size - 1
    return declared.length if isinstance(declared, _BINARY) else None


def _array_type(item: ColumnType | None, dimensions: int | None) -> ColumnType | None:
    if item is None or (dimensions or 1) != 1:
        return None
    known = item

    def checked(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise Misfit("it is no list")
        return [one if one is None or type(one) in known.exact else known.convert(one) for one in value]

    return ColumnType(pa.list_(known.arrow), frozenset(), checked, is_ordered=False)


def _refuse(value: Any) -> Any:
    raise Misfit("it is of another type")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return _bytes(value).decode() if isinstance(value, (bytes, bytearray, memoryview)) else str(_refuse(value))


def _bytes(value: Any) -> bytes:
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else bytes(_refuse(value))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)) or value != int(value):
        raise Misfit("it is no whole number")
    return int(value)


def _floating(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise Misfit("it is no number")
    if isinstance(value, int) and int(float(value)) != value:
        raise Misfit("it is not exact as a floating number")
    return float(value)


def _finite(value: Any) -> float:
    number = _floating(value)
    if not math.isfinite(number):
        raise Misfit("it is not finite")
    return number


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
        raise Misfit("it is no number")
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except ArithmeticError:
        raise Misfit("it is no number") from None
    if not number.is_finite():
        raise Misfit("it is not finite")
    return number


def _uuid_text(value: Any) -> str:
    return str(value if isinstance(value, uuid.UUID) else uuid.UUID(_text(value)))


def _one_of(names: tuple[str, ...]) -> Callable[[Any], str]:
    def checked(value: Any) -> str:
        text = _text(value)
        if text not in names:
            raise Misfit(f"it is none of {', '.join(names)}")
        return text

    return checked


def _moment(value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    text = _text(value)
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
    return datetime.date.fromisoformat(_text(value))


def _time(value: Any) -> datetime.time:
    return datetime.time.fromisoformat(_text(value))
