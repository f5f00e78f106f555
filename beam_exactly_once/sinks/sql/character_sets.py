"""What a database's character sets can keep: known here of the plainest, asked of the database for the rest.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

import codecs
import re

import sqlalchemy as sa

from beam_exactly_once.sinks.sql.target import SqlTarget
from beam_exactly_once.sinks.sql.types import Characters

_HAVE_ALL = frozenset({"utf8mb4", "utf16", "utf16le", "utf32", "gb18030", "binary"})
_HAVE_PLANE_0 = frozenset({"utf8", "utf8mb3", "ucs2"})
_PLANE_0 = "".join(map(chr, (*range(1, 0xD800), *range(0xE000, 0x10000))))
"""What the other character sets of MySQL have at most, besides NUL."""
_CODECS = {"KOI8R": "koi8_r", "KOI8U": "koi8_u"}
"""Python's names of PostgreSQL's encodings, where Python does not know these itself."""

_of_mysql: dict[str, Characters] = {}


def characters_of(connection: sa.Connection, target: SqlTarget, dialect: str) -> dict[str, Characters | None]:
    """The characters that texts may have, by column of a table; a column that is not named takes all."""
    if dialect == "postgresql":
        encoding = str(connection.scalar(sa.text("SELECT current_setting('server_encoding')")))
        known = of_postgresql(encoding)
        return {} if known is None else dict.fromkeys(_columns(connection, target), known)
    if dialect != "mysql":
        return {}
    # A table's own declaration tells only what is not its database's default.
    found = connection.execute(
        sa.text(
            "SELECT column_name, character_set_name FROM information_schema.columns "
            "WHERE table_name = :table AND table_schema = COALESCE(:schema, DATABASE())"
        ),
        {"table": target.table, "schema": target.namespace},
    ).all()
    return {row[0]: None if row[1] is None else of_mysql(connection, row[1]) for row in found}


def _columns(connection: sa.Connection, target: SqlTarget) -> list[str]:
    return [str(column["name"]) for column in sa.inspect(connection).get_columns(target.table, target.namespace)]


def of_postgresql(encoding: str) -> Characters | None:
    """The characters of a database's encoding; None: all, or not known here."""
    try:
        codec = codecs.lookup(_CODECS.get(encoding, re.sub("^WIN", "cp", encoding)))
    except LookupError:
        return None

    def include(text: str) -> bool:
        try:
            codec.encode(text)
        except UnicodeEncodeError:
            return False
        return True

    return None if codec.name == "utf-8" else Characters(encoding, include)


def of_mysql(connection: sa.Connection, name: str) -> Characters | None:
    """The characters of a column's character set; None: all. The server is asked once a process."""
    if name in _HAVE_ALL:
        return None
    if name in _HAVE_PLANE_0:
        return Characters(name, lambda text: max(text, default="") <= "\uffff")
    known = _of_mysql.get(name)
    if known is None:
        # What a set does not have becomes a question mark.
        kept = connection.scalar(
            sa.text(f"SELECT CONVERT(CONVERT(:all USING {name}) USING utf8mb4)"), {"all": _PLANE_0}
        )
        had = frozenset(one for one, back in zip(_PLANE_0, str(kept), strict=True) if one == back) | {"\0"}
        known = _of_mysql[name] = Characters(name, lambda text: had.issuperset(text))
    return known
