"""A short run of ``tests/wal_kills/run.py``, and that it finds what is wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from wal_kills.places import Place
from wal_kills.run import run
from wal_kills.senders import Told

SEED = 1


def test_what_was_answered_outlives_kills_freezes_and_take_overs(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    told, _, faults = asyncio.run(run(tmp_path, Place(str(tmp_path / "log")), kills=12, seed=SEED))

    assert faults == []
    assert told.acknowledged


@pytest.mark.parametrize(
    ("logged", "fault"),
    [
        ([b"a", b"b"], ""),
        ([b"a", b"b", b"c"], ""),
        ([b"b"], "1 lost, such as a"),
        ([b"a", b"a", b"b"], "1 too often, such as a"),
        ([b"a", b"b", b"c", b"c"], "1 too often, such as c"),
        ([b"a", b"b", b"x"], "1 never sent, such as x"),
    ],
)
def test_a_log_that_is_not_as_was_told_is_found_out(logged: list[bytes], fault: str) -> None:
    told = Told(acknowledged={b"a", b"b"}, with_id={b"a", b"c"})
    told.sent.update([b"a", b"a", b"b", b"b", b"c", b"c"])

    assert "; ".join(told.faults(logged)) == fault
    assert told.faults([b"a", b"b", b"b"]) == []  # without an id: once for each time it was sent
