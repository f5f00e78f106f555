"""Hundreds of batches of one operator: what is there stays as much as it was, and is what a dict would hold."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from beam_exactly_once.checkpoint import layout
from beam_exactly_once.errors import PipelineChanged
from beam_exactly_once.state.section import fetch_from, runs_of
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.types import JsonState
from beam_exactly_once.transforms.stateful.by_key import DeduplicateByKey, StatefulCombinePerKey, UpdateStateByKey
from support.simulation.operator_batches import OPERATOR, OperatorBatches

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


def test_any_number_of_workers_holds_the_same_state() -> None:
    """More workers than slices cut the slices; fewer take several. All are kept, whoever holds them."""
    operator = OperatorBatches(StatefulCombinePerKey(sum)._update(), slices=4, retain_batches=3)
    chance, totals = random.Random(5), Counter[int]()
    for batch in range(12):
        operator.shards = (3, 7, 4, 20)[batch % 4]
        keys = [chance.randint(0, 400) for _ in range(60)]
        totals.update(keys)
        assert dict(operator.run((keys, [1] * 60))) == {key: totals[key] for key in keys}
    assert len(operator.list.slices) == 24
    assert operator.list.keys == len(totals)


def test_retention_may_be_another_at_any_start() -> None:
    """What a retained batch needs is there, also when fewer or more are retained from now on."""
    operator = OperatorBatches(StatefulCombinePerKey(sum)._update(), slices=2, shards=1)
    chance = random.Random(6)
    for start, retained in enumerate((3, 6, 2, 5)):
        operator.retain(retained)
        for batch in range(9):
            operator.run(([chance.randint(0, 20) for _ in range(8)], [1] * 8))
            there = {entry.key for entry in operator.store.list(layout.STATE)}
            fewest = min(retained, batch + 1) if start else retained
            for batch_id in range(max(0, operator.batch_id - fewest), operator.batch_id):
                marker = operator.checkpoint.read_marker(batch_id)
                assert marker is not None
                assert StateList.from_json(marker.state[OPERATOR]).object_keys <= there


VERSIONS = [
    UpdateStateByKey(lambda values, state: (state or 0) + len(values), state=JsonState(int)),
    UpdateStateByKey(
        lambda values, state: [(state or [0])[0] + len(values)],
        state=JsonState(list[int], version=2, upgrades={1: lambda count: [count]}),
    ),
    UpdateStateByKey(
        lambda values, state: {"n": (state or {"n": 0})["n"] + len(values)},
        state=JsonState(dict[str, int], version=3, upgrades={1: lambda count: [count], 2: lambda one: {"n": one[0]}}),
    ),
]


def test_rows_of_many_versions_lie_in_one_section_and_each_is_read_as_it_was_written() -> None:
    """Sections are merged at every step; code that was rolled back refuses what newer code wrote, and reads what it knows."""
    operator = OperatorBatches(VERSIONS[0]._update(), slices=1, shards=1)
    chance, totals = random.Random(7), Counter[int]()
    for version, step in enumerate(VERSIONS):
        operator.update = step._update()
        for _ in range(9):
            keys = [100 * version + chance.randint(0, 15) for _ in range(6)] + [chance.randint(0, 15)]
            totals.update(keys)
            operator.run((keys, keys))
    runs = runs_of(operator.list.slices[0], fetch_from(operator.store))
    assert max(len(set(run.versions.tolist())) for run in runs) == 3
    every = sorted(totals)
    totals.update(every)
    assert sorted(operator.run((every, every))) == [(key, {"n": totals[key]}) for key in every]
    operator.update = VERSIONS[1]._update()
    with pytest.raises(PipelineChanged, match="values of version 3, and this code has version=2"):
        operator.run((every[:1], [0]))


def test_another_time_to_live_holds_for_what_is_stored_from_then_on() -> None:
    operator = OperatorBatches(DeduplicateByKey(ttl_s=60)._update(), slices=1, shards=1)

    def new_at(at_s: int, ttl_s: int | None, *keys: str) -> list[Any]:
        operator.update = DeduplicateByKey(ttl_s=ttl_s)._update()
        return sorted(key for key, _ in operator.run((list(keys), list(keys)), now_ms=1000 * at_s))

    assert new_at(0, 60, "old") == ["old"]
    assert new_at(1, 600, "young", "old") == ["young"]
    assert new_at(60, 600, "young", "old") == ["old"]  # it was stored with a minute
    assert new_at(90, 1, "young", "old") == []  # they were stored with ten
    assert new_at(700, None, "young", "old") == []  # nothing is forgotten
    assert new_at(701, 60, "young", "old") == ["old", "young"]


def test_by_event_time_a_longer_time_to_live_lets_a_pair_pass_once_more() -> None:
    """Its key was stored with the shorter one. From then on, and for whatever comes later, the longer one holds."""

    def given(ttl_s: int, to_s: int, *sent_at_s: int) -> list[int]:
        operator.update = DeduplicateByKey(ttl_s=ttl_s, event_time_by=lambda at_ms: at_ms)._update()
        pairs = [f"sent at {at_s}" for at_s in sent_at_s], [1000 * at_s for at_s in sent_at_s]
        return sorted(at_ms // 1000 for _, at_ms in operator.run(pairs, now_ms=1000 * to_s))

    operator = OperatorBatches(DeduplicateByKey(ttl_s=60)._update(), slices=1, shards=1)
    assert given(60, 100, 10, 90) == [10, 90]
    assert given(60, 140, 10) == []  # too late to say
    assert given(600, 160, 10, 90, 155) == [10, 155]  # 90 is known still
    assert given(600, 300, 10, 90, 155) == [90]
    assert given(600, 600, 10, 90, 155) == []
