"""Into how many shards a batch deals out the rows of an operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from beam_exactly_once.checkpoint import Attempt, Plan
from beam_exactly_once.checkpoint.records import SourcePlan
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.shard_seed import OperatorTask, ShardSeed
from beam_exactly_once.state.state_list import HASHES, StateList
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.stateful import keyed_state
from beam_exactly_once.transforms.stateful.by_key import DeduplicateByKey
from beam_exactly_once.transforms.stateful.keyed_state import SeedShards, UpdateShards

MANY = keyed_state.MAX_UNDIVIDED_OFFSETS


def task_of(offsets: int, *, workers: int | None) -> BatchTask:
    half = offsets // 2
    ranges = OffsetRange("orders", 0, 5, 5 + half), OffsetRange("orders", 1, 0, offsets - half)
    plan = Plan(3, 1, 0, {"orders": SourcePlan(ranges, (), {})})
    operators = {
        "counts": OperatorTask(bytes(16).hex(), StateList.empty(slices=16), fires_to_ms=0, now_ms=0, latest_ms=0)
    }
    return BatchTask("stream", Attempt(1, 3, "a"), plan, operators=operators, workers=workers)


@pytest.mark.parametrize(
    ("offsets", "workers", "shards"),
    [(10, None, 7), (10, 2, 7), (MANY + 1, None, 7), (10, 1, 1), (MANY, 1, 1), (MANY + 1, 1, 7)],
)
def test_a_small_batch_of_one_worker_is_one_shard(offsets: int, workers: int | None, shards: int) -> None:
    task = BatchTask.from_json(task_of(offsets, workers=workers).to_json())
    seeds: list[Any] = list(SeedShards("counts", 7).process(task))
    assert [number for number, _ in seeds] == list(range(shards))
    assert [one for _, seed in seeds for one in seed.slices] == list(task.operators["counts"].base.slices)


def test_more_workers_than_slices_get_parts_of_them() -> None:
    task = BatchTask.from_json(task_of(10, workers=None).to_json())
    seeds = [ShardSeed.from_json(seed.to_json()) for _, seed in SeedShards("counts", 40).process(task)]
    parts = [one for seed in seeds for one in seed.slices]
    assert (len(seeds), len(parts)) == (40, 48)
    assert [one.end_hash for one in parts] == [*(one.first_hash for one in parts[1:]), HASHES]
    assert [one.digest for one in parts] == [
        one.digest for one in task.operators["counts"].base.slices for _ in range(3)
    ]


def test_a_worker_that_was_kept_never_mixes_two_attempts() -> None:
    """What it opened is of one list and one attempt, which come in one element."""
    task = task_of(10, workers=None)
    (_, first), (_, second), *_ = SeedShards("counts", 2).process(task)
    update = DeduplicateByKey(ttl_s=None)._update()
    step = UpdateShards("counts", update, StoreLocation("memory://kept", None), StateCache(max_bytes=0))
    step.start_bundle()
    assert list(step.process((0, [first]))) == []
    with pytest.raises(AssertionError, match="two attempts in one bundle"):
        step.process((1, [replace(second, attempt=Attempt(1, 3, "b"))]))
    step.start_bundle()
    assert list(step.process((1, [replace(second, attempt=Attempt(1, 3, "b"))]))) == []
