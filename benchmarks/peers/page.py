"""docs/performance.md, whose tables commands write."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from peers.environments import ROOT

PAGE = ROOT / "docs" / "performance.md"
_END = "<!-- end -->"


def put(command: str, lines: Iterable[str], page: Path = PAGE) -> None:
    """Write ``lines`` between the marks of ``command``, its first two words, with the command, today and the machine above them.

    Raises:
        ValueError: the page has no such marks.
    """
    begin = _begin(command)
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(_END)
    if not found or not ended:
        raise ValueError(f"{page} has no {begin} with {_END} behind it.")
    machine = f"{os.cpu_count()} cores with a load of {os.getloadavg()[1]:.0f}"
    head = f"`{command}`, {date.today():%Y-%m-%d}, Python {platform.python_version()}, {machine}:"
    page.write_text(before + "\n".join([begin, "", head, "", *lines, "", _END]) + after, encoding="utf-8")


def written(command: str, page: Path = PAGE) -> str:
    """What is between the marks of a command."""
    return page.read_text(encoding="utf-8").partition(_begin(command))[2].partition(_END)[0]


def _begin(command: str) -> str:
    return f"<!-- made by {' '.join(command.split()[:2])}: begin -->"
