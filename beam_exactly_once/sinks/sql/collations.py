"""Which texts a database takes for one key.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import pyarrow as pa
import sqlalchemy as sa

from beam_exactly_once.sinks.sql.target import SqlTarget

Equality: TypeAlias = Literal["exact", "folded", "collated"]
"""Two texts that differ are two to the database; or they may be one where :func:`folded` makes them one; or anywhere."""

EQUALITY = b"equality"
"""Says it in the metadata of a staged column, unless it is exact."""

_COLLATED_BY_POSTGRESQL = sa.text(
    "WITH collated AS (SELECT oid FROM pg_collation WHERE NOT collisdeterministic) "
    "SELECT a.attname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
    "WHERE a.attrelid = to_regclass(:table) AND a.attnum > 0 AND ("
    "a.attcollation IN (SELECT oid FROM collated) "
    "OR t.typoutput::regproc::text LIKE '%citextout' "  # a domain has it of the type it is made of
    "OR EXISTS (SELECT FROM pg_index i, unnest(i.indkey::int2[], i.indcollation::oid[]) AS k (attnum, oid) "
    "WHERE i.indrelid = a.attrelid AND i.indisunique AND k.attnum = a.attnum AND k.oid IN (SELECT oid FROM collated)))"
)
_COLLATIONS_OF_MYSQL = sa.text(
    "SELECT column_name, collation_name FROM information_schema.columns "
    "WHERE table_name = :table AND table_schema = COALESCE(:schema, DATABASE()) AND collation_name IS NOT NULL"
)


def equalities(connection: sa.Connection, target: SqlTarget, dialect: str) -> Mapping[str, Equality]:
    """How the texts of a table's columns are compared, which only an upsert needs; one that is not named tells all apart."""
    if target.mode != "upsert":
        return {}
    if dialect == "postgresql":
        found = connection.execute(_COLLATED_BY_POSTGRESQL, {"table": target.quoted_name})
        return {name: "collated" for (name,) in found}
    if dialect == "mysql":
        of_table = connection.execute(_COLLATIONS_OF_MYSQL, {"table": target.table, "schema": target.namespace})
        # Those end alike that differ in spaces at the end at most.
        return {name: "folded" if str(collation).endswith("_bin") else "collated" for name, collation in of_table}
    # SQLite's own are BINARY, NOCASE and RTRIM, and an index may have another one than its column.
    columns = sa.inspect(connection).get_columns(target.table, target.namespace)
    return {column["name"]: "folded" for column in columns if isinstance(column["type"], sa.String)}


def is_exact(field: pa.Field) -> bool:
    """Whether all texts of a staged column are different ones to the database."""
    return EQUALITY not in (field.metadata or {})


def is_collated(field: pa.Field) -> bool:
    """Whether only the database can tell which texts of a staged column are one."""
    return (field.metadata or {}).get(EQUALITY) == b"collated"


def folded(text: str) -> str:
    """The same for all texts that differ in case, or in spaces at the end."""
    return text.rstrip(" ").casefold()
