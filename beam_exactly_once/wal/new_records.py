"""Records on their way into the log: many of them as columns, so that no step costs something for each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from beam_exactly_once.logs.records import Headers
from beam_exactly_once.wal.ids import NO_CONTENT, NO_ID


class NewRecord(NamedTuple):
    """One of them. ``record_id`` and ``content`` are zeros if it came without an id."""

    value: bytes | None
    arrived_ms: int
    record_id: bytes = NO_ID
    content: bytes = NO_CONTENT
    key: bytes | None = None
    headers: Headers = ()


@dataclass(slots=True)
class NewRecords:
    """Many of them, one list a column: what :class:`NewRecord` has of each."""

    values: list[bytes | None] = field(default_factory=list)
    arrived_ms: list[int] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[NewRecord]) -> NewRecords:
        """These, one by one."""
        return cls(*map(list, zip(*records, strict=True)))

    def __len__(self) -> int:
        """Number of records."""
        return len(self.values)

    def add(self, more: NewRecords) -> None:
        """Put others behind them."""
        for column, added in zip(self._columns(), more._columns(), strict=True):
            column += added

    def at(self, places: Sequence[int]) -> NewRecords:
        """Some of them."""
        return NewRecords(*([column[place] for place in places] for column in self._columns()))

    def _columns(self) -> tuple[list[Any], ...]:
        return self.values, self.arrived_ms, self.ids, self.contents, self.keys, self.headers
