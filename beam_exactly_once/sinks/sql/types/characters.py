"""The characters that a column's texts may have, where that is not all of Unicode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Characters:
    """A character set of a database."""

    name: str
    """As the database calls it."""
    include: Callable[[str], bool]
    """Whether it has all characters of a text."""
