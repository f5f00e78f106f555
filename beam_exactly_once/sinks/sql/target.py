"""What a user asks of ``WriteToSql``; checked when it is made, and plain data in the graph."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from beam_exactly_once.errors import ConfigurationError

Mode: TypeAlias = Literal["append", "upsert"]
SHARDS_MAX = 64
RECEIPTS_TABLE = "beam_exactly_once_receipts"

_NAME = re.compile(r'(?:(?P<schema>"(?:[^"]|"")+"|[^".]+)\.)?(?P<table>"(?:[^"]|"")+"|[^".]+)')
"""``orders`` or ``sales.orders``; each part may be in double quotes."""


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
    receipts_table: str | None
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

        if self.receipts_table is not None:
            schema_and_table("receipts_table", self.receipts_table)

    @property
    def receipts(self) -> tuple[str | None, str]:
        """Schema and name of the table of receipts."""
        if self.receipts_table is None:
            return self.table_schema, RECEIPTS_TABLE
        return schema_and_table("receipts_table", self.receipts_table)

    @property
    def full_name(self) -> str:
        """The table with its schema."""
        return self.table if self.table_schema is None else f"{self.table_schema}.{self.table}"


def schema_and_table(argument: str, name: str) -> tuple[str | None, str]:
    """The schema and the table that ``name`` is of; the schema is None where it names none.

    Raises:
        ConfigurationError: it is not the name of a table.
    """
    parts = _NAME.fullmatch(name) if isinstance(name, str) else None
    if parts is None:
        raise ConfigurationError(
            f'{argument}={name!r} of WriteToSql must be the name of a table, such as "orders", "sales.orders" or '
            '\'"my schema"."my table"\'.'
        )
    schema, table = (None if part is None else _unquoted(part) for part in parts.group("schema", "table"))
    assert table is not None
    return schema, table


def _unquoted(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part
