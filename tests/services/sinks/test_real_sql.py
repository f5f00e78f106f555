"""Streams to tables of PostgreSQL and MariaDB: locks, lost connections, unknown outcomes, rights."""

from __future__ import annotations

import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beam_exactly_once import secret_from_env
from beam_exactly_once.errors import OutputNotWritable, SinkUnavailable
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.contract import Part, parts_of
from beam_exactly_once.sinks.sharded import ShardedSink, StagedPublisher
from beam_exactly_once.sinks.sql import database as sql_database
from beam_exactly_once.sinks.sql.database import SqlDatabase
from beam_exactly_once.sinks.sql.shards import SqlShards
from beam_exactly_once.sinks.sql.target import SqlTarget
from beam_exactly_once.sinks.staged_rows import StagedRows
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.ending import ends_with, kill
from support.raising_thread import RaisingThread
from support.servers.tcp_proxy import TcpProxy
from support.sql_stream import STEPS, SqlStream, at_step

pytestmark = pytest.mark.runs_on("DirectRunner")

LIFE = Path(__file__).parents[2] / "support" / "sql_stream.py"
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
    stream.execute("DROP TABLE IF EXISTS beam_exactly_once_receipts")


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


def wait_for(condition: Callable[[], Any], timeout_s: float = 180.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "in vain"
        time.sleep(0.2)  # MariaDB shows its transactions as they were until nobody has asked for 0.1 s


def is_waiting(stream: SqlStream, variable: str) -> bool:
    return bool(stream.execute(WAITING[variable]))


def decided(stream: SqlStream, **options: Any) -> tuple[StagedPublisher, Part]:
    """What publishes the newest batch of a stream, and the batch, from the checkpoint."""
    checkpoint = stream.checkpoint()
    marker = checkpoint.read_marker(max(checkpoint.marker_ids()))
    assert marker is not None
    (part,) = parts_of(checkpoint.stream_id, marker, "sql")
    key_columns = tuple(options.get("key_columns", ()))
    target = SqlTarget(stream.table, None, None, options.get("mode", "append"), key_columns, None, None, 1)
    staged = StagedRows("sql", StoreLocation(stream.location, None))
    return StagedPublisher(ShardedSink("sql", SqlShards("sql", SqlDatabase(stream.url), target), 1), staged), part


# -- two at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [1, 2])
def test_two_publish_the_same_batch_at_once(stream: SqlStream, sql_variable: str, batches: int) -> None:
    """The shard has no receipt yet, or has one. The second waits for the first, and then sees its receipt."""
    stream.create()
    stream.send_rows(orders(*range(2 * batches)))
    with at_step("lock", batches, kill), ends_with("killed here"):
        stream.run()
    publisher, part = decided(stream)
    second: list[RaisingThread] = []

    def second_comes() -> None:
        second.append(RaisingThread(lambda: publisher.publish(part)))
        wait_for(lambda: is_waiting(stream, sql_variable))

    with at_step("set", 1, second_comes):
        publisher.publish(part)
        second[0].end()
    assert stream.ids() == list(range(2 * batches))
    stream.run()
    assert stream.ids() == list(range(2 * batches))


def test_the_first_of_two_fails_and_the_second_writes(stream: SqlStream, sql_variable: str) -> None:
    stream.create()
    stream.send_rows(orders(0, 1))
    with at_step("lock", 1, kill), ends_with("killed here"):
        stream.run()
    publisher, part = decided(stream)
    second: list[RaisingThread] = []

    def second_comes_and_first_dies() -> None:
        second.append(RaisingThread(lambda: publisher.publish(part)))
        wait_for(lambda: is_waiting(stream, sql_variable))
        kill()

    with at_step("rows", 1, second_comes_and_first_dies):
        with ends_with("killed here"):
            publisher.publish(part)
        second[0].end()
    assert stream.ids() == [0, 1]


def test_a_deadlock_with_somebody_else_is_tried_again(stream: SqlStream, sql_variable: str) -> None:
    """The server ends our transaction, as the lighter or the first to wait."""
    stream.create(KEYED)
    stream.create("id BIGINT", table=f"{stream.table}_weight")
    stream.execute(f"INSERT INTO {stream.table} VALUES (0, 'a'), (1, 'b')")
    stream.send_rows(orders(0, 1))
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

    crossed = RaisingThread(crossing)

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
    monkeypatch.setattr(sql_database, "MAX_TRIES", 2)
    stream.create()
    stream.send_rows(orders(0, 1))
    stream.run()
    stream.send_rows(orders(2))
    with stream.engine.connect().execution_options(isolation_level="READ COMMITTED") as other:
        other.exec_driver_sql("UPDATE beam_exactly_once_receipts SET shard = shard")
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
    sql_database._engines.forget()


def test_a_frozen_client_does_not_keep_its_locks(
    stream: SqlStream, sql_variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends its transaction, another one publishes; what wakes finds the receipt."""
    shorten(monkeypatch, stream, idle_s=1)
    stream.create()
    stream.send_rows(orders(0, 1))
    with at_step("lock", 1, kill), ends_with("killed here"):
        stream.run()
    publisher, part = decided(stream)
    frozen, go_on = threading.Event(), threading.Event()

    def freeze() -> None:
        frozen.set()
        assert go_on.wait(240)

    with at_step("set", 1, freeze):
        first = RaisingThread(lambda: publisher.publish(part))
        assert frozen.wait(180)
        publisher.publish(part)
        assert stream.ids() == [0, 1]
        go_on.set()
        first.end()
    assert stream.ids() == [0, 1]


# -- connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["lock", "set", "rows"])
def test_a_connection_that_is_lost_within_a_transaction(stream: SqlStream, proxy: TcpProxy, step: str) -> None:
    stream.create()
    stream.send_rows(orders(0, 1, 2, 3))
    with at_step(step, 2, proxy.cut):
        stream.run()
    assert stream.ids() == [0, 1, 2, 3]


def test_the_answer_to_a_commit_is_lost(stream: SqlStream, proxy: TcpProxy) -> None:
    """The database has committed, and nobody knows; the receipt says so at the next try."""
    stream.create()
    stream.send_rows(orders(0, 1, 2, 3))
    with at_step("rows", 2, lambda: proxy.lose_the_answer_to(b"COMMIT")):
        stream.run()
    assert proxy.answers_lost == 1
    assert stream.ids() == [0, 1, 2, 3]


def test_the_database_is_gone_and_comes_back(
    stream: SqlStream, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_database, "FIRST_PAUSE_S", 0.01)
    stream.create()
    stream.send_rows(orders(0, 1, 2, 3))
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
    life = [sys.executable, str(LIFE), sql_variable, stream.location, stream.table, "6", step, "2", "SIGKILL"]
    killed = subprocess.run(life, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-3000:]
    stream.send_rows(orders(*range(6)))
    stream.run()
    assert stream.ids() == list(range(6))


def test_a_kill_between_two_sinks(stream: SqlStream) -> None:
    copies = f"{stream.table}_copies"
    stream.create()
    stream.create(table=copies)
    stream.send_rows(orders(0, 1, 2, 3))
    with at_step("commit", 3, kill), ends_with("killed here"):
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
    stream.send_rows(orders(0, 1))
    with pytest.raises(OutputNotWritable, match=f"(?i)denied.*{stream.table}"):
        stream.run()
    stream.execute(f"GRANT INSERT ON {stream.table} TO {clerk}")
    with pytest.raises(OutputNotWritable, match="have it created, and grant") as refused:
        stream.run()
    ddl = re.search(r"CREATE TABLE .*", str(refused.value))
    assert ddl is not None
    stream.execute(ddl[0].removesuffix("."))
    with pytest.raises(OutputNotWritable, match=r"(?i)denied.*beam_exactly_once_receipts"):
        stream.run()
    stream.execute(f"GRANT SELECT, INSERT, UPDATE ON beam_exactly_once_receipts TO {clerk}")
    with pytest.raises(OutputNotWritable, match=f"(?i)denied.*{stream.table}"):
        stream.run(**UPSERT)
    assert list(stream.store().list("offsets/")) == []
    stream.run()
    stream.execute(f"GRANT UPDATE ON {stream.table} TO {clerk}")
    stream.send_rows(orders(1))
    stream.run(**UPSERT)
    assert stream.ids() == [0, 1]


def test_a_right_that_is_taken_after_the_commit(stream: SqlStream, clerk: str, sql_variable: str) -> None:
    stream.create()
    stream.send_rows(orders(0))
    stream.run(url=secret_from_env(sql_variable))  # creates the table of receipts
    for table in (stream.table, "beam_exactly_once_receipts"):
        stream.execute(f"GRANT SELECT, INSERT, UPDATE ON {table} TO {clerk}")
    stream.send_rows(orders(1, 2, 3))
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


def test_a_table_of_its_own_for_receipts(stream: SqlStream) -> None:
    schema = f"receipts_{secrets.token_hex(4)}"
    stream.execute(f"CREATE SCHEMA {schema}")
    stream.create()
    stream.send_rows(orders(0))
    stream.run(receipts_table=f"{schema}.receipts")
    assert stream.execute(f"SELECT batch_id FROM {schema}.receipts") == [(0,)]
    assert not sa.inspect(stream.engine).has_table("beam_exactly_once_receipts")
