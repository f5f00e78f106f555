"""Ids of records: equal only if all of their parts are; known only within the window."""

from __future__ import annotations

import itertools
import random

import pytest

from beam_exactly_once.wal import ids
from beam_exactly_once.wal.ids import (
    NO_CONTENT,
    NO_ID,
    IdWindow,
    KnownId,
    compound_id,
    content_of,
    entries_below,
    entries_in,
    entries_of,
    stored_id,
)


def known(number: int, offset: int) -> KnownId:
    return KnownId(stored_id("log", b"%d" % number), content_of(b"%d" % number), offset)


def entries(known: list[KnownId]) -> bytes:
    return b"".join(entries_of(one.offset, [one.record_id], [one.content]) for one in known)


def test_ids_of_several_parts_never_run_together() -> None:
    """Tenant, key and line over an alphabet in which joined parts would collide at once."""
    words = [b"".join(letters) for size in range(4) for letters in itertools.product((b"a", b":"), repeat=size)]
    single = [(b"s", tenant, key) for tenant in words for key in words]
    lines = [(b"l", tenant, key, b"%d" % line) for tenant in words for key in words for line in range(2)]
    stored = {stored_id("log", compound_id(*parts)): parts for parts in [*single, *lines]}
    assert len(stored) == len(single) + len(lines)
    with pytest.raises(ValueError, match="one byte"):
        compound_id(b"", b"a")


def test_the_same_id_in_another_log_is_another() -> None:
    assert stored_id("a", b"1") != stored_id("b", b"1")
    assert len({stored_id("log", b"1"), NO_ID}) == 2


@pytest.mark.parametrize("seed", range(5))
def test_a_window_knows_what_a_plain_list_of_the_last_offsets_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"seed {seed}")
    monkeypatch.setattr(ids, "_STRETCH_BYTES", 4 * ids.ENTRY_BYTES)
    chance = random.Random(seed)
    size = chance.choice((0, 1, 7, 30))
    window, written, end = IdWindow(size), dict[bytes, int](), 0
    for _ in range(200):
        new = [known(chance.randrange(60), end + place) for place in range(chance.randint(1, 3))]
        new = [one for one in new if window.get(one.record_id) is None]
        new = sorted({one.record_id: one for one in new}.values(), key=lambda one: one.offset)
        end += 3
        window.move(end, entries(new), [one.record_id for one in new] if end % 2 else None)
        written |= {one.record_id: one.offset for one in new}
        expected = {record_id: offset for record_id, offset in written.items() if offset >= end - size}
        found = {record_id: one.offset for record_id in written if (one := window.get(record_id)) is not None}
        assert found == expected
        assert len(window) == len(expected)


def test_ids_come_back_from_segments() -> None:
    block = b"".join(
        (known(1, 0).record_id, known(1, 0).content, NO_ID, NO_CONTENT, known(2, 0).record_id, known(2, 0).content)
    )
    found = entries_in(10, block)
    assert found == entries([known(1, 10), known(2, 12)])
    assert [entries_below(found, offset) for offset in (0, 10, 11, 12, 13)] == [0, 0, 1, 1, 2]
    assert entries_in(10, NO_ID + NO_CONTENT) == b""


def test_of_an_id_that_is_there_twice_the_newer_counts() -> None:
    """It was out of a window that has grown since."""
    again = known(1, 9)
    window = IdWindow(10, [entries([known(1, 0), known(2, 1)]), entries([again])])
    assert window.get(again.record_id) == again

    window.move(12, b"")  # the older one leaves

    assert window.get(again.record_id) == again
    assert len(window) == 1
    window.move(20, b"")
    assert len(window) == 0
