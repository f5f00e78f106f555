"""Before a call to a store, and after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching


class Killed(Exception):
    """Instead of SIGKILL."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize(("parse", "found"), [(KillPoint.parse, b"2"), (KillPoint.parse_before, None)])
def test_a_call_is_made_unless_the_process_is_killed_before_it(
    parse: Callable[[str], KillPoint], found: bytes | None, tmp_path: Path
) -> None:
    calls = StoreCalls(parse("put_if_absent:commits/:2"), kill)
    with watching(calls):
        store = open_object_store(str(tmp_path))
    store.put_if_absent("commits/1", b"1")
    store.put_if_absent("offsets/2", b"2")
    with pytest.raises(Killed):
        store.put_if_absent("commits/2", b"2")
    assert store.get("commits/2") == found
