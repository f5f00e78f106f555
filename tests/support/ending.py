"""Streams that an exception of a test ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest


class Killed(RuntimeError):
    """What a driver or a step dies of."""


def kill(*_: object) -> None:
    """Let it die here."""
    raise Killed("killed here")


@contextlib.contextmanager
def ends_with(words: str) -> Iterator[None]:
    """The block ends with an exception that says ``words``, wherever it was raised: in the driver, or in a step of a batch."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 (the words are compared below)
        yield
    said = f"{raised.value!r} {raised.value.__cause__!r}"
    assert words in said, said
