"""Bytes, no more than their column takes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from beam_exactly_once.sinks.sql.types.characters import Characters
from beam_exactly_once.sinks.sql.types.column import ColumnType, Maker, Misfit, as_bytes

_BINARY = (sa.LargeBinary, sa.BINARY, sa.VARBINARY, sa.BLOB, mysql.TINYBLOB, mysql.MEDIUMBLOB, mysql.LONGBLOB)
_MAX_MYSQL_BYTES = {
    "TINYTEXT": 2**8,
    "TINYBLOB": 2**8,
    "TEXT": 2**16,
    "BLOB": 2**16,
    "MEDIUMTEXT": 2**24,
    "MEDIUMBLOB": 2**24,
}


def _binary_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    max_bytes = bytes_max_of(declared, dialect)
    if max_bytes is None:
        return ColumnType(pa.binary(), frozenset({bytes}), as_bytes)

    is_padded = isinstance(declared, sa.BINARY)

    def checked(value: Any) -> bytes:
        if is_padded and len(as_bytes(value)) < max_bytes:
            raise Misfit(f"it has {len(value)} bytes, the column has {max_bytes} in each")
        if len(as_bytes(value)) > max_bytes:
            raise Misfit(f"it has {len(value)} bytes, the column takes {max_bytes}")
        return as_bytes(value)

    return ColumnType(pa.binary(), frozenset(), checked)


def bytes_max_of(declared: Any, dialect: str) -> int | None:
    """How many bytes a column of MySQL takes, where that is not its number of characters."""
    if dialect != "mysql":
        return None
    size = _MAX_MYSQL_BYTES.get(type(declared).__name__)
    if size is not None:
        return size - 1
    return declared.length if isinstance(declared, _BINARY) else None


MAKERS: dict[type, Maker] = dict.fromkeys(_BINARY, _binary_type)
