"""A marker whose committables are long names them in an object of their own."""

from __future__ import annotations

import secrets

import pytest

from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker
from beam_exactly_once.checkpoint.layout import SPILLED, commits_key
from beam_exactly_once.errors import CheckpointHole
from beam_exactly_once.object_store import open_object_store

MANY = tuple(
    {
        "rows": 1,
        "size_bytes": 2,
        "staged": {"token": {"upload_id": "u" * 90, "parts": [{"PartNumber": n, "ETag": "e"}]}},
    }
    for n in range(8000)
)
"""As S3 stages: with keys in no order."""


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint.open(open_object_store(f"memory://{secrets.token_hex(8)}"))


def test_a_long_list_comes_back_as_it_was(checkpoint: Checkpoint) -> None:
    marker = Marker(0, "committed", Attempt(1, 0, "n"), {}, {"files": MANY}, 1)
    assert checkpoint.create_marker(marker).mine
    assert checkpoint.read_marker(0) == marker
    size_bytes = checkpoint.store.size_bytes(commits_key(0))
    assert size_bytes is not None
    assert size_bytes < 2000


def test_the_loser_of_a_long_list_gets_the_winners(checkpoint: Checkpoint) -> None:
    winner = Marker(0, "committed", Attempt(1, 0, "winner"), {}, {"files": MANY}, 1)
    loser = Marker(0, "committed", Attempt(1, 0, "loser"), {}, {"files": MANY[1:]}, 1)
    checkpoint.create_marker(winner)
    decided = checkpoint.create_marker(loser)
    assert (decided.record, decided.mine) == (winner, False)


def test_a_lost_list_is_named(checkpoint: Checkpoint) -> None:
    checkpoint.create_marker(Marker(0, "committed", Attempt(1, 0, "n"), {}, {"files": MANY}, 1))
    (spilled,) = checkpoint.store.list(SPILLED)
    checkpoint.store.delete([spilled.key])
    with pytest.raises(CheckpointHole, match=spilled.key):
        checkpoint.read_marker(0)
