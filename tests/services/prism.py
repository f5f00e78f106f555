"""Prism, Beam's runner for one machine, compiled with Go from the release that the SDK belongs to."""

from __future__ import annotations

from pathlib import Path

from services.built import go_program

BEAM_VERSION = "v2.77.0"


def prism_program() -> Path:
    """The program; compiled at first use."""
    return go_program("github.com/apache/beam/sdks/v2/go/cmd/prism", BEAM_VERSION)
