"""Sections of a slice that a fresh machine lacks are fetched at the same time, and errors are what they are."""

from __future__ import annotations

import threading

import pytest

from beam_exactly_once.errors import CorruptObject
from beam_exactly_once.state.near.cache import SectionCache, StateCache
from beam_exactly_once.state.section import pack
from support.state_rows import Row, rows_of, run_of

NAMES = (b"a", b"b", b"c")
RUNS = [run_of([Row(name, b"", b"1")]) for name in NAMES]
BODY, REFS = pack("state/counts/7.arrow", RUNS)
IN_MEMORY = StateCache(max_bytes=0)


def body_of(offset: int, size_bytes: int) -> bytes:
    return BODY[offset : offset + size_bytes]


def test_sections_that_are_far_are_fetched_at_the_same_time() -> None:
    """Each waits here for another one; the one that is near is not fetched."""
    cache, together = SectionCache(IN_MEMORY), threading.Barrier(2, timeout=120)
    cache.get(REFS[1], lambda _, offset, size_bytes: body_of(offset, size_bytes))

    def fetch(_: str, offset: int, size_bytes: int) -> bytes:
        assert offset != REFS[1].offset
        together.wait()
        return body_of(offset, size_bytes)

    assert [rows_of(run) for run in cache.get_all(REFS, fetch)] == [rows_of(run) for run in RUNS]


def test_an_error_of_one_of_many_fetches_is_raised() -> None:
    def fetch(_: str, offset: int, size_bytes: int) -> bytes:
        return body_of(offset, size_bytes - (offset == REFS[1].offset))

    with pytest.raises(CorruptObject, match=f"the section at byte {REFS[1].offset} ends after"):
        SectionCache(IN_MEMORY).get_all(REFS, fetch)
