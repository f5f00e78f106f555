"""One database as ``WriteToSql`` uses it: connections, transactions that end, and errors sorted by who must act.

Needs the extra ``sql``; imported only by what runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import BeamExactlyOnceError, ConfigurationError, OutputNotWritable, SinkUnavailable
from beam_exactly_once.patience import Patience
from beam_exactly_once.per_process import PerProcess
from beam_exactly_once.randomness import RANDOM
from beam_exactly_once.secrets import Secret, is_secret_name
from beam_exactly_once.sinks.sql.driver_errors import is_of_a_statement, said_without_values, sqlite_code

LOCK_WAIT_S = 60
"""A statement waits that long for another transaction's lock."""
IDLE_IN_TRANSACTION_S = 120
"""A server ends a transaction whose client has been silent for that long, or which is gone without a word."""
CONNECT_S = 10
MAX_TRIES = 4
"""A transaction that failed for a passing reason is tried again, after a moment. Its receipt says whether it has happened."""
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 1.0

Result = TypeVar("Result")

_POSTGRESQL_SETTINGS = {
    "lock_timeout": f"{LOCK_WAIT_S}s",
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
    "tcp_keepalives_idle": "30",  # a client that vanished within a COPY: the server looks after it
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_MYSQL_SESSION = (
    f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_S}, wait_timeout = {IDLE_IN_TRANSACTION_S}, time_zone = '+00:00', "
    "sql_mode = CONCAT_WS(',', NULLIF(@@sql_mode, ''), 'STRICT_ALL_TABLES', 'NO_AUTO_VALUE_ON_ZERO')"
)
_CONNECT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "psycopg": {
        "connect_timeout": CONNECT_S,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    },
    "pymysql": {"connect_timeout": CONNECT_S, "read_timeout": 600, "write_timeout": 600},
    "pysqlite": {"timeout": LOCK_WAIT_S},
}
_DIALECTS = ("postgresql", "mysql", "mariadb", "sqlite")

_POSTGRESQL_PASSING = ("08", "40", "53", "55", "57", "25006")
"""Classes of SQLSTATE, and a standby that took over: connections, conflicts, resources, locks, shutdown."""
_MYSQL_PASSING = frozenset(
    {1020, 1021, 1037, 1040, 1041, 1053, 1158, 1159, 1160, 1161, 1203, 1205, 1206, 1213, 1226, 1290, 1836, 1927}
    | {2002, 2003, 2005, 2006, 2013, 2014, 2055}
)
_SQLITE_PASSING = frozenset({5, 6, 10, 13})
"""SQLITE_BUSY, SQLITE_LOCKED, SQLITE_IOERR and SQLITE_FULL."""


