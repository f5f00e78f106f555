"""Values of any type through a table's columns, as a sink writes them, and read again by the database's own driver."""

from __future__ import annotations

import datetime
import json
import math
import secrets
import uuid
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.sinks.sql.rows import write_rows
from beam_exactly_once.sinks.sql.table import reflected
from beam_exactly_once.sinks.sql.target import SqlTarget

UTC = datetime.timezone.utc
EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
ZONES = st.none() | st.just(UTC) | st.just(EAST)
NUMBERS = (
    st.integers(-(2**66), 2**66)
    | st.integers(-200, 200)
    | st.floats(allow_nan=False)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3)
    | st.decimals(-(10**40), 10**40, allow_nan=False, allow_infinity=False)
    | st.integers(2**53, 2**63).map(Decimal)  # a floating number holds few of them
)
VALUES = (
    NUMBERS
    | st.booleans()
    | st.dates()
    | st.times(timezones=ZONES)
    | st.datetimes(timezones=ZONES)
    | st.text(max_size=6)
    | st.text("aA ü\0", max_size=3)
    | st.binary(max_size=4)
    | st.uuids()
    | st.lists(st.integers(0, 9), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.integers() | st.floats() | st.none(), max_size=2)
)


class TableOfTypes:
    """One table with a column of each type, of which one is written at a time."""

    def __init__(self, engine: sa.Engine, dialect: str, declared: list[str]) -> None:
        self.name = f"types_{secrets.token_hex(4)}"
        self.declared = declared
        self.dialect = dialect
        self._engine = engine
        columns = ", ".join(f"c{number} {one} NULL" for number, one in enumerate(declared))
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE TABLE {self.name} (id BIGINT PRIMARY KEY, {columns})")
        self._target = SqlTarget(self.name, None, None, "append", (), None, None, 1)
        with engine.connect() as connection:
            self._table = reflected(connection, self._target, dialect)

    def through(self, number: int, value: Any) -> Any:
        """The value as the database has it.

        Raises:
            UnfitRow: it is refused. What else is raised would stop a stream after its commit.
        """
        batch = self._table.block_of_rows([{"id": 1, f"c{number}": value}])
        with self._engine.connect() as connection:
            try:
                write_rows(connection, self._target, [batch])
                column = f"c{number}"
                if self.dialect == "postgresql" and "JSON" in self.declared[number]:  # a driver would round its numbers
                    column += "::text"
                return connection.exec_driver_sql(f"SELECT {column} FROM {self.name}").scalar_one()
            finally:
                connection.rollback()


def assert_same_or_refused(table: TableOfTypes, number: int, value: Any) -> None:
    """Whatever the value and the column."""
    try:
        found = table.through(number, value)
    except UnfitRow:
        return
    declared = table.declared[number]
    is_single = declared in ("REAL", "FLOAT") and table.dialect != "sqlite"
    assert is_same(value, found, declared, is_single=is_single), f"{value!r} is {found!r} in {declared}"


def is_same(value: Any, found: Any, declared: str, *, is_single: bool) -> bool:
    """Whether ``found`` means ``value``, as far as a column of this type says what it means.

    Args:
        value: of a row.
        found: in the table.
        declared: type of the column.
        is_single: whether it is of floating numbers of 4 bytes.
    """
    if isinstance(value, (dict, list)) or "JSON" in declared:
        return in_json(value) == in_json(json.loads(found, parse_float=Decimal) if isinstance(found, str) else found)
    if isinstance(found, memoryview):
        found = bytes(found)
    if isinstance(found, datetime.timedelta):  # a time, as drivers of MySQL have it
        found = (datetime.datetime.min + found).time()
    if isinstance(value, (bool, int, float, Decimal)) and isinstance(found, str):
        found = Decimal(found)
    if isinstance(found, float) and is_single:  # of which MySQL shows 6 digits
        return math.isclose(found, value, rel_tol=1e-5, abs_tol=1e-37) or found == value
    if isinstance(value, (bool, int, float, Decimal)):
        shown = [Decimal(repr(one)) if isinstance(one, float) else Decimal(one) for one in (value, found)]
        return bool(value == found or shown[0] == shown[1])
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return moment(value) == moment(found)
    if isinstance(value, (bytes, str)) and isinstance(found, (bytes, str)):
        as_bytes = [one.encode() if isinstance(one, str) else one for one in (value, found)]
        if "CHAR(" in declared and "VARCHAR" not in declared:  # padded, as its type says
            as_bytes = [one.rstrip(b" ") for one in as_bytes]
        return as_bytes[0] == as_bytes[1]
    if isinstance(value, uuid.UUID) or isinstance(found, uuid.UUID):
        return uuid.UUID(str(found)) == uuid.UUID(str(value))
    if isinstance(value, str) and isinstance(found, (int, float, Decimal)):
        return is_same(Decimal(value), found, declared, is_single=is_single)
    return isinstance(value, (bytes, str))  # a text of a number or a date, which the column's type reads


def in_json(value: Any) -> Any:
    """As JSON says it, with exact numbers; those of an array of integers are such, too."""
    if isinstance(value, dict):
        return {name: in_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [in_json(one) for one in value]
    if value is None or isinstance(value, (bool, str)):
        return ("as it is", value)  # True is no 1
    if isinstance(value, (int, float, Decimal)):
        return Decimal(repr(value) if isinstance(value, float) else value)
    return ("as it is", value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else str(value))


def moment(value: Any) -> Any:
    """In UTC, where it has a zone; texts are SQLite's."""
    if isinstance(value, str):
        value = datetime.time.fromisoformat(value) if ":" in value[:3] else datetime.datetime.fromisoformat(value)
    if isinstance(value, datetime.datetime):
        return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, datetime.date):
        return datetime.datetime.combine(value, datetime.time())
    return value
