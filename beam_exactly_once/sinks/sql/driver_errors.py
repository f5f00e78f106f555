"""What a database's driver says, without the values of rows that it quotes, and what the code of an error tells."""

from __future__ import annotations

import re

_TOLD_STATES = (
    *("08", "25", "26", "28", "3D", "3F", "40", "53", "55", "57", "42P05"),
    *("42501", "42702", "42703", "42804", "42809", "42846", "42883", "428C9", "42P01", "42P07", "42P10", "42P18"),
)
"""SQLSTATE of PostgreSQL whose messages hold no value: connections, logins, rights, conflicts, resources, missing objects."""
_TOLD_IN_CONTEXT = ("08", "25", "28", "40", "53", "55", "57", "42501")
"""Those of them that are told where a function runs, too: another one may have made the name of an object of a value."""
_STATEMENT_STATES = ("21", "22", "23", "27", "38", "39", "42", "44", "P0")
"""Classes of SQLSTATE about a statement, its rows or a function that it calls: the connection goes on."""
_OF_A_LANGUAGE = re.compile(r"pl(?!an|acehold)")
"""Files of PostgreSQL, such as ``pl_exec.c``, that raise what a function says; the planner's begin otherwise."""

_MYSQL_TOLD = frozenset(
    {1020, 1021, 1030, 1037, 1038, 1040, 1041, 1042, 1043, 1044, 1045, 1046, 1047, 1049, 1050, 1053, 1054, 1081, 1114}
    | {1129, 1130, 1136, 1142, 1143, 1146, 1153, 1158, 1159, 1160, 1161, 1193, 1203, 1205, 1206, 1213, 1226, 1227, 1286}
    | {1290, 1305, 1317, 1348, 1356, 1370, 1471, 1665, 1698, 1792, 1836, 1927, 3024, 3118, 3159, 4031, 4151}
)
"""The same of MySQL and MariaDB, by number."""
_MYSQL_LOST = frozenset({1053, 1927, 4031})
"""What a server of MySQL or MariaDB says of a connection that it ends."""
_NAME = r"[`'\"]((?:[\w$]+[`'\"]?\.[`'\"]?)*[\w$]{1,64})[`'\"]"
_FIRST = re.compile(rf"\A(?:Column|Field|Check constraint|CONSTRAINT) {_NAME} ")
_LAST_KEY = re.compile(rf"key {_NAME}$")
_LAST_COLUMN = re.compile(rf"column {_NAME} at row \d+$")
_LAST_OF_JSON = re.compile(rf"in value for column {_NAME}$")
_FOREIGN_KEY = re.compile(rf" CONSTRAINT {_NAME} FOREIGN KEY ")
_MYSQL_NAMES = {
    **dict.fromkeys((1048, 1110, 1364, 3819, 4025), _FIRST),
    **dict.fromkeys((1062, 1586, 1761, 1859), _LAST_KEY),
    **dict.fromkeys((1263, 1264, 1265, 1292, 1366, 1406), _LAST_COLUMN),
    **dict.fromkeys((1451, 1452), _FOREIGN_KEY),
    3140: _LAST_OF_JSON,
}
"""Where an error about a row has the name of a column or a constraint; what the row holds may look like a name, elsewhere."""

_SQLITE_TOLD = frozenset(
    {3, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 17, 18, 20, 23, 26} | {275, 787, 1299, 1555, 2067, 2579, 3091}
)
"""Codes of SQLite; of constraints not those of triggers and functions, which say what they like."""
_SQLITE_TOLD_BEGINNINGS = (
    "no such ",
    "table ",
    "cannot ",
    "near ",
    "ON CONFLICT ",
    "foreign key mismatch",
    "malformed JSON",
)
"""Of the code that SQLite has for all other errors."""
_SQLITE_CODES = {
    "database is locked": 5,
    "database table is locked": 6,
    "database schema is locked": 6,
    "attempt to write a readonly database": 8,
    "disk I/O error": 10,
    "database or disk is full": 13,
    "unable to open database file": 14,
    "CHECK constraint failed": 275,
    "FOREIGN KEY constraint failed": 787,
    "NOT NULL constraint failed": 1299,
    "UNIQUE constraint failed": 2067,
}
"""What SQLite says of them; Python tells the codes themselves since 3.11."""
_CONSTRAINT = 19

_LABEL = re.compile(r"\n(?:LINE \d+|\w+): ")
"""Of a detail, a context or a statement below a message of PostgreSQL, in any language."""
_NOT_TOLD = "its message is not shown, since it may hold a value of a row"
_MAX_LENGTH = 500


