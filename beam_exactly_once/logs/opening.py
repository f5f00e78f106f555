"""From settings to the log that they name. Whoever reads a log knows no more of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

from beam_exactly_once.logs.contract import Log


class LogSettings(Protocol):
    """Where a log is, and how it is read. Safe to print, to pickle and to send to workers: it holds no secret."""

    @property
    def definition(self) -> Mapping[str, Any]:
        """What must not change while a checkpoint lives, as JSON; ``kind`` first."""
        ...

    @property
    def isolation_level(self) -> str | None:
        """What a reader is shown; None where there is one way only."""
        ...

    @property
    def rest_s(self) -> float:
        """How long a reader that goes on rests where it has read all there is, before it looks again, in seconds."""
        ...

    def at_isolation_level(self, isolation_level: str | None) -> LogSettings:
        """The same at another level; None leaves it."""
        ...

    def open(self) -> Log:
        """A log of its own. Nothing is connected yet."""
        ...


LogFactory: TypeAlias = Callable[[Any], Log]
"""Takes the settings."""


def _as_they_say(settings: LogSettings) -> Log:
    return settings.open()


_factories: list[LogFactory] = [_as_they_say]


def open_log(settings: LogSettings) -> Log:
    """The log that ``settings`` name. Nothing is connected yet: faults show at first use."""
    return _factories[-1](settings)


@contextmanager
def override_logs(factory: LogFactory) -> Iterator[None]:
    """Make :func:`open_log` return what ``factory`` makes, in this process, until the block ends.

    For tests and test kits; nests.
    """
    _factories.append(factory)
    try:
        yield
    finally:
        _factories.remove(factory)
