"""What a user asks of ``WriteToSql``; checked when it is made, and plain data in the graph."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from beam_exactly_once.arguments import one_of, whole_number
from beam_exactly_once.errors import ConfigurationError

Mode: TypeAlias = Literal["append", "upsert"]
MAX_SHARDS = 64
RECEIPTS_TABLE = "beam_exactly_once_receipts"

_PART = re.compile(r'"(?:[^"]|"")+"|[^."]+')
_TABLE = re.compile(rf"(?:{_PART.pattern})(?:\.(?:{_PART.pattern}))?")


@dataclass(frozen=True, slots=True)
class SqlTarget:
    """A table and how rows go into it."""

    table: str
    namespace: str | None
    """The database's own, such as a schema of PostgreSQL; None: that of the connection."""
    columns: tuple[str, ...] | None
    """What is written; None: all columns of the table."""
    mode: Mode
    key_columns: tuple[str, ...]
    newest_by: str | None
    receipts_table: str | None
    shards: int
    direct: bool = False

    def __post_init__(self) -> None:
        one_of("mode", self.mode, get_args(Mode))
        if self.newest_by is not None and not isinstance(self.newest_by, str):
            raise ConfigurationError(f"newest_by={self.newest_by!r} of WriteToSql must be the name of one column.")
        if self.mode == "upsert" and not self.key_columns:
            raise ConfigurationError('mode="upsert" of WriteToSql needs key_columns=, the columns of a unique key.')
        if self.mode == "append" and (self.key_columns or self.newest_by is not None):
            raise ConfigurationError('key_columns= and newest_by= of WriteToSql are for mode="upsert".')
        whole_number("shards", self.shards, most=MAX_SHARDS)
        for name in self.compared_columns:
            if self.columns is not None and name not in self.columns:
                raise ConfigurationError(f"column {name!r}, which WriteToSql needs, must be one of its columns=.")
        if self.receipts_table is not None:
            table_parts(self.receipts_table, argument="receipts_table")

    @property
    def receipts(self) -> tuple[str, str | None]:
        """Name and namespace of the table of receipts."""
        if self.receipts_table is None:
            return RECEIPTS_TABLE, self.namespace
        return table_parts(self.receipts_table, argument="receipts_table")

    @property
    def full_name(self) -> str:
        """The table as the user writes it."""
        return ".".join(_as_written(part) for part in (self.namespace, self.table) if part is not None)

    @property
    def quoted_name(self) -> str:
        """The table in SQL. SQLAlchemy's own quoting doubles each percent sign, for drivers that it gives parameters."""
        return ".".join(quoted(part) for part in (self.namespace, self.table) if part is not None)

    @property
    def compared_columns(self) -> tuple[str, ...]:
        """The columns whose values decide which row is written."""
        return self.key_columns if self.newest_by is None else (*self.key_columns, self.newest_by)


def table_parts(table: str, *, argument: str = "table") -> tuple[str, str | None]:
    """A table's own name, and its namespace: ``"orders"``, ``"sales.orders"``, ``'"my.schema".orders'``.

    Raises:
        ConfigurationError: it is not such a name.
    """
    if not isinstance(table, str) or _TABLE.fullmatch(table) is None:
        raise ConfigurationError(
            f'{argument}={table!r} of WriteToSql must be the name of a table: "orders", or "sales.orders" with its namespace. '
            "Write a part that holds a dot or a quote in double quotes."
        )
    *namespace, name = (part[1:-1].replace('""', '"') if part[0] == '"' else part for part in _PART.findall(table))
    return name, namespace[0] if namespace else None


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _as_written(part: str) -> str:
    """``part``, in quotes if it would not be read back without."""
    return quoted(part) if "." in part or '"' in part else part
