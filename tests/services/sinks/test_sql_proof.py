"""What is proved of a table at the start is what a publish does: by the same statement, for every kind of table."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beam_exactly_once.errors import OutputNotWritable
from beam_exactly_once.sinks.sql.character_sets import of_mysql
from support.rejected_rows import rejected_in
from support.sql_stream import SqlStream

pytestmark = pytest.mark.runs_on("DirectRunner")

on_postgres = pytest.mark.parametrize("sql_variable", ["postgres"], indirect=True)
on_mariadb = pytest.mark.parametrize("sql_variable", ["mariadb"], indirect=True)

ROWS: list[dict[str, Any]] = [{"id": 1, "name": "a"}, {"id": 2}, {"id": 3, "name": "\t"}]


@pytest.fixture
def stream(sql_variable: str, tmp_path: Path) -> Iterator[SqlStream]:
    stream = SqlStream(sql_variable, str(tmp_path / "checkpoint"))
    stream.send_rows(ROWS)
    yield stream
    stream.execute("DROP TABLE IF EXISTS beam_exactly_once_receipts")


def as_another(stream: SqlStream, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user who is no superuser, and for whom the stream runs from now on."""
    user = f"user_{secrets.token_hex(4)}"
    stream.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'pw'")
    stream.execute(f"GRANT ALL ON SCHEMA public TO {user}")
    url = stream.engine.url.set(username=user, password="pw").render_as_string(hide_password=False)
    monkeypatch.setenv("ANOTHER_URL", url)
    stream.url = type(stream.url)("env", "ANOTHER_URL")
    return user


@pytest.mark.parametrize("mode", ["append", "upsert"])
@pytest.mark.parametrize("direct", [False, True])
def test_a_view_that_can_be_updated(stream: SqlStream, mode: str, direct: bool) -> None:
    table = stream.table
    stream.create("id BIGINT PRIMARY KEY, name VARCHAR(20)")
    stream.execute(f"CREATE VIEW {table}_view AS SELECT id, name FROM {table}")
    stream.table = f"{table}_view"
    if mode == "upsert":  # a view has no key
        with pytest.raises(Exception, match="neither the primary key nor a unique index"):
            stream.run(mode=mode, key_columns=["id"], direct=direct)
        return
    stream.run(direct=direct)
    assert stream.rows() == [(1, "a"), (2, None), (3, "\t")]


@on_postgres
def test_a_rule_on_insert_is_run(stream: SqlStream) -> None:
    table = stream.table
    stream.create()
    stream.create(table=f"{table}_copy")
    stream.execute(
        f"CREATE RULE copied AS ON INSERT TO {table} DO ALSO INSERT INTO {table}_copy VALUES (NEW.id, NEW.name)"
    )
    stream.run()
    assert stream.rows() == [(1, "a"), (2, None), (3, "\t")]
    assert stream.ids(f"{table}_copy") == [1, 2, 3]


