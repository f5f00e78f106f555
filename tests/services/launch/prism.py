"""Prism, Beam's runner for one machine, compiled with Go from the release that the SDK belongs to."""

from __future__ import annotations

from pathlib import Path

from services.launch.built import go_program
from services.launch.server import Service

BEAM_VERSION = "v2.77.0"


def prism_program() -> Path:
    """The program; compiled at first use."""
    return go_program("github.com/apache/beam/sdks/v2/go/cmd/prism", BEAM_VERSION)


class Prism(Service):
    """The program alone: each driver starts one of its own, by ``--prism_location``."""

    def __init__(self) -> None:
        self._program = prism_program()

    @property
    def environment(self) -> dict[str, str]:
        """Variables that say where it is."""
        return {"PRISM_LOCATION": str(self._program)}

    def stop(self, *, keep_log: bool = False) -> None:
        """Nothing runs."""
