"""What a user asks of ``WriteToSql``; checked when it is made, and plain data in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from beam_exactly_once.errors import ConfigurationError

Mode: TypeAlias = Literal["append", "upsert"]
SHARDS_MAX = 64


@dataclass(frozen=True, slots=True)
class SqlTarget:
    """A table and how rows go into it."""

    table: str
    table_schema: str | None
    columns: tuple[str, ...] | None
    """What is written; None: all columns of the table."""
    mode: Mode
    key_columns: tuple[str, ...]
    order_by: str | None
    marks_schema: str | None
    shards: int
    direct: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.table, str) or not self.table:
            raise ConfigurationError(f"table={self.table!r} of WriteToSql must be the name of a table.")
        if self.mode not in get_args(Mode):
            raise ConfigurationError(f"mode={self.mode!r} of WriteToSql must be one of {', '.join(get_args(Mode))}.")
        if self.mode == "upsert" and not self.key_columns:
            raise ConfigurationError('mode="upsert" of WriteToSql needs key_columns=, the columns of a unique key.')
        if self.mode == "append" and (self.key_columns or self.order_by is not None):
            raise ConfigurationError('key_columns= and order_by= of WriteToSql are for mode="upsert".')
        if not isinstance(self.shards, int) or not 1 <= self.shards <= SHARDS_MAX:
            raise ConfigurationError(f"shards={self.shards!r} of WriteToSql must be a number from 1 to {SHARDS_MAX}.")
        for name in (*self.key_columns, *([] if self.order_by is None else [self.order_by])):
            if self.columns is not None and name not in self.columns:
                raise ConfigurationError(f"column {name!r}, which WriteToSql needs, must be one of its columns=.")

    @property
    def full_name(self) -> str:
        """The table with its schema."""
        return self.table if self.table_schema is None else f"{self.table_schema}.{self.table}"
