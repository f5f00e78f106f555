"""Types of a database's columns: how values are staged for each, and which values it takes. Never a value changed in silence.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

import datetime
import ipaddress
import math
import re
import struct
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

_SINGLE_MAX = (2 - 2**-23) * 2.0**127
_NUMERIC_DIGITS_MAX, _NUMERIC_SCALE_MAX = 131_072, 16_383
"""Of PostgreSQL's NUMERIC, before and after the point; other databases take less."""
_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_PLANE_0 = frozenset({"utf8", "utf8mb3", "ucs2"})
"""Character sets of MySQL that have what Unicode has up to U+FFFF."""
_LATIN1 = frozenset(bytes(range(256)).decode("cp1252", "ignore") + "\x81\x8d\x8f\x90\x9d")
"""What MySQL's latin1 has."""
_ADDRESS = re.compile(r"[0-9a-fA-F:.]+(/[0-9]{1,3})?")
_MAC_ADDRESS = re.compile(
    r"[0-9a-f]{2}([:-])[0-9a-f]{2}(\1[0-9a-f]{2}){4}"
    r"|[0-9a-f]{4}([.-])[0-9a-f]{4}\3[0-9a-f]{4}"
    r"|[0-9a-f]{6}[:-]?[0-9a-f]{6}",
    re.IGNORECASE,
)


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


def column_type(declared: Any, dialect: str, charset: str | None = None) -> ColumnType | None:
    """How a column that is declared so is staged; None for a type that is not known here.

    Args:
        declared: SQLAlchemy's type.
        dialect: SQLAlchemy's name of it.
        charset: what MySQL keeps its texts in.
    """
    if isinstance(declared, postgresql.DOMAIN):
        return column_type(declared.data_type, dialect)
    if isinstance(declared, postgresql.ARRAY):
        return _array_type(column_type(declared.item_type, dialect), declared.dimensions)
    if isinstance(declared, sa.Boolean) or (isinstance(declared, mysql.TINYINT) and declared.display_width == 1):
        return ColumnType(pa.bool_(), frozenset({bool}), _refuse, is_ordered=False)
    if isinstance(declared, mysql.MEDIUMINT):
        return ColumnType(_integer(declared, dialect), frozenset(), _medium(bool(declared.unsigned)))
    if isinstance(declared, sa.Integer):
        return ColumnType(_integer(declared, dialect), frozenset({int}), _whole)
    if isinstance(declared, sa.Float):
        return _float_type(declared, dialect)
    if isinstance(declared, sa.Numeric):
        return _decimal_type(declared)
    if isinstance(declared, sa.JSON):
        convert = _jsonb_text if isinstance(declared, postgresql.JSONB) else json_text
        return ColumnType(pa.string(), frozenset(), convert, is_ordered=False)
    if isinstance(declared, sa.Uuid):
        return ColumnType(pa.string(), frozenset(), _uuid_text)
    if isinstance(declared, sa.Enum):
        return ColumnType(pa.string(), frozenset(), _one_of(tuple(declared.enums)))
    if isinstance(declared, mysql.SET):
        return ColumnType(pa.string(), frozenset(), _some_of(tuple(declared.values)), is_ordered=False)
    if isinstance(declared, sa.String):
        return _text_type(declared, dialect, charset)
    if isinstance(declared, (postgresql.INET, postgresql.CIDR)):
        return ColumnType(pa.string(), frozenset(), _address if isinstance(declared, postgresql.INET) else _network)
    if isinstance(declared, postgresql.MACADDR):
        return ColumnType(pa.string(), frozenset(), _mac_address)
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
    if isinstance(value, Decimal):
        return orjson.Fragment(_decimal_text(value))
    raise TypeError(f"{type(value).__name__} is not JSON")


def _jsonb_text(value: Any) -> str:
    text = json_text(value)
    if _JSON_NUL.search(text):
        raise Misfit("PostgreSQL takes no NUL character in JSONB")
    return text


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
        return ColumnType(pa.string(), frozenset(), _decimal_text, is_ordered=False)
    arrow = pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)
    if getattr(declared, "unsigned", False):
        return ColumnType(arrow, frozenset(), lambda value: _not_negative(_decimal(value)))
    return ColumnType(arrow, frozenset({Decimal, int}), _decimal)


