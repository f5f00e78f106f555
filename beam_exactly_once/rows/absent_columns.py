"""Columns of a schema that no row of a bundle has: a misspelt name would be a column of nulls, so it is refused. Pure.

So are the fields of a struct, also of structs in lists and maps: where structs come without a field, and with others instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.fields import fields_of

MAY_BE_ABSENT = b"may_be_absent"
"""Metadata of a field of ``schema=`` that rows may lack."""
_SHOWN = 5


class AbsentColumns:
    """Looks for columns that rows have not. When each column was seen, a row costs nothing more.

    Args:
        schema: of the rows of a sink; a field of it with the metadata ``may_be_absent`` is fine.
    """

    def __init__(self, schema: pa.Schema | None) -> None:
        self._top = _Place("", schema if schema is not None else ())
        self._rows = 0

    def look(self, rows: Sequence[Any]) -> None:
        """Look at rows of the bundle."""
        for row in rows:
            if self._top.is_seen:
                return
            self._rows += 1
            fields = fields_of(row)
            if fields is not None:
                self._top.look(fields)

    def refuse(self) -> None:
        """
        Raises:
            UnfitRow: no row so far has a column, and rows have fields that the schema does not name.
        """
        for place in self._top.suspicious():
            name, unnamed = min(place.unseen), sorted(place.unnamed)[:_SHOWN]
            others = ", ".join(repr(f"{place.path}{other}") for other in unnamed)
            raise UnfitRow(
                f"none of {self._rows} rows has column {place.path + name!r} of schema=, and they have {others}, which it does "
                "not name: is it misspelt? Correct schema=, or say that rows may lack the column: "
                f"pyarrow.field({name!r}, …, metadata={{{MAY_BE_ABSENT.decode()!r}: 'true'}})."
            )


def needed_columns(fields: Iterable[pa.Field]) -> list[str]:
    """Those that rows are expected to have."""
    return [field.name for field in fields if MAY_BE_ABSENT not in (field.metadata or {})]


class _Place:
    """The fields of rows, or of the structs in one of their columns."""

    def __init__(self, path: str, fields: Iterable[pa.Field]) -> None:
        fields = list(fields)
        self.path = path
        self.unseen = set(needed_columns(fields))
        self.unnamed: set[str] = set()
        self._named = frozenset(field.name for field in fields)
        self._inner: dict[str, tuple[pa.DataType, _Place]] = {}
        for field in fields:
            struct = _struct_in(field.type)
            place = None if struct is None else _Place(f"{path}{field.name}.", struct)
            if place is not None and not place.is_seen:
                self._inner[field.name] = field.type, place

    @property
    def is_seen(self) -> bool:
        """Whether there is nothing to look for any more."""
        return not (self.unseen or self._inner)

    def look(self, fields: Mapping[Any, Any]) -> None:
        """Look at one row, or one struct."""
        if self.unseen:
            self.unseen.difference_update(fields)
            if len(self.unnamed) < _SHOWN:
                self.unnamed.update(map(str, fields.keys() - self._named))
        for name in list(self._inner):
            kind, place = self._inner[name]
            for struct in _structs(fields.get(name), kind):
                place.look(struct)
                if place.is_seen:
                    del self._inner[name]
                    break

    def suspicious(self) -> Iterator[_Place]:
        """Places where a field is not seen, and others are."""
        if self.unseen and self.unnamed:
            yield self
        for _, place in self._inner.values():
            yield from place.suspicious()


def _struct_in(kind: pa.DataType) -> pa.DataType | None:
    """The type of the structs in a column, if there are any."""
    if pa.types.is_struct(kind):
        return kind
    inner = _inner_type(kind)
    return None if inner is None else _struct_in(inner)


def _inner_type(kind: pa.DataType) -> pa.DataType | None:
    """Of the elements of lists and of the values of maps."""
    if pa.types.is_map(kind):
        return kind.item_type
    return kind.value_type if kind.num_fields == 1 and hasattr(kind, "value_type") else None


def _structs(value: Any, kind: pa.DataType) -> Iterable[Mapping[Any, Any]]:
    """The structs in a value of a column of type ``kind``, as far as they say the names of their fields."""
    if value is None:
        return ()
    if pa.types.is_struct(kind):
        return _struct(value)
    try:
        if pa.types.is_map(kind):
            values: Iterable[Any] = value.values() if isinstance(value, Mapping) else (item for _, item in value)
        else:
            values = iter(value)
        return chain.from_iterable(_structs(one, _inner_type(kind)) for one in list(values))
    except (TypeError, ValueError):  # of another kind: refused where it becomes a column
        return ()


def _struct(value: Any) -> Iterable[Mapping[Any, Any]]:
    """As Arrow takes one: a mapping, or pairs. A tuple says no names."""
    if isinstance(value, Mapping):
        return (value,)
    is_pairs = isinstance(value, (list, tuple)) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
    return ({str(name): inner for name, inner in value},) if is_pairs else ()
