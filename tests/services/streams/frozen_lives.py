"""Ready-made pipelines that freeze at a moment, for a process of their own: which can import this, and not a module of tests."""

from __future__ import annotations

import contextlib
import os
import signal
from unittest import mock

from beam_exactly_once.pipelines import kafka_to_files, kafka_to_kafka, kafka_to_sql
from beam_exactly_once.sinks.sql import database as sql_database
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.streams.copies import at
from support.sql_stream import at_step

IDLE_S = 2
"""How long these drivers may leave a transaction open; the library's own time is 120."""


def _freeze(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _committed() -> contextlib.AbstractContextManager[object]:
    context: contextlib.AbstractContextManager[object] = watching(
        StoreCalls(KillPoint("put_if_absent", "commits/", 1), _freeze)
    )
    return context


def copier(arguments: list[str], moment: str) -> None:
    """A life of ``kafka_to_kafka`` that freezes."""
    with _committed() if moment == "committed" else at(moment, 1, _freeze, before=moment == "commit"):
        code = kafka_to_kafka.main(arguments)
    os._exit(code)


def inserter(arguments: list[str], moment: str) -> None:
    """A life of ``kafka_to_sql`` that freezes; its server does not wait for it for long."""
    session = sql_database._MYSQL_SESSION.replace("wait_timeout = 120", f"wait_timeout = {IDLE_S}")
    idle = {"idle_in_transaction_session_timeout": f"{IDLE_S}s"}
    with (
        mock.patch.object(sql_database, "_MYSQL_SESSION", session),
        mock.patch.dict(sql_database._POSTGRESQL_SETTINGS, idle),
        _committed() if moment == "committed" else at_step(moment, 1, _freeze),
    ):
        code = kafka_to_sql.main(arguments)
    os._exit(code)


def to_files(arguments: list[str], moment: str) -> None:
    """A life of ``kafka_to_files`` that freezes once it has committed a batch, or does not freeze."""
    with _committed() if moment == "committed" else contextlib.nullcontext():
        code = kafka_to_files.main(arguments)
    os._exit(code)
