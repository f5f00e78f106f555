"""What a row is: fields by their names. The one place that says it, for every sink.

A row is a mapping, a NamedTuple, a ``beam.Row`` or a dataclass. They all say which fields they have. Where a sink names the
fields that it wants, any other object with such attributes is a row, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

KINDS = "dicts, NamedTuples, dataclasses, beam.Row or pyarrow.RecordBatch"
"""What a sink takes, for messages."""


def fields_of(row: Any) -> Mapping[str, Any] | None:
    """All fields of a row, or None if it does not say which it has."""
    # A dict by its type: to ask whether something is a Mapping takes ten times as long.
    if type(row) is dict or isinstance(row, Mapping):
        return row
    if isinstance(row, type):
        return None
    for method in ("_asdict", "as_dict"):  # NamedTuple, beam.Row
        if hasattr(row, method):
            return dict(getattr(row, method)())
    if dataclasses.is_dataclass(row):
        return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return None


def has_field(row: Any, name: str) -> bool:
    """Whether a row has this field, be it None."""
    if type(row) is dict or isinstance(row, Mapping):
        return name in row
    return hasattr(row, name) or name in (fields_of(row) or ())


def columns_of(rows: list[Any], names: Sequence[str]) -> list[Sequence[Any]] | None:
    """The values of each named field, None where a row lacks it; or None if such rows have none of these fields.

    Args:
        rows: at least one, all of one type.
        names: of the fields.
    """
    kind = type(rows[0])
    if issubclass(kind, Mapping):
        return [_column_of_mappings(rows, name) for name in names]
    if issubclass(kind, tuple) and list(getattr(kind, "_fields", ())) == list(names):
        return list(zip(*rows, strict=True))
    if any(name in getattr(kind, "_fields", ()) or hasattr(rows[0], name) for name in names):
        return [_column_of_objects(rows, name) for name in names]
    fields = fields_of(rows[0])  # of an object that has them, but not as attributes
    if fields is None or fields.keys().isdisjoint(names):
        return None
    mappings = [fields_of(row) for row in rows]
    return [_column_of_mappings(mappings, name) for name in names]


def _column_of_mappings(rows: list[Any], name: str) -> list[Any]:
    try:
        return list(map(itemgetter(name), rows))
    except KeyError:
        return [row.get(name) for row in rows]


def _column_of_objects(rows: list[Any], name: str) -> list[Any]:
    try:
        return list(map(attrgetter(name), rows))
    except AttributeError:
        return [getattr(row, name, None) for row in rows]