class SqlDatabase:
    """A database by its URL. Pickles without connections; one pool a process and URL.

    Args:
        url: SQLAlchemy's; plain text only without a password.
        clock: times the pauses before a transaction is tried again.
    """

    def __init__(self, url: str | Secret, clock: Clock = SYSTEM_CLOCK) -> None:
        self._url = url
        self._clock = clock

    @property
    def engine(self) -> sa.Engine:
        """The pool; connects to nothing yet.

        Raises:
            ConfigurationError: the secret cannot be resolved here, the URL is none, or its driver is not installed.
        """
        text = self._url.resolve() if isinstance(self._url, Secret) else self._url
        return _engines.get(text)

    @property
    def dialect(self) -> str:
        """``postgresql``, ``mysql`` (also MariaDB) or ``sqlite``."""
        name = self.engine.dialect.name
        return "mysql" if name == "mariadb" else name

    @property
    def place(self) -> str:
        """Where it is, for messages: no user, no password."""
        url = self.engine.url
        host = "" if url.host is None else f"{url.host}{'' if url.port is None else f':{url.port}'}/"
        return f"{self.engine.dialect.name} {host}{url.database}"

    def transact(self, work: Callable[[sa.Connection], Result], what: str) -> Result:
        """Run ``work`` in one transaction and commit it; again, if it failed for a passing reason.

        ``work`` must find out by itself whether it has happened: an answer may be lost after a commit.

        Args:
            work: gets the connection.
            what: what it does, for messages.

        Raises:
            SinkUnavailable: the database does not answer, or is busy.
            OutputNotWritable: it refuses.
        """
        patience = Patience(
            self._clock, max_tries=MAX_TRIES, first_pause_s=FIRST_PAUSE_S, max_pause_s=MAX_PAUSE_S, random_=RANDOM
        )
        while True:
            try:
                return self._transact_once(work, what)
            except SinkUnavailable:
                if patience.is_over:
                    raise
            patience.wait()

    def read(self, work: Callable[[sa.Connection], Result], what: str) -> Result:
        """Run ``work``, which writes nothing, once; it waits for no other transaction.

        Raises:
            As :meth:`transact`.
        """
        return self._transact_once(work, what, writes=False)

    def _transact_once(self, work: Callable[[sa.Connection], Result], what: str, *, writes: bool = True) -> Result:
        with self._explaining(what), self.engine.connect() as connection:
            if self.dialect == "sqlite" and writes:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            elif self.dialect == "postgresql":
                settings = ", ".join(
                    f"set_config('{name}', '{value}', true)" for name, value in _POSTGRESQL_SETTINGS.items()
                )
                connection.exec_driver_sql(f"SELECT {settings}")
            result = work(connection)
            connection.commit()
            return result

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What the driver raises, by itself or within SQLAlchemy."""
        return sa.exc.DBAPIError, _dbapi(self.engine).Error

    def refusal(self, error: Exception) -> str | None:
        """What the driver said of what it refused, without values; None for an error that passes, or of a lost connection."""
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        is_lost = isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
        return None if is_lost or self._is_passing(cause) else f"{type(cause).__name__}: {said_without_values(cause)}"

    @contextlib.contextmanager
    def _explaining(self, what: str) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise self._explained(error.orig, error.connection_invalidated, what) from None
        except _dbapi(self.engine).Error as error:  # of a COPY, which SQLAlchemy does not wrap
            raise self._explained(error, False, what) from None
        except sa.exc.TimeoutError as error:
            raise SinkUnavailable(f"{what} in {self.place}: no connection of the pool is free ({error}).") from None

    def _explained(self, cause: BaseException | None, is_lost: bool, what: str) -> BeamExactlyOnceError:
        """What the driver said, by who must act; never the statement or its values."""
        told = f"{what} in {self.place}: {type(cause).__name__}: {said_without_values(cause)}"
        if is_lost or self._is_passing(cause):
            return SinkUnavailable(f"{told}. What was not published is published by the next start.")
        return OutputNotWritable(
            f"{told}. Nothing of this transaction was written, and its rows are kept. Change the table, the rights or the sink's "
            "arguments so that it can be done, then start again."
        )

    def _is_passing(self, cause: BaseException | None) -> bool:
        if self.dialect == "sqlite":
            return sqlite_code(cause) & 0xFF in _SQLITE_PASSING
        if self.dialect == "mysql":
            return cause is not None and bool(cause.args) and cause.args[0] in _MYSQL_PASSING
        state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
        if state is None:  # a connection that was lost or refused
            dbapi = _dbapi(self.engine)
            return isinstance(cause, (dbapi.OperationalError, dbapi.InterfaceError))
        return str(state).startswith(_POSTGRESQL_PASSING)


def _dbapi(engine: sa.Engine) -> Any:
    return engine.dialect.loaded_dbapi


def _parsed(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigurationError(
            "the url= of WriteToSql is not an SQLAlchemy URL, such as postgresql+psycopg://user:password@host/database, "
            "mysql+pymysql://… or sqlite:////folder/file.db (its text is not shown: it may hold a password)."
        ) from None
    if url.get_backend_name() == "postgresql" and url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername in ("mysql", "mariadb"):
        url = url.set(drivername=f"{url.drivername}+pymysql")
    if url.get_backend_name() not in _DIALECTS:
        raise ConfigurationError(
            f"WriteToSql does not know the database {url.drivername!r}; it knows {', '.join(_DIALECTS)}."
        )
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigurationError(
            "WriteToSql needs a file of SQLite: sqlite:////folder/file.db; memory is gone with a process."
        )
    return url


def _new_engine(text: str) -> sa.Engine:
    url = _parsed(text)
    backend = url.get_backend_name()
    try:
        driver = url.get_dialect().driver
        arguments = {k: v for k, v in _CONNECT_ARGUMENTS.get(driver, {}).items() if k not in url.query}
        options = {} if backend == "sqlite" else {"isolation_level": "READ COMMITTED"}
        engine = sa.create_engine(url, pool_pre_ping=backend != "sqlite", connect_args=arguments, **options)
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigurationError(
            f"the driver of {url.drivername} is not installed ({error}): pip install 'beam_exactly_once[sql]', or the "
            "driver that the URL names."
        ) from None
    sa.event.listen(engine, "handle_error", _not_lost)
    if backend == "sqlite":
        sa.event.listen(engine, "connect", _without_implicit_begin)
    elif backend in ("mysql", "mariadb"):
        sa.event.listen(engine, "connect", _mysql_session)
    return engine


_engines = PerProcess(_new_engine)


def _not_lost(context: Any) -> None:
    """SQLAlchemy looks for words such as "already closed" in any error of some drivers, and a row may hold them."""
    if context.is_disconnect and is_of_a_statement(context.original_exception):
        context.is_disconnect = False


def _without_implicit_begin(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # BEGIN IMMEDIATE is ours to say


def _mysql_session(connection: Any, _: Any) -> None:
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(_MYSQL_SESSION)


def canonical_url(url: str) -> str:
    """A URL that is not a secret, the same on every machine.

    Raises:
        ConfigurationError: it holds a password, is not a URL, or its driver is not installed.
    """
    parsed = _parsed(url)
    if parsed.password is not None or any(map(is_secret_name, parsed.query)):
        raise ConfigurationError(
            "the url= of WriteToSql has a password or another secret in it, and it travels to workers and into logs. Give the "
            "whole URL as secret_from_env(…) or secret_from_file(…)."
        )
    if parsed.get_backend_name() == "sqlite" and not str(parsed.database).startswith("file:"):
        parsed = parsed.set(database=str(Path(str(parsed.database)).resolve()))
    return parsed.render_as_string()
