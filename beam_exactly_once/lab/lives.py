"""Lives: processes that are killed by SIGKILL, and what is lost or there twice afterwards.

They are forked from a server that has imported everything and started nothing, so a life costs a fraction of a second.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, TypeAlias

from beam_exactly_once.errors import ConfigurationError

Fate: TypeAlias = Literal["once", "lost", "repeated"]

LIFE_TIMEOUT_S = 120.0

_BEGINNING = threading.Lock()
_KILLS_PIPELINES = "beam_exactly_once.testing.crashing"
_IMPORTED_ONCE = [
    "__main__",
    "beam_exactly_once.lab.old_designs",
    "beam_exactly_once.pipelines.ready_made",
    _KILLS_PIPELINES,
]
"""By their names: what looks at the outcome alone loads no Beam."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Ids that were to be written, and those that were, by value."""

    copies: Sequence[int]
    """How often each id is there."""

    @classmethod
    def of(cls, records: int, ids: Iterable[int]) -> Tally:
        """``records`` have the ids from 0."""
        found = Counter(ids)
        return cls([found[number] for number in range(records)])

    @property
    def written(self) -> int:
        """All that is there."""
        return sum(self.copies)

    @property
    def lost(self) -> int:
        """Records that are not there."""
        return sum(count == 0 for count in self.copies)

    @property
    def repeated(self) -> int:
        """Copies beyond the first."""
        return sum(max(0, count - 1) for count in self.copies)

    @property
    def is_exact(self) -> bool:
        """Whether each is there once."""
        return not self.lost and not self.repeated

    def fates(self) -> Iterator[tuple[Fate, int]]:
        """What became of the records, in order: how many neighbours have the same fate."""
        each: Iterable[Fate] = ("once" if count == 1 else "repeated" if count else "lost" for count in self.copies)
        return ((fate, sum(1 for _ in alike)) for fate, alike in groupby(each))


class Life:
    """A running process, which leads a group of its own."""

    def __init__(self, process: BaseProcess, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def has_ended(self) -> bool:
        """Whether it was killed, or is done."""
        return self._process.exitcode is not None

    def kill(self) -> None:
        """SIGKILL it, and all that it started."""
        assert self._process.pid is not None
        self._process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def was_killed(self) -> bool:
        """Wait for its end; whether that was SIGKILL.

        Raises:
            ConfigurationError: it ended with an error of its own, or not in time.
        """
        self._process.join(LIFE_TIMEOUT_S)
        code = self._process.exitcode
        if code not in (0, -signal.SIGKILL):
            end = f"did not end within {LIFE_TIMEOUT_S:.0f} s" if code is None else f"ended with exit code {code}"
            last = self._log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            raise ConfigurationError(f"the pipeline {end}; the last line of {self._log} is: {last}")
        return code != 0


@contextmanager
def life(log: Path, work: Callable[..., None], *arguments: Any) -> Iterator[Life]:
    """A function of a module in a process of its own, which ends with the block at the latest.

    Args:
        log: what it prints is appended.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED_ONCE)
    _begin_server(log)
    process = context.Process(target=_live, args=(str(log), work, arguments))
    process.start()
    started = Life(process, log)
    try:
        yield started
    finally:
        started.kill()
        process.join()


def pipeline(module: str, flags: Sequence[str], *kill: str) -> None:
    """Run a ready-made pipeline; ``kill`` is a flag of :mod:`beam_exactly_once.testing.crashing`. For :func:`life`."""
    import_module(_KILLS_PIPELINES).main([*kill, f"beam_exactly_once.pipelines.{module}", *flags])


def _begin_server(log: Path) -> None:
    """Nobody sees what libraries say when they are imported."""
    with _BEGINNING:  # it is the process's standard error that is turned aside
        stderr = os.dup(2)
        try:
            _print_to(log, 2)
            forkserver.ensure_running()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _live(log: str, work: Callable[..., None], arguments: Sequence[Any]) -> None:
    os.setpgid(0, 0)
    _print_to(Path(log), 1, 2)
    gc.freeze()  # else each life goes through all that it shares with the server, and copies it
    work(*arguments)


def _print_to(log: Path, *streams: int) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in streams:
        os.dup2(file, stream)
    os.close(file)
