"""Numbers and booleans: never cut, never rounded."""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from beam_exactly_once.sinks.sql.types.characters import Characters
from beam_exactly_once.sinks.sql.types.column import ColumnType, Maker, Misfit, refuse, same

_MAX_DECIMAL_DIGITS = 76
_MAX_SINGLE = (2 - 2**-23) * 2.0**127
_MAX_NUMERIC_DIGITS, _MAX_NUMERIC_SCALE = 131_072, 16_383
"""Of PostgreSQL's NUMERIC, before and after the point; other databases take less."""


def _boolean_or_integer(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    return _BOOLEAN if declared.display_width == 1 else _integer_type(declared, dialect, characters)


def _integer_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    return ColumnType(_integer(declared, dialect), frozenset({int}), _whole)


def _medium_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    return ColumnType(_integer(declared, dialect), frozenset(), _medium(bool(declared.unsigned)))


def _integer(declared: Any, dialect: str) -> pa.DataType:
    is_unsigned = bool(getattr(declared, "unsigned", False))
    if dialect == "sqlite" or isinstance(declared, sa.BigInteger):
        return pa.uint64() if is_unsigned else pa.int64()
    if isinstance(declared, mysql.TINYINT):
        return pa.uint8() if is_unsigned else pa.int8()
    if isinstance(declared, sa.SmallInteger):
        return pa.uint16() if is_unsigned else pa.int16()
    return pa.uint32() if is_unsigned else pa.int32()


def _decimal_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    digits, scale = declared.precision, declared.scale or 0
    if digits is None or digits > _MAX_DECIMAL_DIGITS or not 0 <= scale <= digits:
        convert = decimal_text if digits is None else _bounded_text(digits, scale)
        if dialect == "sqlite":
            convert = lambda value: decimal_text(refuse_rounded(_decimal(value)))  # noqa: E731
        return ColumnType(pa.string(), frozenset(), convert, is_ordered=False, reads_numbers=dialect == "sqlite")
    arrow = pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)
    if getattr(declared, "unsigned", False):
        return ColumnType(arrow, frozenset(), lambda value: _not_negative(_decimal(value)))
    if dialect == "sqlite":
        return ColumnType(arrow, frozenset(), lambda value: refuse_rounded(_decimal(value)))
    return ColumnType(arrow, frozenset({Decimal, int}), _decimal)


def _float_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
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
        if is_single and abs(number) > _MAX_SINGLE:
            raise Misfit("it is out of range")
        if is_single:
            _refuse_vanishing(number)
            _exact_as_single(value)
        if scale is not None:
            _refuse_unscaled(number, declared.precision, scale, is_single)
        return float(_not_negative(number)) if is_unsigned else number

    return checked


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)) or value != int(value):
        raise Misfit("it is not a whole number")
    return int(value)


def _floating(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise Misfit("it is not a number")
    number = float(value)
    if isinstance(value, int) and int(number) != value:
        raise Misfit("it is not exact as a floating number")
    if isinstance(value, Decimal) and value.is_finite() and Decimal(repr(number)) != value:
        raise Misfit("it has more digits than a floating number")
    return number


def _exact_as_single(value: Any) -> None:
    """What is no whole number is rounded, as a column of 4 bytes says by its name."""
    if isinstance(value, int) and int(ctypes.c_float(value).value) != value:
        raise Misfit("it is not exact as a floating number of 4 bytes")


def _refuse_vanishing(number: float) -> None:
    if number and not ctypes.c_float(number).value:
        raise Misfit("it is too small")


def _refuse_unscaled(number: float, digits: int, scale: int, is_single: bool) -> None:
    """MySQL rounds to the digits that a type such as DOUBLE(10,2) has. Of 4 bytes, what is the same in them is the same."""
    rounded = round(number, scale)
    if abs(rounded) >= 10 ** (digits - scale):
        raise Misfit(f"it has more than {digits - scale} digits before the point")
    if rounded != number and not (is_single and ctypes.c_float(rounded).value == ctypes.c_float(number).value):
        raise Misfit(f"it has more than {scale} digits behind the point")


def _finite(value: Any) -> float:
    number = _floating(value)
    if not math.isfinite(number):
        raise Misfit("it is not finite")
    return number


def _single(value: Any) -> float:
    """Of 4 bytes. PostgreSQL refuses what becomes infinite, and what becomes zero."""
    number = _floating(value)
    struct.pack("<f", number)  # or OverflowError
    _refuse_vanishing(number)
    _exact_as_single(value)
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
        raise Misfit("it is not a number")
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except ArithmeticError:
        raise Misfit("it is not a number") from None
    if not number.is_finite():
        raise Misfit("it is not finite")
    return number


def decimal_text(value: Any) -> str:
    """A decimal number as text, no longer than a NUMERIC may be."""
    number = _decimal(value)
    _, digits, exponent = number.as_tuple()
    if len(digits) + int(exponent) > _MAX_NUMERIC_DIGITS or -int(exponent) > _MAX_NUMERIC_SCALE:
        raise Misfit("it has too many digits")
    return str(number)


def begins_number(text: str) -> bool:
    """Whether a text of JSON, or of :func:`decimal_text`, is that of a number."""
    return text[0] in "-0123456789"


def _bounded_text(digits: int, scale: int) -> Callable[[Any], str]:
    """For a NUMERIC of more digits than Arrow has, or whose point is outside of its digits."""

    def checked(value: Any) -> str:
        number = _decimal(value)
        _, figures, exponent = number.as_tuple()
        cut = -scale - int(exponent)
        if (cut > 0 and any(figures[-cut:])) or (number and number.adjusted() >= digits - scale):
            raise Misfit(f"the column takes {digits} digits, {scale} of them behind the point")
        return decimal_text(number)

    return checked


def refuse_rounded(number: Decimal) -> Decimal:
    """Take what SQLite keeps exactly: it has integers of 64 bits and floating numbers, whatever a column is declared as.

    Raises:
        Misfit: it would be rounded.
    """
    if Decimal(repr(number_of_sqlite(number))) != number:
        raise Misfit("SQLite would keep it as a floating number, which is another one")
    return number


def number_of_sqlite(number: Decimal) -> int | float:
    """The number as SQLite keeps it. Of a text with a point, SQLite makes a floating number, and not always the nearest."""
    is_integer = -(2**63) <= number < 2**63 and number == int(number)
    return int(number) if is_integer else float(number)


_BOOLEAN = ColumnType(pa.bool_(), frozenset({bool}), refuse, is_ordered=False)

MAKERS: dict[type, Maker] = {
    sa.Boolean: same(_BOOLEAN),
    mysql.TINYINT: _boolean_or_integer,
    mysql.MEDIUMINT: _medium_type,
    sa.Integer: _integer_type,
    sa.Float: _float_type,
    sa.Numeric: _decimal_type,
}
