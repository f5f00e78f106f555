"""Reads side by side: in the order of the keys, no more at once than was said, errors where they belong."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from beam_exactly_once.errors import CorruptObject
from beam_exactly_once.object_store.side_by_side import side_by_side


@pytest.mark.parametrize("at_once", [1, 4])
def test_what_is_found_comes_in_the_order_of_the_keys(at_once: int) -> None:
    asked = []

    def keys() -> Iterator[int]:
        for key in range(20):
            asked.append(key)
            yield key

    found = side_by_side(lambda key: key * key, keys(), at_once)

    assert next(found) == (0, 0)
    assert len(asked) == at_once  # and no more of them are on their way
    assert list(found) == [(key, key * key) for key in range(1, 20)]


def test_reads_do_not_wait_for_each_other() -> None:
    all_are_there = threading.Barrier(4, timeout=60)

    assert [key for key, _ in side_by_side(lambda key: all_are_there.wait(), range(8), 4)] == list(range(8))


@pytest.mark.parametrize("at_once", [1, 4])
def test_an_error_comes_when_it_is_the_turn_of_its_key(at_once: int) -> None:
    def read(key: int) -> int:
        if key >= 2:
            raise CorruptObject(f"number {key}")
        return key

    found = side_by_side(read, range(10), at_once)

    assert [next(found), next(found)] == [(0, 0), (1, 1)]
    with pytest.raises(CorruptObject, match="number 2"):
        next(found)
