"""Text that its column takes whole: its length, its bytes, its character set."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from beam_exactly_once.sinks.sql.types.binary import bytes_max_of
from beam_exactly_once.sinks.sql.types.characters import Characters
from beam_exactly_once.sinks.sql.types.column import ColumnType, Maker, Misfit, as_text, refuse_strangers, same
from beam_exactly_once.sinks.sql.types.json import json_text


def _text_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType | None:
    if dialect == "postgresql" and type(declared) is sa.String:  # NAME and "char", which cut
        return None
    length, max_bytes = declared.length, bytes_max_of(declared, dialect)
    has_no_nul = dialect == "postgresql"
    is_padded = isinstance(declared, sa.CHAR) and dialect != "sqlite"

    def checked(value: Any) -> str:
        text = json_text(value) if isinstance(value, (dict, list)) else as_text(value)
        if length is not None and dialect != "sqlite" and len(text) > length:
            raise Misfit(f"it has {len(text)} characters, the column takes {length}")
        if has_no_nul and "\0" in text:
            raise Misfit("PostgreSQL takes no NUL character in text")
        if is_padded and text.endswith(" "):
            raise Misfit("a CHAR column keeps no spaces at the end")
        if max_bytes is not None and len(text.encode()) > max_bytes:
            raise Misfit(f"it has {len(text.encode())} bytes, the column takes {max_bytes}")
        refuse_strangers(text, characters)
        return text

    def is_as_staged(column: pa.Array) -> bool:
        if dialect != "postgresql" or is_padded or characters is not None:
            return False
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:  # bytes that are no UTF-8
            return False
        letters = None if length is None else pc.max(pc.utf8_length(column)).as_py()
        has_nul = pc.any(pc.match_substring(column, "\0")).as_py()
        return not has_nul and (letters is None or letters <= length)

    return ColumnType(pa.string(), frozenset(), checked, is_as_staged=is_as_staged)


def _one_of(names: tuple[str, ...]) -> Callable[[Any], str]:
    def checked(value: Any) -> str:
        text = as_text(value)
        if text not in names:
            raise Misfit(f"it is none of {', '.join(names)}")
        return text

    return checked


def _some_of(names: tuple[str, ...]) -> Callable[[Any], str]:
    def checked(value: Any) -> str:
        text = as_text(value)
        if text and not set(text.split(",")) <= set(names):
            raise Misfit(f"it is not of {', '.join(names)}, with commas")
        return text

    return checked


def _uuid_text(value: Any) -> str:
    return str(value if isinstance(value, uuid.UUID) else uuid.UUID(as_text(value)))


def _enum_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    return ColumnType(pa.string(), frozenset(), _one_of(tuple(declared.enums)))


def _set_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    return ColumnType(pa.string(), frozenset(), _some_of(tuple(declared.values)), is_ordered=False)


MAKERS: dict[type, Maker] = {
    sa.Uuid: same(ColumnType(pa.string(), frozenset(), _uuid_text)),
    sa.Enum: _enum_type,
    mysql.SET: _set_type,
    sa.String: _text_type,
}
