"""A file of the cache that somebody cuts while a process maps it: the kernel ends that process, and no state is wrong."""

from __future__ import annotations

import faulthandler
import os
import signal
from pathlib import Path

import pytest

from beam_exactly_once.state.near import cache_folder
from beam_exactly_once.state.near.cache import SectionCache, StateCache
from beam_exactly_once.state.section import pack
from support.state_rows import Row, rows_of, run_of

LARGE = run_of([Row(b"%d" % number, b"", b"v" * 100) for number in range(12_000)])
BODY, (REF,) = pack("state/counts/7.arrow", [LARGE])


def test_the_next_process_fetches_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this user can cut it: the folder is closed to others, and this library never changes a file in place."""
    monkeypatch.setattr(cache_folder, "MOUNTS", tmp_path / "no mounts")
    settings, fetched = StateCache(str(tmp_path)), []

    def fetch(key: str, offset: int, size_bytes: int) -> bytes:
        fetched.append(key)
        return BODY[offset : offset + size_bytes]

    cache = SectionCache(settings)
    mapped = cache.get(REF, fetch)
    assert cache.folder is not None
    (file,) = cache.folder.path.iterdir()
    child = os.fork()
    if not child:
        faulthandler.disable()
        os.truncate(file, 0)
        os._exit(int(mapped.hashes.sum() > 0))
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == -signal.SIGBUS
    assert rows_of(SectionCache(settings).get(REF, fetch)) == rows_of(LARGE)
    assert len(fetched) == 2
