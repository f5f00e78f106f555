"""Hundreds of batches of one operator: what is there stays as much as it was, and is what a dict would hold."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from beam_exactly_once.checkpoint import layout
from beam_exactly_once.transforms.stateful.by_key import DeduplicateByKey, StatefulCombinePerKey
from support.simulation.operator_batches import OperatorBatches

BATCHES = 160
MINUTE_MS = 60_000


def test_with_time_to_live_keys_objects_bytes_and_lists_stay_flat() -> None:
    """Each batch brings keys of its own, which 20 batches later are forgotten."""
    operator = OperatorBatches(DeduplicateByKey(ttl_s=20 * 60)._update(), slices=4, shards=2, retain_batches=5)
    seen = []
    for batch in range(BATCHES):
        keys = [f"{batch}-{number}" for number in range(40)]
        assert len(operator.run((keys, keys), now_ms=batch * MINUTE_MS)) == 40
        objects = list(operator.store.list(layout.STATE))
        references = max(len(one.sections) for one in operator.list.slices)
        seen.append((operator.list.keys, len(objects), operator.list.size_bytes, references))
    early, late = seen[BATCHES // 4 : BATCHES // 2], seen[BATCHES // 2 :]
    for of_early, of_late in zip(zip(*early, strict=True), zip(*late, strict=True), strict=True):
        assert max(of_late) <= 1.2 * max(of_early)


@pytest.mark.parametrize(("slices", "shards"), [(1, 1), (5, 3)])
def test_totals_are_those_of_a_counter(slices: int, shards: int) -> None:
    """Through small merges, bases and sweeps."""
    operator = OperatorBatches(StatefulCombinePerKey(sum)._update(), slices=slices, shards=shards, retain_batches=3)
    chance, totals = random.Random(4), Counter[int]()
    for _ in range(60):
        keys = [chance.randint(0, 300) for _ in range(25)]
        totals.update(keys)
        emitted = operator.run((keys[:10], [1] * 10), (keys[10:], [1] * 15))
        assert dict(emitted) == {key: totals[key] for key in keys}
    assert operator.list.keys == len(totals)


def test_a_new_base_has_an_object_of_its_own() -> None:
    """Of the objects of its batch, none holds both: each goes when nothing in it is needed."""
    operator = OperatorBatches(StatefulCombinePerKey(sum)._update(), slices=2, shards=1)
    for start in (0, 50, 60):
        operator.run((list(range(start, start + 100)), [1] * 100))
    newest = [one.sections for one in operator.list.slices]
    of_batch = {key for key in operator.list.object_keys if layout.state_batch_id(key) == operator.batch_id - 1}
    assert sorted(map(len, newest)) == [1, 3]
    assert len(of_batch) == 2


def test_any_number_of_workers_holds_the_same_state_and_lists_stay_short() -> None:
    """More workers than slices cut the slices; fewer take several. All are kept, whoever holds them."""
    operator = OperatorBatches(StatefulCombinePerKey(sum)._update(), slices=4, retain_batches=3)
    chance, totals = random.Random(5), Counter[int]()
    for batch in range(24):
        operator.shards = (3, 7, 4, 20)[batch % 4]
        keys = [chance.randint(0, 400) for _ in range(60)]
        totals.update(keys)
        assert dict(operator.run((keys, [1] * 60))) == {key: totals[key] for key in keys}
        assert max(len(one.sections) for one in operator.list.slices) <= 12
    assert len(operator.list.slices) == 24
    assert operator.list.keys == len(totals)
