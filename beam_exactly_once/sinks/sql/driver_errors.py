"""What a database's driver says, without the values of rows that it quotes."""

from __future__ import annotations

import re

_ROW_STATES = ("22", "23", "44")
"""Classes of SQLSTATE that are about a row: data, integrity, a view's condition."""
_ROW_ERRORS = frozenset(
    {
        1022,
        1048,
        1062,
        1110,
        1153,
        1169,
        1216,
        1217,
        1263,
        1264,
        1265,
        1291,
        1292,
        1364,
        1366,
        1367,
        1369,
        1406,
        1411,
        1416,
    }
    | {1441, 1451, 1452, 1525, 1526, 1557, 1586, 1644, 1690, 1761, 1762, 1859, 3140, 3819, 4025, 4078}
)
"""The same of MySQL and MariaDB, by number."""
_STATEMENT_STATES = ("21", "22", "23", "27", "38", "39", "42", "44", "P0")
"""Classes of SQLSTATE about a statement, its rows or a function that it calls: the connection goes on."""
_MYSQL_LOST = frozenset({1053, 1927, 4031})
"""What a server of MySQL or MariaDB says of a connection that it ends; clients have numbers of their own, from 2000 to 2999."""
_NAMES = re.compile(r"(?:column|key|constraint) [`'\"]((?:[\w$]+[`'\"]?\.[`'\"]?)*[\w$]{1,64})[`'\"]", re.IGNORECASE)
_MAX_LENGTH = 500
_SQLITE_CODES = {
    "database is locked": 5,
    "database table is locked": 6,
    "database schema is locked": 6,
    "attempt to write a readonly database": 8,
    "disk I/O error": 10,
    "database or disk is full": 13,
    "unable to open database file": 14,
}
"""What SQLite says of them; Python tells the codes themselves since 3.11."""


def said_without_values(cause: BaseException | None) -> str:
    """The message of an error, or, where it is about a row, its code and the names in it.

    A database quotes the row that it refuses: ``Failing row contains (1, 4111-…)``, ``Duplicate entry '4111-…'``. That is
    for no log. The names of column and constraint stay.
    """
    diagnosis, state = getattr(cause, "diag", None), getattr(cause, "sqlstate", None)
    if diagnosis is not None and state is not None:
        if not state.startswith(_ROW_STATES):
            return _short(diagnosis.message_primary or str(cause))
        named = {kind: getattr(diagnosis, f"{kind}_name") for kind in ("constraint", "column", "table")}
        return ", ".join([f"SQLSTATE {state}", *(f"{kind} {name}" for kind, name in named.items() if name)])
    arguments = getattr(cause, "args", ())
    if arguments and arguments[0] in _ROW_ERRORS:
        # The last one: what the row holds may look like a name, and stands before it.
        return ", ".join([f"error {arguments[0]}", *_NAMES.findall(str(arguments[-1]))[-1:]])
    return _short(str(cause).partition("\nLINE ")[0])


def is_of_a_statement(cause: BaseException | None) -> bool:
    """Whether the code of an error says that the connection is not lost, whatever its text says."""
    state = _state(cause)
    if state is not None:
        return state.startswith(_STATEMENT_STATES)
    number = _number(cause)
    return number is not None and number >= 1000 and not 2000 <= number < 3000 and number not in _MYSQL_LOST


def _state(cause: BaseException | None) -> str | None:
    """SQLSTATE, as drivers of PostgreSQL tell it."""
    if getattr(cause, "diag", None) is None:
        return None
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return None if state is None else str(state)


def _number(cause: BaseException | None) -> int | None:
    """Of an error of MySQL or MariaDB."""
    arguments = getattr(cause, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def sqlite_code(cause: BaseException | None) -> int:
    """The code of an error of SQLite, whatever names of tables and texts of rows its message quotes; 0: it is not known."""
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return int(code)
    is_operational = any(kind.__name__ == "OperationalError" for kind in type(cause).__mro__)
    return _SQLITE_CODES.get(str(cause).partition(": ")[0], 0) if is_operational else 0


def _short(text: str) -> str:
    return " ".join(text.split())[:_MAX_LENGTH].rstrip(".")
