"""JSON: exact numbers stay exact."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from beam_exactly_once.rows.json_values import ASKING, known_to_json, refuse_null_numbers
from beam_exactly_once.sinks.sql.types.characters import Characters
from beam_exactly_once.sinks.sql.types.column import ColumnType, Maker, Misfit, refuse_strangers
from beam_exactly_once.sinks.sql.types.numbers import begins_number, decimal_text, refuse_rounded

_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


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
    is_jsonb, is_sqlite = isinstance(declared, postgresql.JSONB), dialect == "sqlite"

    def checked(value: Any) -> str:
        text = json_text(value)
        if is_jsonb and _JSON_NUL.search(text):
            raise Misfit("PostgreSQL takes no NUL character in JSONB")
        if is_sqlite and begins_number(text):
            refuse_rounded(Decimal(text))
        refuse_strangers(text, characters)
        return text

    return ColumnType(pa.string(), frozenset(), checked, is_ordered=False, reads_numbers=is_sqlite)


MAKERS: dict[type, Maker] = {sa.JSON: _json_type}
