"""Streams to tables of PostgreSQL and MariaDB: locks, lost connections, unknown outcomes, rights."""

from __future__ import annotations

import datetime
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import sqlalchemy as sa

from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.errors import OutputNotWritable, SinkUnavailable
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.secret_values import secret_from_env
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from beam_exactly_once.transforms import sql_database
from beam_exactly_once.transforms.publishing import Part, parts_of
from beam_exactly_once.transforms.sharded_sinks import StagedPublisher
from beam_exactly_once.transforms.sql_database import SqlDatabase
from beam_exactly_once.transforms.sql_sink import SqlShards
from beam_exactly_once.transforms.sql_target import SqlTarget
from beam_exactly_once.transforms.staged_rows import StagedRows
from beam_exactly_once.transforms.store_location import StoreLocation
from support.rejected_rows import rejected_in
from support.sql_stream import STEPS, SqlStream, at_step
from support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.runs_on("DirectRunner")

LIFE = Path(__file__).parents[1] / "support" / "sql_stream.py"
KEYED = "id BIGINT PRIMARY KEY, name VARCHAR(20)"
UPSERT: dict[str, Any] = {"mode": "upsert", "key_columns": ["id"]}
WAITING = {
    "POSTGRES_URL": "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
    "MARIADB_URL": "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}
"""Finds a transaction that waits for a lock."""


@pytest.fixture
def stream(sql_variable: str, tmp_path: Path) -> Iterator[SqlStream]:
    stream = SqlStream(sql_variable, str(tmp_path / "checkpoint"))
    yield stream
    stream.execute("DROP TABLE IF EXISTS beam_exactly_once_marks")


@pytest.fixture
def proxy(stream: SqlStream, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """Between the stream and the database, in ``$PROXY_URL``."""
    url = stream.engine.url
    assert url.host is not None
    assert url.port is not None
    with TcpProxy(url.host, url.port) as proxy:
        monkeypatch.setenv("PROXY_URL", url.set(port=proxy.port).render_as_string(hide_password=False))
        stream.url = secret_from_env("PROXY_URL")
        yield proxy


def orders(*numbers: int) -> list[dict[str, int]]:
    return [{"id": number} for number in numbers]


def kill() -> None:
    raise RuntimeError("killed here")


def wait_for(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "in vain"
        time.sleep(0.2)  # MariaDB shows its transactions as they were until nobody has asked for 0.1 s


def is_waiting(stream: SqlStream, variable: str) -> bool:
    return bool(stream.execute(WAITING[variable]))


def decided(stream: SqlStream, **options: Any) -> tuple[StagedPublisher, Part]:
    """What publishes the newest batch of a stream, and the batch, from the checkpoint."""
    checkpoint = Checkpoint.open_existing(open_object_store(stream.checkpoint))
    assert checkpoint is not None
    marker = checkpoint.read_marker(max(checkpoint.marker_ids()))
    assert marker is not None
    (part,) = parts_of(checkpoint.stream_id, marker, "sql")
    key_columns = tuple(options.get("key_columns", ()))
    target = SqlTarget(stream.table, None, None, options.get("mode", "append"), key_columns, None, None, 1)
    staged = StagedRows("sql", StoreLocation(stream.checkpoint, None))
    return StagedPublisher(SqlShards("sql", SqlDatabase(stream.url), target), staged), part


class Thread(threading.Thread):
    """Keeps what went wrong."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self.join(120)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error


# -- values ----------------------------------------------------------------------------------------------------

EAST = datetime.timezone(datetime.timedelta(hours=2))
MOMENT = datetime.datetime(2026, 2, 28, 23, 59, 59, 123456)
TYPES: list[tuple[str, str, Any, Any]] = [
    ("SMALLINT", "SMALLINT", -7, -7),
    ("BIGINT", "BIGINT", 2**62, 2**62),
    ("BOOLEAN", "BOOLEAN", True, True),
    ("DOUBLE PRECISION", "DOUBLE", 0.1, 0.1),
    ("NUMERIC(20,4)", "DECIMAL(20,4)", 0.5, Decimal("0.5000")),
    (
        "NUMERIC(38,2)",
        "DECIMAL(38,2)",
        "123456789012345678901234567890.12",
        Decimal("123456789012345678901234567890.12"),
    ),
    ("TEXT", "TEXT", "tab\t, newline\n, \\N, \\., ' and Ü €", "tab\t, newline\n, \\N, \\., ' and Ü €"),
    ("VARCHAR(3)", "VARCHAR(3)", b"\xc3\xbc12", "ü12"),
    ("BYTEA", "BLOB", b"\x00\xff\\x", b"\x00\xff\\x"),
    ("DATE", "DATE", "2026-02-28", MOMENT.date()),
    ("TIMESTAMP", "DATETIME(6)", MOMENT.isoformat(), MOMENT),
    ("TIMESTAMP", "TIMESTAMP(6) NULL", f"{MOMENT.isoformat()}Z", MOMENT),
    ("TIME", "TIME", datetime.time(1, 2, 3), None),
]
POSTGRES_ONLY: list[tuple[str, str, Any, Any]] = [
    ("NUMERIC", "", "1.500", Decimal("1.500")),
    ("TIMESTAMPTZ", "", f"{MOMENT.isoformat()}+02:00", MOMENT.replace(tzinfo=EAST)),
    ("JSONB", "", {"a": [1, None, "ü"]}, {"a": [1, None, "ü"]}),
    ("UUID", "", "00000000-0000-0000-0000-00000000000A", uuid.UUID(int=10)),
    ("INTEGER[]", "", [1, None, 3], [1, None, 3]),
    ("INET", "", "10.0.0.1", None),
]


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_values_of_every_type(stream: SqlStream, sql_variable: str, mode: str) -> None:
    is_postgres = sql_variable == "POSTGRES_URL"
    types = TYPES + (POSTGRES_ONLY if is_postgres else [])
    declared = [f"c{number} {one[0] if is_postgres else one[1]}" for number, one in enumerate(types)]
    stream.create(f"id BIGINT PRIMARY KEY, {', '.join(declared)}")
    given = {f"c{number}": one[2] for number, one in enumerate(types)}
    stream.send(orders(1, 2, 3))
    options = UPSERT if mode == "upsert" else {}
    stream.run(through=beam.Map(lambda row: {**given, **row} if row["id"] != 2 else row), **options)
    for number, (*_, expected) in enumerate(types):
        first, second, third = (row[1] for row in stream.rows(f"id, c{number}"))
        assert (second, third) == (None, first)
        if expected is not None:
            assert first == expected, declared[number]


MISFITS: list[tuple[str, str, Any, Any]] = [
    ("SMALLINT", "SMALLINT", 7, 40_000),
    ("BOOLEAN", "BOOLEAN", True, "yes"),
    ("REAL", "FLOAT", 0.5, 1e39),
    ("DOUBLE PRECISION", "DOUBLE", 0.5, "0.5"),
    ("NUMERIC(5,2)", "DECIMAL(5,2)", "1.25", "1000.25"),
    ("NUMERIC(5,2)", "DECIMAL(5,2)", "1.25", "1.255"),
    ("VARCHAR(3)", "VARCHAR(3)", "abc", "abcd"),
    ("CHAR(3)", "CHAR(3)", "abc", "abcd"),
    ("TEXT", "TINYTEXT", "abc", 7),
    ("BYTEA", "VARBINARY(3)", b"abc", 7),
    ("DATE", "DATE", "2026-02-28", "2026-02-29"),
    ("TIMESTAMP", "DATETIME(6)", "2026-02-28T01:02:03", "yesterday"),
    ("TIME", "TIME", "01:02:03", "25:00:00"),
    ("JSONB", "JSON", {"a": "\U0001f600"}, {1, 2}),
]
MISFITS_OF: dict[str, list[tuple[str, Any, Any]]] = {
    "POSTGRES_URL": [
        ("TEXT", "a", "a\0b"),
        ("JSONB", {"a": "b"}, {"a": ["b\0"]}),
        ("JSONB", {"a": "\\u0000"}, {"\0": 1}),
        ("UUID", "00000000-0000-0000-0000-00000000000A", "00000000"),
        ("INTEGER[]", [1, 2], [1, "two"]),
        ("JSONB", {"a": 1}, {"a": Decimal("1e200000")}),
        ("NUMERIC", "1e131071", "1e131072"),
        ("NUMERIC", "1e-16383", "1e-16384"),
        ("REAL", 1e-40, 1e-60),
        ("REAL", 3.4028235e38, 3.4028236e38),
        ("REAL", float("inf"), 3.5e38),
        ("REAL[]", [0.5], [1e39]),
        ("INET", "10.0.0.1/8", "10.0.0.256"),
        ("INET", "::1", "::1/129"),
        ("INET", "fe80::1", "fe80::1%eth0"),
        ("INET", "10.0.0.1", "10.0.0.1/255.0.0.0"),
        ("CIDR", "2001:db8::/32", "10.0.0.1/8"),
        ("MACADDR", "08:00:2b:01:02:03", "08:00:2b:01:02"),
        ("MACADDR", "08002b:010203", "08002b01-0203"),
        ("MACADDR", "0800.2b01.0203", "0800.2b01-0203"),
    ],
    "MARIADB_URL": [
        ("TINYTEXT", "a", "a" * 256),
        ("VARBINARY(3)", b"abc", b"abcd"),
        ("TIMESTAMP NULL", "2026-02-28T01:02:03", "2040-01-01T00:00:00"),
        ("ENUM('a', 'b')", "a", "c"),
        ("DOUBLE", 0.5, float("nan")),
        ("INTEGER UNSIGNED", 2**32 - 1, -1),
        ("MEDIUMINT", -(2**23), 2**23),
        ("MEDIUMINT UNSIGNED", 2**24 - 1, 2**24),
        ("FLOAT", 3.402823e38, 3.4028235e38),
        ("FLOAT UNSIGNED", 1.0, -1.0),
        ("FLOAT(5,2)", 999.99, 999.996),
        ("DOUBLE(5,2)", -999.99, -1000.0),
        ("DECIMAL(5,2) UNSIGNED", "1", "-1"),
        ("SET('a', 'b')", "a,b", "a,c"),
        ("VARCHAR(3) CHARACTER SET latin1", "€\x81ÿ", "\u0416"),
        ("VARCHAR(3) CHARACTER SET ascii", "a", "ü"),
        ("TEXT CHARACTER SET utf8mb3", "\uffff", "\U0001f600"),
    ],
}


def test_values_that_do_not_fit_are_rejected_before_the_database_sees_them(
    stream: SqlStream, sql_variable: str, tmp_path: Path
) -> None:
    """Of every type. What only the database found would stop the stream."""
    is_postgres = sql_variable == "POSTGRES_URL"
    values = [(one[0] if is_postgres else one[1], *one[2:]) for one in MISFITS] + MISFITS_OF[sql_variable]
    stream.create(f"id BIGINT, {', '.join(f'c{number} {one[0]}' for number, one in enumerate(values))}")
    stream.send(orders(*range(2 * len(values))))

    def through(row: dict[str, Any]) -> dict[str, Any]:
        number, is_misfit = divmod(row["id"], 2)
        return {**row, f"c{number}": values[number][1 + is_misfit]}

    stream.run(through=beam.Map(through), rejected=tmp_path / "bad")
    found = stream.execute(f"SELECT * FROM {stream.table} ORDER BY id")
    assert [row[0] for row in found] == list(range(0, 2 * len(values), 2))
    assert [[column is not None for column in row[1:]].index(True) for row in found] == list(range(len(values)))
    rejected = rejected_in(tmp_path / "bad", "step", "reason", "row")
    assert [len(batch) for batch in rejected] == [1] * len(values)
    for number, ((step, reason, shown),) in enumerate(rejected):
        assert step == "sql"
        assert f"column 'c{number}'" in reason
        assert f"'id': {2 * number + 1}" in shown


def test_a_text_that_only_the_database_would_refuse_is_found_before_the_commit(stream: SqlStream) -> None:
    stream.create()
    stream.send([{"id": 1, "name": "x" * 21}])
    with pytest.raises(Exception, match="21 characters, the column takes 20"):
        stream.run()
    assert list(open_object_store(stream.checkpoint).list("commits/")) == []


def test_a_constraint_refuses_after_the_commit_until_the_table_is_changed(stream: SqlStream) -> None:
    stream.create(KEYED)
    stream.send(orders(0, 1, 2, 2))
    with pytest.raises(OutputNotWritable, match=r"(?i)duplicate.*\b2\b.*Nothing of this transaction was written"):
        stream.run()
    assert stream.ids() == [0, 1]
    stream.execute(f"ALTER TABLE {stream.table} ADD COLUMN number INTEGER")
    with pytest.raises(OutputNotWritable, match=r"(?i)duplicate\b"):
        stream.run()
    stream.run(**UPSERT, order_by="id")
    assert stream.ids() == [0, 1, 2]


@pytest.mark.parametrize("shards", [1, 3])
def test_upsert_by_shards(stream: SqlStream, shards: int) -> None:
    stream.create("id BIGINT PRIMARY KEY, version INTEGER")
    for version in range(4):
        stream.send({"id": number % 5, "version": version} for number in range(version, version + 4))
    stream.run(**UPSERT, order_by="version", shards=shards)
    assert stream.rows("id, version") == [(0, 3), (1, 3), (2, 2), (3, 3), (4, 3)]


# -- two at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [1, 2])
def test_two_publish_the_same_batch_at_once(stream: SqlStream, sql_variable: str, batches: int) -> None:
    """The shard has no mark yet, or has one. The second waits for the first, and then sees its mark."""
    stream.create()
    stream.send(orders(*range(2 * batches)))
    with at_step("lock", batches, kill), pytest.raises(RuntimeError, match="killed here"):
        stream.run()
    publisher, part = decided(stream)
    second: list[Thread] = []

    def second_comes() -> None:
        second.append(Thread(lambda: publisher.publish(part)))
        wait_for(lambda: is_waiting(stream, sql_variable))

    with at_step("set", 1, second_comes):
        publisher.publish(part)
        second[0].end()
    assert stream.ids() == list(range(2 * batches))
    stream.run()
    assert stream.ids() == list(range(2 * batches))


def test_the_first_of_two_fails_and_the_second_writes(stream: SqlStream, sql_variable: str) -> None:
    stream.create()
    stream.send(orders(0, 1))
    with at_step("lock", 1, kill), pytest.raises(RuntimeError, match="killed here"):
        stream.run()
    publisher, part = decided(stream)
    second: list[Thread] = []

    def second_comes_and_first_dies() -> None:
        second.append(Thread(lambda: publisher.publish(part)))
        wait_for(lambda: is_waiting(stream, sql_variable))
        kill()

    with at_step("rows", 1, second_comes_and_first_dies):
        with pytest.raises(RuntimeError, match="killed here"):
            publisher.publish(part)
        second[0].end()
    assert stream.ids() == [0, 1]


def test_a_deadlock_with_somebody_else_is_tried_again(stream: SqlStream, sql_variable: str) -> None:
    """The server ends our transaction, as the lighter or the first to wait."""
    stream.create(KEYED)
    stream.create("id BIGINT", table=f"{stream.table}_weight")
    stream.execute(f"INSERT INTO {stream.table} VALUES (0, 'a'), (1, 'b')")
    stream.send(orders(0, 1))
    if sql_variable == "POSTGRES_URL":
        stream.execute("ALTER ROLE beam SET deadlock_timeout = '2s'")
    other = stream.engine.connect()
    if sql_variable == "POSTGRES_URL":
        other.exec_driver_sql("SET deadlock_timeout = '100s'")
    other.exec_driver_sql(f"INSERT INTO {stream.table}_weight VALUES {', '.join(['(1)'] * 1000)}")
    other.exec_driver_sql(f"UPDATE {stream.table} SET name = 'other' WHERE id = 1")
    locks = 0

    def crossing() -> None:
        wait_for(lambda: is_waiting(stream, sql_variable))
        other.exec_driver_sql(f"UPDATE {stream.table} SET name = 'other' WHERE id = 0")
        other.commit()

    crossed = Thread(crossing)

    def counted() -> None:
        nonlocal locks
        locks += 1

    try:
        with at_step("lock", 1, counted), at_step("lock", 2, counted):
            stream.run(**UPSERT)
        crossed.end()
    finally:
        other.close()
        if sql_variable == "POSTGRES_URL":
            stream.execute("ALTER ROLE beam RESET deadlock_timeout")
    assert locks == 2
    assert stream.rows() == [(0, None), (1, None)]


def test_a_lock_that_is_not_let_go_ends_as_unavailable(
    stream: SqlStream, sql_variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, stream, lock_wait_s=1)
    monkeypatch.setattr(sql_database, "TRIES", 2)
    stream.create()
    stream.send(orders(0, 1))
    stream.run()
    stream.send(orders(2))
    with stream.engine.connect().execution_options(isolation_level="READ COMMITTED") as other:
        other.exec_driver_sql("UPDATE beam_exactly_once_marks SET shard = shard")
        with pytest.raises(SinkUnavailable, match=r"(?i)writing batch 0.*(lock timeout|lock wait timeout)"):
            stream.run()
    stream.run()
    assert stream.ids() == [0, 1, 2]


def shorten(monkeypatch: pytest.MonkeyPatch, stream: SqlStream, *, lock_wait_s: int = 60, idle_s: int = 120) -> None:
    """Other times than the library's, in connections of their own."""
    monkeypatch.setitem(sql_database._POSTGRESQL_SETTINGS, "lock_timeout", f"{lock_wait_s}s")
    monkeypatch.setitem(sql_database._POSTGRESQL_SETTINGS, "idle_in_transaction_session_timeout", f"{idle_s}s")
    session = sql_database._MYSQL_SESSION.replace("lock_wait_timeout = 60", f"lock_wait_timeout = {lock_wait_s}")
    monkeypatch.setattr(
        sql_database, "_MYSQL_SESSION", session.replace("wait_timeout = 120", f"wait_timeout = {idle_s}")
    )
    monkeypatch.setattr(sql_database, "_engines", {})


def test_a_frozen_client_does_not_keep_its_locks(
    stream: SqlStream, sql_variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends its transaction, another one publishes; what wakes finds the mark."""
    shorten(monkeypatch, stream, idle_s=1)
    stream.create()
    stream.send(orders(0, 1))
    with at_step("lock", 1, kill), pytest.raises(RuntimeError, match="killed here"):
        stream.run()
    publisher, part = decided(stream)
    frozen, go_on = threading.Event(), threading.Event()

    def freeze() -> None:
        frozen.set()
        assert go_on.wait(120)

    with at_step("set", 1, freeze):
        first = Thread(lambda: publisher.publish(part))
        assert frozen.wait(60)
        publisher.publish(part)
        assert stream.ids() == [0, 1]
        go_on.set()
        first.end()
    assert stream.ids() == [0, 1]


# -- connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["lock", "set", "rows"])
def test_a_connection_that_is_lost_within_a_transaction(stream: SqlStream, proxy: TcpProxy, step: str) -> None:
    stream.create()
    stream.send(orders(0, 1, 2, 3))
    with at_step(step, 2, proxy.cut):
        stream.run()
    assert stream.ids() == [0, 1, 2, 3]


def test_the_answer_to_a_commit_is_lost(stream: SqlStream, proxy: TcpProxy) -> None:
    """The database has committed, and nobody knows; the mark says so at the next try."""
    stream.create()
    stream.send(orders(0, 1, 2, 3))
    with at_step("rows", 2, lambda: proxy.lose_the_answer_to(b"COMMIT")):
        stream.run()
    assert proxy.answers_lost == 1
    assert stream.ids() == [0, 1, 2, 3]


def test_the_database_is_gone_and_comes_back(
    stream: SqlStream, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_database, "FIRST_PAUSE_S", 0.01)
    stream.create()
    stream.send(orders(0, 1, 2, 3))
    with at_step("rows", 2, proxy.close), pytest.raises(SinkUnavailable) as gone:
        stream.run()
    password = stream.engine.url.password
    assert password is not None
    assert str(password) not in str(gone.value)
    assert stream.ids() == [0, 1]
    monkeypatch.setenv("PROXY_URL", stream.engine.url.render_as_string(hide_password=False))
    stream.run()
    assert stream.ids() == [0, 1, 2, 3]


@pytest.mark.parametrize("step", STEPS)
def test_a_process_is_killed_after_each_step(stream: SqlStream, sql_variable: str, step: str) -> None:
    stream.create()
    life = [sys.executable, str(LIFE), sql_variable, stream.checkpoint, stream.table, "6", step, "2", "SIGKILL"]
    killed = subprocess.run(life, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-3000:]
    stream.send(orders(*range(6)))
    stream.run()
    assert stream.ids() == list(range(6))


def test_a_kill_between_two_sinks(stream: SqlStream) -> None:
    copies = f"{stream.table}_copies"
    stream.create()
    stream.create(table=copies)
    stream.send(orders(0, 1, 2, 3))
    with at_step("commit", 3, kill), pytest.raises(RuntimeError, match="killed here"):
        stream.run(second_table=copies)
    stream.run(second_table=copies)
    assert stream.ids() == stream.ids(copies) == [0, 1, 2, 3]


# -- rights ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clerk(stream: SqlStream, sql_variable: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user without rights, whom the stream connects as."""
    name = f"clerk_{secrets.token_hex(4)}"
    url = stream.engine.url.set(username=name)
    monkeypatch.setenv("CLERK_URL", url.render_as_string(hide_password=False))
    stream.url = secret_from_env("CLERK_URL")
    if sql_variable == "POSTGRES_URL":
        stream.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{url.password}'")
        yield name
        stream.execute(f"DROP OWNED BY {name}")
        stream.execute(f"DROP ROLE {name}")
    else:
        stream.execute(f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{url.password}'")
        yield f"{name}@'127.0.0.1'"
        stream.execute(f"DROP USER {name}@'127.0.0.1'")


def test_rights_are_asked_for_before_anything_runs(stream: SqlStream, clerk: str) -> None:
    stream.create(KEYED)
    stream.execute(f"GRANT SELECT ON {stream.table} TO {clerk}")
    stream.send(orders(0, 1))
    with pytest.raises(OutputNotWritable, match=f"(?i)denied.*{stream.table}"):
        stream.run()
    stream.execute(f"GRANT INSERT ON {stream.table} TO {clerk}")
    with pytest.raises(OutputNotWritable, match="have it created, and grant") as refused:
        stream.run()
    ddl = re.search(r"CREATE TABLE .*", str(refused.value))
    assert ddl is not None
    stream.execute(ddl[0].removesuffix("."))
    with pytest.raises(OutputNotWritable, match=r"(?i)denied.*beam_exactly_once_marks"):
        stream.run()
    stream.execute(f"GRANT SELECT, INSERT, UPDATE ON beam_exactly_once_marks TO {clerk}")
    with pytest.raises(OutputNotWritable, match=f"(?i)denied.*{stream.table}"):
        stream.run(**UPSERT)
    assert list(open_object_store(stream.checkpoint).list("offsets/")) == []
    stream.run()
    stream.execute(f"GRANT UPDATE ON {stream.table} TO {clerk}")
    stream.send(orders(1))
    stream.run(**UPSERT)
    assert stream.ids() == [0, 1]


def test_a_right_that_is_taken_after_the_commit(stream: SqlStream, clerk: str, sql_variable: str) -> None:
    stream.create()
    stream.send(orders(0))
    stream.run(url=secret_from_env(sql_variable))  # creates the table of marks
    for table in (stream.table, "beam_exactly_once_marks"):
        stream.execute(f"GRANT SELECT, INSERT, UPDATE ON {table} TO {clerk}")
    stream.send(orders(1, 2, 3))
    revoke = f"REVOKE INSERT ON {stream.table} FROM {clerk}"
    with (
        watching(StoreCalls(KillPoint("put_if_absent", "commits/", 2), lambda: stream.execute(revoke))),
        pytest.raises(OutputNotWritable, match=f"(?i)denied.*{stream.table}"),
    ):
        stream.run()
    with pytest.raises(OutputNotWritable, match=f"(?i)denied.*{stream.table}"):
        stream.run()
    assert stream.ids() == [0, 1, 2]
    stream.execute(f"GRANT INSERT ON {stream.table} TO {clerk}")
    stream.run()
    assert stream.ids() == [0, 1, 2, 3]


def test_a_wrong_password_is_named_and_not_shown(stream: SqlStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_database, "FIRST_PAUSE_S", 0.01)
    url = stream.engine.url.set(password="canary-7f3a9c")
    monkeypatch.setenv("WRONG_URL", url.render_as_string(hide_password=False))
    with pytest.raises((SinkUnavailable, OutputNotWritable), match=r"(?i)password\b") as refused:
        stream.run(url=secret_from_env("WRONG_URL"))
    assert "canary" not in str(refused.value)


# -- what is peculiar --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql_variable", ["mariadb"], indirect=True)
def test_tables_of_mariadb_that_cannot_do(stream: SqlStream) -> None:
    stream.execute(f"CREATE TABLE {stream.table} (id BIGINT) ENGINE=MyISAM")
    with pytest.raises(OutputNotWritable, match="MyISAM, which has no transactions"):
        stream.run()
    stream.execute(f"DROP TABLE {stream.table}")
    stream.create("id BIGINT PRIMARY KEY, name VARCHAR(20) UNIQUE")
    with pytest.raises(Exception, match=r"another unique key, \(name\)"):
        stream.run(**UPSERT)


def test_a_schema_of_its_own_for_marks(stream: SqlStream) -> None:
    schema = f"marks_{secrets.token_hex(4)}"
    stream.execute(f"CREATE SCHEMA {schema}")
    stream.create()
    stream.send(orders(0))
    stream.run(marks_schema=schema)
    assert stream.execute(f"SELECT batch_id FROM {schema}.beam_exactly_once_marks") == [(0,)]
    assert not sa.inspect(stream.engine).has_table("beam_exactly_once_marks")