@on_postgres
def test_row_level_security(stream: SqlStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user's table: COPY is refused to whom it concerns."""
    stream.create()
    user = as_another(stream, monkeypatch)
    stream.execute(f"ALTER TABLE {stream.table} ENABLE ROW LEVEL SECURITY")
    stream.execute(f"GRANT ALL ON {stream.table} TO {user}")
    stream.execute(f"CREATE POLICY few ON {stream.table} USING (true) WITH CHECK (id < 10)")
    stream.run()
    assert stream.rows() == [(1, "a"), (2, None), (3, "\t")]


@on_postgres
def test_no_right_to_insert_is_found_before_the_stream_is_claimed(
    stream: SqlStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.create()
    user = as_another(stream, monkeypatch)
    stream.execute(f"GRANT SELECT ON {stream.table} TO {user}")
    with pytest.raises(OutputNotWritable, match="permission denied"):
        stream.run()
    assert list(stream.store().list("writers/")) == []


@on_mariadb
def test_receipts_without_transactions_are_refused(stream: SqlStream) -> None:
    stream.create()
    stream.execute(
        "CREATE TABLE beam_exactly_once_receipts (stream_id VARCHAR(64), sink VARCHAR(100), shard INTEGER, writer_epoch BIGINT, "
        "batch_id BIGINT, nonce VARCHAR(64), PRIMARY KEY (stream_id, sink, shard)) ENGINE=MyISAM"
    )
    with pytest.raises(OutputNotWritable, match="receipts is of engine MyISAM, which has no transactions"):
        stream.run()
    assert stream.ids() == []


@pytest.mark.parametrize("name", ["per%cent", "two words", "select", 'a"quote', "Größe", "a:b(c)"])
@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_names_of_tables_and_columns(stream: SqlStream, sql_variable: str, mode: str, name: str) -> None:
    quote = '"' if sql_variable == "POSTGRES_URL" else "`"
    column = quote + name.replace(quote, 2 * quote) + quote
    table = quote + f"{name}_{stream.table}".replace(quote, 2 * quote) + quote
    stream.execute(f"CREATE TABLE {table} (id BIGINT PRIMARY KEY, {column} VARCHAR(20))".replace("%", "%%"))
    stream.table = '"' + f"{name}_{stream.table}".replace('"', '""') + '"'
    options = {"mode": mode, "key_columns": ["id"]} if mode == "upsert" else {}
    stream.cluster = type(stream.cluster)({"orders": 1})
    stream.send_rows([{"id": 1, name: "a"}, {"id": 2}])
    if (sql_variable, mode, name) == ("MARIADB_URL", "upsert", "per%cent"):  # SQLAlchemy misspells it
        with pytest.raises(OutputNotWritable, match="Unknown column"):
            stream.run(**options)
        assert list(stream.store().list("writers/")) == []
        return
    stream.run(**options)
    assert stream.execute(f"SELECT id, {column} FROM {table} ORDER BY 1".replace("%", "%%")) == [(1, "a"), (2, None)]


@pytest.fixture
def in_latin2(stream: SqlStream, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlStream]:
    """The same stream, to a database that keeps its texts in LATIN2."""
    name = f"latin_{secrets.token_hex(4)}"
    server = sa.create_engine(stream.engine.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        connection.exec_driver_sql(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN2' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    url = server.url.set(database=name)
    monkeypatch.setenv("LATIN_URL", url.render_as_string(hide_password=False))
    stream.url = type(stream.url)("env", "LATIN_URL")
    stream.engine, whole = sa.create_engine(url, poolclass=sa.NullPool), stream.engine
    yield stream
    stream.engine = whole
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@on_postgres
def test_letters_that_a_database_does_not_have(in_latin2: SqlStream, tmp_path: Path) -> None:
    in_latin2.create("id BIGINT, name VARCHAR(20), note JSONB")
    in_latin2.send_rows(
        [{"id": 4, "name": "ř"}, {"id": 5, "name": "ñ"}, {"id": 6, "note": {"ñ": 1}}, {"id": 7, "note": ["ř"]}]
    )
    in_latin2.run(rejected=tmp_path / "bad")
    assert in_latin2.rows("id, name, note::text") == [
        (1, "a", None),
        (2, None, None),
        (3, "\t", None),
        (4, "ř", None),
        (7, None, '["ř"]'),
    ]
    rejected = rejected_in(tmp_path / "bad", "reason")
    assert ["LATIN2 does not have" in reason for batch in rejected for (reason,) in batch] == [True, True]


@on_mariadb
def test_what_a_character_set_has_is_what_its_columns_take(stream: SqlStream) -> None:
    """Every set that the server has, by its own word."""
    sample = [*map(chr, range(1, 0x600)), "あ", "語", "ｱ", "\u20ac", "한", "\uffe5", "\U0001f600"]
    names = [row[0] for row in stream.execute("SELECT character_set_name FROM information_schema.character_sets")]
    assert {"latin2", "greek", "sjis"} <= set(names)
    with stream.engine.begin() as connection:
        for name in sorted(set(names) - {"binary"}):
            stored = f"t_{name}_{secrets.token_hex(2)}"
            connection.exec_driver_sql("SET sql_mode = 'STRICT_ALL_TABLES'")
            connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {stored} (c VARCHAR(3) CHARACTER SET {name})")
            characters = of_mysql(connection, name)
            for letter in sample:
                is_taken = takes(connection, f"INSERT INTO {stored} VALUES (%s)", letter)
                assert (characters is None or characters.include(letter)) == is_taken, (name, letter)


def takes(connection: sa.Connection, insert: str, letter: str) -> bool:
    try:
        connection.exec_driver_sql(insert, (letter,))
    except sa.exc.DBAPIError:
        return False
    return True
