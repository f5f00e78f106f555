"""Ids of records: equal only if all of their parts are; known only within the window."""

from __future__ import annotations

import itertools
import random

import pytest

from beam_exactly_once.wal.ids import (
    NO_CONTENT,
    NO_ID,
    IdWindow,
    KnownId,
    compound_id,
    content_of,
    known_ids,
    packed_entries,
    stored_id,
    unpacked_entries,
)


def known(number: int, offset: int) -> KnownId:
    return KnownId(stored_id("log", b"%d" % number), content_of(b"%d" % number), offset)


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
def test_a_window_knows_what_a_plain_list_of_the_last_offsets_does(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    size = chance.choice((0, 1, 7, 30))
    window, written, end = IdWindow(size), dict[bytes, int](), 0
    for _ in range(200):
        new = [known(chance.randrange(60), end + place) for place in range(chance.randint(1, 3))]
        new = [one for one in new if window.get(one.record_id) is None]
        new = sorted({one.record_id: one for one in new}.values(), key=lambda one: one.offset)
        end += 3
        window.move(end, new)
        written |= {one.record_id: one.offset for one in new}
        expected = {record_id: offset for record_id, offset in written.items() if offset >= end - size}
        found = {record_id: one.offset for record_id in written if (one := window.get(record_id)) is not None}
        assert found == expected
        assert len(window) == len(expected)


def test_ids_come_back_from_segments_and_pages() -> None:
    block = b"".join(
        (known(1, 0).record_id, known(1, 0).content, NO_ID, NO_CONTENT, known(2, 0).record_id, known(2, 0).content)
    )
    assert list(known_ids(10, block)) == [known(1, 10), known(2, 12)]
    assert unpacked_entries(packed_entries([known(1, 10), known(2, 12)])) == [known(1, 10), known(2, 12)]
    with pytest.raises(ValueError, match="whole number"):
        unpacked_entries(b"x" * 33)
