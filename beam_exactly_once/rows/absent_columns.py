"""Columns of a schema that no row of a bundle has: a misspelt name would be a column of nulls, so it is refused. Pure."""

from __future__ import annotations

from collections.abc import Sequence
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
        self._named = frozenset(schema.names if schema is not None else ())
        self._unseen = set(needed_columns(schema) if schema is not None else ())
        self._unnamed: set[str] = set()
        self._rows = 0

    def look(self, rows: Sequence[Any]) -> None:
        """Look at rows of the bundle."""
        for row in rows:
            if not self._unseen:
                return
            self._rows += 1
            fields = fields_of(row)
            if fields is not None:
                self._unseen.difference_update(fields)
                if len(self._unnamed) < _SHOWN:
                    self._unnamed.update(map(str, fields.keys() - self._named))

    def refuse(self) -> None:
        """
        Raises:
            UnfitRow: no row so far has a column, and rows have fields that the schema does not name.
        """
        if self._unseen and self._unnamed:
            name, unnamed = min(self._unseen), ", ".join(map(repr, sorted(self._unnamed)[:_SHOWN]))
            raise UnfitRow(
                f"none of {self._rows} rows has column {name!r} of schema=, and they have {unnamed}, which it does not name: is "
                "it misspelt? Correct schema=, or say that rows may lack the column: "
                f"pyarrow.field({name!r}, …, metadata={{{MAY_BE_ABSENT.decode()!r}: 'true'}})."
            )


def needed_columns(schema: pa.Schema) -> list[str]:
    """Those that rows are expected to have."""
    return [field.name for field in schema if MAY_BE_ABSENT not in (field.metadata or {})]