def _float_type(declared: Any, dialect: str) -> ColumnType:
    if dialect == "mysql":
        return ColumnType(pa.float64(), frozenset(), _mysql_floating(declared))
    if dialect != "postgresql":  # SQLite makes NaN NULL
        return ColumnType(pa.float64(), frozenset(), _finite)
    if isinstance(declared, sa.REAL):
        return ColumnType(pa.float64(), frozenset(), _single)
    return ColumnType(pa.float64(), frozenset({float}), _floating)


def _mysql_floating(declared: Any) -> Callable[[Any], float]:
    """MySQL refuses what is out of range only when it is written, NaN too."""
    is_single, is_unsigned, scale = isinstance(declared, mysql.FLOAT), bool(declared.unsigned), declared.scale

    def checked(value: Any) -> float:
        number = _finite(value)
        if is_single and abs(number) > _SINGLE_MAX:
            raise Misfit("it is out of range")
        if scale is not None and abs(round(number, scale)) >= 10 ** (declared.precision - scale):
            raise Misfit(f"it has more than {declared.precision - scale} digits before the point")
        return float(_not_negative(number)) if is_unsigned else number

    return checked


def _text_type(declared: Any, dialect: str, charset: str | None) -> ColumnType:
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
        if not _can_hold(charset, text):
            raise Misfit(f"it has characters that {charset} does not have")
        return text

    return ColumnType(pa.string(), frozenset(), checked)


def _can_hold(charset: str | None, text: str) -> bool:
    """Whether a character set of MySQL has all of a text; true of sets that are not known here."""
    if text.isascii():
        return True
    if charset == "latin1":
        return set(text) <= _LATIN1
    return charset != "ascii" and (charset not in _PLANE_0 or max(text) <= "\uffff")


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


def _single(value: Any) -> float:
    """Of 4 bytes. PostgreSQL refuses what becomes infinite, and what becomes zero."""
    number = _floating(value)
    (as_single,) = struct.unpack("<f", struct.pack("<f", number))  # or OverflowError
    if number and not as_single:
        raise Misfit("it is too small")
    return number


def _not_negative(number: Any) -> Any:
    if number < 0:
        raise Misfit("it is less than 0, the column is UNSIGNED")
    return number


def _medium(is_unsigned: bool) -> Callable[[Any], int]:
    lowest, highest = (0, 2**24 - 1) if is_unsigned else (-(2**23), 2**23 - 1)

    def checked(value: Any) -> int:
        number = _whole(value)
        if not lowest <= number <= highest:
            raise Misfit(f"a MEDIUMINT is from {lowest} to {highest}")
        return number

    return checked


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


def _decimal_text(value: Any) -> str:
    number = _decimal(value)
    _, digits, exponent = number.as_tuple()
    if len(digits) + int(exponent) > _NUMERIC_DIGITS_MAX or -int(exponent) > _NUMERIC_SCALE_MAX:
        raise Misfit("it has too many digits")
    return str(number)


def _address(value: Any) -> str:
    """Of INET, with or without the number of its network's bits."""
    text = str(value)
    if not _ADDRESS.fullmatch(text):  # ipaddress knows netmasks and scopes, PostgreSQL does not
        raise Misfit("it is no address")
    ipaddress.ip_interface(text)
    return text


def _network(value: Any) -> str:
    """Of CIDR: no bits are set right of the network's."""
    text = _address(value)
    ipaddress.ip_network(text)
    return text


def _mac_address(value: Any) -> str:
    text = str(value)
    if not _MAC_ADDRESS.fullmatch(text):
        raise Misfit("it is no MAC address")
    return text


def _uuid_text(value: Any) -> str:
    return str(value if isinstance(value, uuid.UUID) else uuid.UUID(_text(value)))


def _one_of(names: tuple[str, ...]) -> Callable[[Any], str]:
    def checked(value: Any) -> str:
        text = _text(value)
        if text not in names:
            raise Misfit(f"it is none of {', '.join(names)}")
        return text

    return checked


def _some_of(names: tuple[str, ...]) -> Callable[[Any], str]:
    def checked(value: Any) -> str:
        text = _text(value)
        if text and not set(text.split(",")) <= set(names):
            raise Misfit(f"it is not of {', '.join(names)}, with commas")
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
