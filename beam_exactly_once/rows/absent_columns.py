"""Columns of a schema that no row has: a misspelt name would be a column of nulls, so it is said.

Rows may lack a column, and which rows are at hand together is an accident. So nothing is refused, and what is written does not
depend on it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from beam_exactly_once.rows.fields import fields_of

MAY_BE_ABSENT = b"may_be_absent"
"""Metadata of a field of ``schema=`` that rows may lack."""

LOOKS = 10_000
"""Rows that are looked at: a name that is misspelt shows in the first ones."""

_LOGGER = logging.getLogger(__name__)
_said: set[tuple[str, str]] = set()
"""Sinks with their columns that this process has spoken of."""


class AbsentColumns:
    """Looks for columns that rows have not. When each column was seen, a row costs nothing more.

    Args:
        schema: of the sink's rows; a field of it with the metadata ``may_be_absent`` is fine.
        sink: name of the sink.
    """

    def __init__(self, schema: pa.Schema | None, sink: str) -> None:
        self._sink = sink
        self._named = frozenset(schema.names if schema is not None else ())
        self._unseen = set(needed_columns(schema) if schema is not None else ())
        self._looks = LOOKS

    def look(self, rows: Sequence[Any]) -> None:
        """Warn, once a process, of a column that no row has had so far, where these have fields that the schema does not name."""
        unnamed: set[Any] = set()
        for row in rows:
            if not self._unseen:
                return
            self._looks -= 1
            fields = fields_of(row)
            if fields is not None:
                self._unseen.difference_update(fields)
                unnamed.update(fields.keys() - self._named)
        if unnamed:
            shown = ", ".join(map(repr, sorted(map(str, unnamed))[:5]))
            for name in sorted(self._unseen):
                self._say(name, shown)
        if unnamed or self._looks <= 0:
            self._unseen.clear()

    def _say(self, name: str, unnamed: str) -> None:
        if (self._sink, name) in _said:
            return
        _said.add((self._sink, name))
        _LOGGER.warning(
            "sink %r: no row so far has column %r of schema=, and rows have %s, which it does not name: is it misspelt? It is null "
            "in such rows. Correct schema=, or say that rows may lack the column: pyarrow.field(%r, …, metadata={%r: 'true'}).",
            self._sink,
            name,
            unnamed,
            name,
            MAY_BE_ABSENT.decode(),
        )


def needed_columns(schema: pa.Schema) -> list[str]:
    """Those that rows are expected to have."""
    return [field.name for field in schema if MAY_BE_ABSENT not in (field.metadata or {})]
