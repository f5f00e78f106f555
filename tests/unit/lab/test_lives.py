"""How the end of a process is told."""

from __future__ import annotations

from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.lab.lives import Life


class Ended(BaseProcess):
    """One that has ended."""

    def __init__(self, exitcode: int | None) -> None:
        self._code = exitcode

    @property
    def exitcode(self) -> int | None:
        return self._code

    def join(self, timeout: float | None = None) -> None:
        """At once."""


@pytest.mark.parametrize(("code", "was_killed"), [(0, False), (-9, True)])
def test_done_or_killed(tmp_path: Path, code: int, was_killed: bool) -> None:
    assert Life(Ended(code), tmp_path / "log").was_killed() is was_killed


@pytest.mark.parametrize(
    ("code", "end"),
    [(1, "ended with exit code 1"), (-15, "ended with exit code -15"), (None, "did not end within 120 s")],
)
def test_what_a_failed_life_said_last_is_in_the_error(tmp_path: Path, code: int | None, end: str) -> None:
    log = tmp_path / "log"
    log.write_text("Traceback …\nUnknownTopic: orders\n")
    with pytest.raises(ConfigurationError) as error:
        Life(Ended(code), log).was_killed()
    assert str(error.value) == f"the pipeline {end}; the last line of {log} is: UnknownTopic: orders"
