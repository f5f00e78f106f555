"""Receivers that really run, each a process of its own that can be killed, frozen and woken.

They are forked from one process that has everything imported, so that a start costs a tenth of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from beam_exactly_once.errors import EXIT_DONE, EXIT_FENCED, Fenced
from beam_exactly_once.receiver.access import named_secret
from beam_exactly_once.receiver.serving import serve
from beam_exactly_once.receiver.settings import ReceiverSettings
from wal_kills.places import Place

TOKEN = "a-token-for-kills"
ID_WINDOW = 2000
PATIENCE_S = 300.0
ACK_TIMEOUT_S = 1.0
_FORKED = multiprocessing.get_context("forkserver")
_IMPORTED = (
    "receiver.serving",
    "receiver.protocol",
    "wal.log",
    "object_store.local",
    "object_store.s3",
    "object_store.gcs",
)
_FORKED.set_forkserver_preload([*(f"beam_exactly_once.{name}" for name in _IMPORTED), "psutil", "uvloop"])


class Receiver:
    """One process, which has claimed the partition and listens."""

    def __init__(self, folder: Path, place: Place) -> None:
        token = folder / "token"
        token.write_text(TOKEN)
        here, there = _FORKED.Pipe()
        given = (place.location, place.environment, str(token), there)
        self.process = _FORKED.Process(target=_receive, args=given)
        self.process.start()
        there.close()
        if not here.poll(PATIENCE_S):
            raise AssertionError("a receiver does not start")
        self.port: int = here.recv()
        self.is_frozen = False

    def kill(self) -> None:
        self.process.kill()
        self._ended()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)
        self.is_frozen = True

    def wake(self) -> None:
        self._signal(signal.SIGCONT)
        self.is_frozen = False

    def end(self, *, is_newest: bool) -> None:
        """Ask it to. It answers all before; an older one was fenced, and may be about to end by itself."""
        self._signal(signal.SIGTERM)
        code = self._ended()
        allowed = (EXIT_DONE,) if is_newest else (EXIT_DONE, EXIT_FENCED, -signal.SIGTERM)
        assert code in allowed, f"a receiver has ended with {code}"

    @property
    def has_ended(self) -> bool:
        return not self.process.is_alive()

    def _signal(self, number: signal.Signals) -> None:
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def _ended(self) -> int | None:
        self.process.join(PATIENCE_S)
        code = self.process.exitcode
        if code is None:
            raise AssertionError("a receiver does not end")
        return code


def _receive(location: str, environment: dict[str, str], token: str, pipe: Connection) -> None:
    os.environ.update(environment)
    settings = ReceiverSettings(
        location,
        listen="127.0.0.1:0",
        token=(named_secret("token", f"${{file:{token}}}"),),
        linger_s=0.002,
        ack_timeout_s=ACK_TIMEOUT_S,
        id_window=ID_WINDOW,
    )
    try:
        serve(settings, on_listening=lambda host, port: pipe.send(port))
    except Fenced:
        sys.exit(EXIT_FENCED)
