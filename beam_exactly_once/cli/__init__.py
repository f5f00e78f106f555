"""The command ``beam-exactly-once``. Beam is loaded only by the commands that run a pipeline."""

from beam_exactly_once.cli.commands import main

__all__ = ["main"]