def said_without_values(cause: BaseException | None) -> str:
    """The message of an error whose code is known for messages without values; of any other its code, and names in it.

    A database quotes the row that it refuses: ``Failing row contains (1, 4111-…)``, ``Duplicate entry '4111-…'``, and a
    trigger says what it likes. That is for no log. The names of column and constraint stay.
    """
    state, number = _state(cause), _number(cause)
    if state is not None:
        return _said_by_postgresql(cause, state)
    if _is_of_sqlite(cause):
        return _said_by_sqlite(cause)
    if number is not None:
        return _said_by_mysql(cause, number)
    if _is_a(cause, "OperationalError") or _is_a(cause, "InterfaceError"):  # of a connection
        return _NOT_TOLD if _is_of_fields(cause) else _short(_LABEL.split(str(cause), maxsplit=1)[0])
    return _NOT_TOLD


def is_of_a_statement(cause: BaseException | None) -> bool:
    """Whether the code of an error says that the connection is not lost, whatever its text says."""
    state, number = _state(cause), _number(cause)
    if state is not None:
        return state.startswith(_STATEMENT_STATES)
    return number is not None and number >= 1000 and not _is_of_client(number) and number not in _MYSQL_LOST


def sqlite_code(cause: BaseException | None) -> int:
    """The code of an error of SQLite, whatever names of tables and texts of rows its message quotes; 0: it is not known."""
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return int(code)
    known = _SQLITE_CODES.get(str(cause).partition(": ")[0], 0)
    kind = "IntegrityError" if known & 0xFF == _CONSTRAINT else "OperationalError"
    return known if _is_a(cause, kind) else 0


def _said_by_postgresql(cause: BaseException | None, state: str) -> str:
    diagnosis = getattr(cause, "diag", None)
    if _OF_A_LANGUAGE.match(getattr(diagnosis, "source_file", None) or ""):
        return f"SQLSTATE {state}"  # the function chose the names, too
    told = _TOLD_IN_CONTEXT if getattr(diagnosis, "context", None) else _TOLD_STATES
    message = getattr(diagnosis, "message_primary", None)
    if message and state.startswith(told):
        return _short(message)
    named = {kind: getattr(diagnosis, f"{kind}_name", None) for kind in ("constraint", "column", "table")}
    return ", ".join([f"SQLSTATE {state}", *(f"{kind} {name}" for kind, name in named.items() if name)])


def _said_by_mysql(cause: BaseException | None, number: int) -> str:
    if number in _MYSQL_TOLD or _is_of_client(number):
        return _short(str(cause))
    message = "".join(str(one) for one in getattr(cause, "args", ())[1:2]).rstrip(".")
    found = _MYSQL_NAMES[number].search(message) if number in _MYSQL_NAMES else None
    return f"error {number}" if found is None else f"error {number}, {found[1]}"


def _said_by_sqlite(cause: BaseException | None) -> str:
    code, message = sqlite_code(cause), str(cause)
    is_other = (
        code & 0xFF in (0, 1) and _is_a(cause, "OperationalError") and message.startswith(_SQLITE_TOLD_BEGINNINGS)
    )
    is_told = code in _SQLITE_TOLD or (code & 0xFF != _CONSTRAINT and code & 0xFF in _SQLITE_TOLD)
    return _short(message) if is_other or is_told else getattr(cause, "sqlite_errorname", f"error {code}")


def _state(cause: BaseException | None) -> str | None:
    """SQLSTATE, as drivers of PostgreSQL tell it."""
    if getattr(cause, "diag", None) is None:
        return None
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return None if state is None else str(state)


def _number(cause: BaseException | None) -> int | None:
    """Of an error of MySQL or MariaDB."""
    arguments = getattr(cause, "args", ())
    number = arguments[0] if arguments and isinstance(arguments[0], int) else getattr(cause, "errno", None)
    return number if isinstance(number, int) else None


def _is_of_client(number: int) -> bool:
    """Whether a client of MySQL or MariaDB has such errors itself: they are about its connection."""
    return 2000 <= number < 3000


def _is_of_sqlite(cause: BaseException | None) -> bool:
    return hasattr(cause, "sqlite_errorcode") or "sqlite" in type(cause).__module__


def _is_of_fields(cause: BaseException | None) -> bool:
    """Whether its message is all that a server sent, details of rows among it."""
    return any(not isinstance(one, str) for one in getattr(cause, "args", ()))


def _is_a(cause: BaseException | None, name: str) -> bool:
    """By the name of its class, which is the same for all drivers."""
    return any(kind.__name__ == name for kind in type(cause).__mro__)


def _short(text: str) -> str:
    return " ".join(text.split())[:_MAX_LENGTH].rstrip(".")
