"""A service's process: started on free loopback ports, waited for, ended by its pid, its log kept when it fails."""

from __future__ import annotations

import abc
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0
PORTS = range(10_000, 32_768)
_PAUSE_S = 0.1
_LOG_TAIL_BYTES = 4000


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on just now.

    From below those that the system gives to whoever connects: one of them could be taken before a server listens on it, and
    while a server that was killed is away.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as opened, contextlib.suppress(OSError):
            opened.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"there are no {count} free ports from {PORTS[0]} to {PORTS[-1]}")


_S = TypeVar("_S", bound="Service")


class Service(abc.ABC):
    """A running service; a context manager that stops it, and keeps its logs when something failed."""

    @property
    @abc.abstractmethod
    def environment(self) -> dict[str, str]:
        """Variables that say where it is."""

    @abc.abstractmethod
    def stop(self, *, keep_log: bool = False) -> None:
        """End it; twice does no harm."""

    def __enter__(self: _S) -> _S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop(keep_log=kind is not None)


class Server:
    """One process with a folder of its own for its data and its log.

    Args:
        name: in messages and in the folder's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"beam-exactly-once-{name}-"))
        self.log = self.folder / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        is_ready: Callable[[], bool],
        *,
        user: int | None = None,
    ) -> None:
        """Start and wait until it is ready.

        Args:
            user: whose id the process gets; None: this one's.

        Raises:
            RuntimeError: it ended, or was not ready in time; shows the end of its log.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=user,
                start_new_session=True,  # Ctrl-C ends the tests first, then they end this
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline_s:
                self.stop(keep_log=True)
                tail = self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
                problem = f"ended with {code}" if code is not None else f"was not ready in {START_TIMEOUT_S:g} s"
                raise RuntimeError(f"{self.name} {problem}; its log is {self.log}, which ends:\n{tail}")
            time.sleep(_PAUSE_S)

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def kill(self) -> None:
        """SIGKILL the process and all that it started, as the loss of a machine would; its data stay, to be started again."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def end(self) -> None:
        """Ask the process to end, and kill it if it does not; its data stay, and it may be started again."""
        process = self._process
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
        self.kill()

    def stop(self, *, keep_log: bool) -> None:
        """End the process and remove its data; also its log unless that is wanted. Twice does no harm."""
        self.end()
        if not keep_log:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        print(f"{self.name}'s log is kept: {self.log}", file=sys.stderr)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)


class OneServer(Service):
    """A service of one process."""

    _server: Server

    def stop(self, *, keep_log: bool = False) -> None:
        """End the server; twice does no harm."""
        self._server.stop(keep_log=keep_log)
