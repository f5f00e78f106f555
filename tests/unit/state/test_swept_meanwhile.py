"""Who reads state that a stream has swept since is told so: a late worker, and people who look."""

from __future__ import annotations

from typing import Any

import pytest

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.verification import verify_checkpoint
from beam_exactly_once.errors import CheckpointHole, Fenced, SweptMeanwhile
from beam_exactly_once.state.bundle import StateBundle
from beam_exactly_once.state.definition import OperatorDefinition
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.shard_seed import ShardSeed
from beam_exactly_once.state.updates import grouped, lifted
from beam_exactly_once.state.upkeep.looking import StateView
from beam_exactly_once.state.upkeep.verification import verify_state
from beam_exactly_once.transforms.stateful.by_key import StatefulCombinePerKey
from support.simulation.operator_batches import OPERATOR, SEED, OperatorBatches

UPDATE = StatefulCombinePerKey(sum)._update()
NOTHING_NEAR = StateCache(max_bytes=0, max_memory_bytes=0)
ROWS = (["a", "b"], [1, 2])


class Stream(OperatorBatches):
    """Of one slice, which retains one batch."""

    def __init__(self) -> None:
        super().__init__(UPDATE, slices=1, shards=1, retain_batches=1)
        definition = OperatorDefinition(OPERATOR, UPDATE.kind, UPDATE.state_type.kind, bytes.fromhex(SEED))
        self.checkpoint.create_operator(OPERATOR, 1, definition.to_json())
        self.run(ROWS)

    def late_worker(self) -> Any:
        """Frozen in its bundle before it has read anything; what it does when it wakes."""
        attempt = Attempt(self.writer.writer_epoch, self.batch_id, "late")
        seed = ShardSeed(self.checkpoint.stream_id, attempt, SEED, self.list.slices, 0, 0, 0)
        bundle = StateBundle(OPERATOR, UPDATE, self.store, NOTHING_NEAR, seed)
        return lambda: bundle.update(seed, [lifted(UPDATE, grouped(UPDATE, ROWS, SEED, OPERATOR))])

    def go_on_without(self, key: str) -> None:
        """Until nothing needs an object, and it is swept."""
        while any(entry.key == key for entry in self.store.list("state/")):
            self.run(ROWS)


def test_a_late_worker_whose_state_was_swept_is_told_that_it_is_late() -> None:
    """Its driver still is the newest, and went on without it: nothing is missing."""
    stream = Stream()
    wake = stream.late_worker()
    (key,) = stream.list.object_keys
    stream.go_on_without(key)
    with pytest.raises(Fenced, match=r"batch 1 .* is decided"):
        wake()


def test_a_worker_in_time_whose_state_is_gone_says_what_is_missing() -> None:
    stream = Stream()
    (key,) = stream.list.object_keys
    stream.store.delete([key])
    with pytest.raises(CheckpointHole, match=key):
        stream.late_worker()()


def test_who_looks_at_what_is_swept_meanwhile_is_told_so() -> None:
    stream = Stream()
    view, (key,) = StateView(stream.store), stream.list.object_keys
    assert [(one.key, one.value) for one in view.all_keys(OPERATOR)] == [("a", [1]), ("b", [2])]
    stream.go_on_without(key)
    with pytest.raises(
        SweptMeanwhile, match=rf"{key}, of the state behind batch 0, is gone, and batch \d+ does not need"
    ):
        list(view.all_keys(OPERATOR))
    with pytest.raises(SweptMeanwhile, match=key):
        view.of_key(OPERATOR, "a")


def test_what_the_newest_batch_needs_is_missed_whoever_looks() -> None:
    stream = Stream()
    (section,) = stream.list.slices[0].sections
    view = StateView(stream.store)
    stream.run(ROWS)
    assert section.object_key in stream.list.object_keys
    stream.store.delete([section.object_key])
    with pytest.raises(CheckpointHole, match="Restore it from a copy"):
        view.of_key(OPERATOR, "a")


def test_verify_does_not_miss_what_is_swept_while_it_looks() -> None:
    stream = Stream()
    contents = verify_checkpoint(stream.store).contents
    assert contents is not None
    (section,) = stream.list.slices[0].sections
    stream.go_on_without(section.object_key)
    assert [check.faults for check in verify_state(contents)] == [[]]
