"""A store on the local disk, in a folder that is not there yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_exactly_once.object_store.local import LocalStore
from support.faulty_store import ManualClock


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "out"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root, clock=ManualClock())
