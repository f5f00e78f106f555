"""How a column is staged, and what every kind of value needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa

from beam_exactly_once.rows.exact import refuse_changed
from beam_exactly_once.sinks.sql.types.characters import Characters


class Misfit(Exception):
    """A value that a column does not take."""


def take_all(staged: pa.Array) -> None:
    """Nothing to look at."""


def take_none(column: pa.Array) -> bool:
    """Values are looked at one by one."""
    return False


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
    reads_numbers: bool = False
    """A staged text that is a number is one to the database, too, but not always the same."""
    check: Callable[[pa.Array], None] = field(default=take_all)
    """Looks at staged values, all at once; raises Misfit."""
    is_as_staged: Callable[[pa.Array], bool] = field(default=take_none)
    """Of a column of type ``arrow`` whose values are not ``exact``: whether all of them are staged as they are, none refused."""

    def staged_column(self, column: pa.Array) -> pa.Array | None:
        """A column of Arrow as it is staged; None where its values must be looked at one by one.

        Raises:
            Misfit: one of them does not fit.
        """
        if column.type != self.arrow:
            if not (self.exact and pa.types.is_integer(column.type) and pa.types.is_integer(self.arrow)):
                return None
            try:
                column = column.cast(self.arrow)
            except pa.ArrowInvalid:
                return None
        if not self.exact and not self.is_as_staged(column):
            return None
        self.check(column)
        return column

    def staged(self, values: Sequence[Any]) -> pa.Array:
        """Values as they are staged.

        Raises:
            Misfit, TypeError, ValueError, OverflowError, pyarrow.ArrowException: one of them does not fit.
        """
        if not self.exact.issuperset(map(type, values)):
            values = [one if one is None or type(one) in self.exact else self.convert(one) for one in values]
        array = pa.array(values, self.arrow)
        refuse_changed(values, self.arrow)
        self.check(array)
        return array


Maker: TypeAlias = Callable[[Any, str, Characters | None], ColumnType | None]
"""Of a declared type, its dialect and the characters that texts may have, how such a column is staged; None if it cannot be."""


def same(column: ColumnType) -> Maker:
    """A maker for a type that is staged so wherever it is declared."""
    return lambda declared, dialect, characters: column


def refuse(value: Any) -> Any:
    """Take no other value."""
    raise Misfit("it is of another type")


def as_text(value: Any) -> str:
    """A text, or bytes that are one."""
    if isinstance(value, str):
        return value
    return as_bytes(value).decode() if isinstance(value, (bytes, bytearray, memoryview)) else str(refuse(value))


def as_bytes(value: Any) -> bytes:
    """Bytes of any kind."""
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else bytes(refuse(value))


def refuse_strangers(text: str, characters: Characters | None) -> None:
    """Take no text with characters that its column cannot keep.

    Raises:
        Misfit: it has such.
    """
    if characters is not None and not characters.include(text):
        raise Misfit(f"it has characters that {characters.name} does not have")
