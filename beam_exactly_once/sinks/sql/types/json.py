"""JSON: exact numbers stay exact. MariaDB keeps it as text, and looks at it when it is written."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from beam_exactly_once.rows.json_values import ASKING, known_to_json, refuse_null_numbers
from beam_exactly_once.sinks.sql.types.characters import Characters
from beam_exactly_once.sinks.sql.types.column import ColumnType, Maker, Misfit, as_text, refuse, refuse_strangers
from beam_exactly_once.sinks.sql.types.numbers import begins_number, decimal_text, refuse_rounded

_MAX_DEPTH_OF_MARIADB, _MAX_DEPTH_OF_MYSQL = 31, 100
"""Lists and objects within each other."""
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|([\[{])|[\]}]')
_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class MariadbJson(mysql.LONGTEXT):
    """A text of MariaDB with ``CHECK (json_valid(…))``, which is what it makes of a column of type JSON."""


def json_text(value: Any) -> str:
    """A value as JSON text; exact numbers stay exact.

    Raises:
        ValueError, TypeError: JSON cannot hold it.
    """
    text = orjson.dumps(value, option=ASKING, default=_json_default)
    refuse_null_numbers(text, value)
    return text.decode()


def _json_default(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(decimal_text(value))
    return known_to_json(value)


def _json_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    is_jsonb, is_sqlite, is_mysql = isinstance(declared, postgresql.JSONB), dialect == "sqlite", dialect == "mysql"

    def checked(value: Any) -> str:
        text = json_text(value)
        if is_jsonb and _JSON_NUL.search(text):
            raise Misfit("PostgreSQL takes no NUL character in JSONB")
        if is_sqlite and begins_number(text):
            refuse_rounded(Decimal(text))
        if is_mysql:
            _refuse_deeper(text, _MAX_DEPTH_OF_MYSQL)
        refuse_strangers(text, characters)
        return text

    return ColumnType(pa.string(), frozenset(), checked, is_ordered=False, reads_numbers=is_sqlite)


def _text_of_json(declared: Any, dialect: str, characters: Characters | None) -> ColumnType:
    def checked(value: Any) -> str:
        is_text = isinstance(value, (str, bytes, bytearray, memoryview))
        text = as_text(value) if is_text else json_text(value)
        _refuse_deeper(text, _MAX_DEPTH_OF_MARIADB)
        if is_text and not _is_json(text):
            raise Misfit("the column takes JSON alone, and the text is none")
        refuse_strangers(text, characters)
        return text

    return ColumnType(pa.string(), frozenset(), checked, is_ordered=False)


def _is_json(text: str) -> bool:
    """Whether it is valid; half of a surrogate pair, as an escape too, is not."""
    try:
        orjson.dumps(json.loads(text, parse_int=str, parse_float=str, parse_constant=refuse))
    except (Misfit, TypeError, ValueError):
        return False
    return True


def _refuse_deeper(text: str, max_depth: int) -> None:
    if text.count("[") + text.count("{") <= max_depth:
        return
    depth = 0
    for found in _BRACKETS.finditer(text):
        if found[0][0] != '"':
            depth += 1 if found[1] else -1
        if depth > max_depth:
            raise Misfit(f"its lists and objects are more than {max_depth} deep")


MAKERS: dict[type, Maker] = {sa.JSON: _json_type, MariadbJson: _text_of_json}
