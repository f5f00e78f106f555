"""Types of a database's columns: how values are staged for each, and which values it takes. Never a value changed in silence.

Needs the extra ``sql``; imported only by what runs. Each module has the types of one kind of value in its ``MAKERS``, by
SQLAlchemy's class; a class that is in none is staged as the nearest of those it is derived from.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from sqlalchemy.dialects import postgresql

from beam_exactly_once.sinks.sql.types import binary, json, network, numbers, text, times
from beam_exactly_once.sinks.sql.types.characters import Characters
from beam_exactly_once.sinks.sql.types.column import ColumnType, Maker, Misfit

__all__ = ["Characters", "ColumnType", "Misfit", "column_type"]


def column_type(declared: Any, dialect: str, characters: Characters | None = None) -> ColumnType | None:
    """How a column that is declared so is staged; None for a type that is not known here.

    Args:
        declared: SQLAlchemy's type.
        dialect: SQLAlchemy's name of it.
        characters: that a text of the column may have; None: all.
    """
    for ancestor in type(declared).__mro__:
        maker = _MAKERS.get(ancestor)
        if maker is not None:
            return maker(declared, dialect, characters)
    return None


def _domain_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType | None:
    return column_type(declared.data_type, dialect, characters)


def _array_type(declared: Any, dialect: str, characters: Characters | None) -> ColumnType | None:
    item = column_type(declared.item_type, dialect, characters)
    if item is None or (declared.dimensions or 1) != 1:
        return None
    known, takes_no_null = item, bool(getattr(declared.item_type, "not_null", False))

    def checked(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise Misfit("it is not a list")
        if takes_no_null and any(one is None for one in value):
            raise Misfit("its domain takes no NULL")
        return [one if one is None or type(one) in known.exact else known.convert(one) for one in value]

    def check(staged: pa.Array) -> None:
        known.check(staged.flatten())

    return ColumnType(pa.list_(known.arrow), frozenset(), checked, is_ordered=False, check=check)


_MAKERS: dict[type, Maker] = {
    postgresql.DOMAIN: _domain_type,
    postgresql.ARRAY: _array_type,
    **numbers.MAKERS,
    **json.MAKERS,
    **text.MAKERS,
    **network.MAKERS,
    **binary.MAKERS,
    **times.MAKERS,
}
