"""``verify`` of state: each list by itself, and that it follows the one before."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pytest

from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker, Plan, layout
from beam_exactly_once.checkpoint.verification import verify_checkpoint
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.state.definition import OperatorDefinition
from beam_exactly_once.state.hashing import hash_keys
from beam_exactly_once.state.run import Run
from beam_exactly_once.state.section import pack
from beam_exactly_once.state.state_list import Slice, StateList
from beam_exactly_once.state.types import JsonState
from beam_exactly_once.state.upkeep.looking import operators_behind
from beam_exactly_once.state.upkeep.verification import verify_state

SEED = bytes(range(16))

Lists: TypeAlias = dict[str, StateList]
"""Behind one batch, by operator."""


@dataclass
class Stream:
    """Three batches of one operator, each of which adds a key; a test changes lists before they are decided."""

    checkpoint: Checkpoint = field(
        default_factory=lambda: Checkpoint.open(open_object_store(f"memory://{secrets.token_hex(8)}"))
    )
    lists: list[Lists] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.define("counts", 1)
        state = StateList.empty(slices=2)
        for batch_id in range(3):
            state = replace(state, slices=self.with_key(state, batch_id), fired_ms=100 * batch_id, keys=batch_id + 1)
            self.lists.append({"counts": state})

    def define(self, operator: str, generation: int) -> None:
        definition = OperatorDefinition(operator, "update_state_by_key", "json", SEED)
        self.checkpoint.create_operator(operator, generation, definition.to_json())
        self.checkpoint.create_state_type(operator, generation, JsonState().to_definition())

    def with_key(self, state: StateList, batch_id: int) -> tuple[Slice, ...]:
        keys = pa.array([b"%d" % batch_id], pa.large_binary())
        hashes = hash_keys(keys, SEED)
        run = Run.of(hashes, keys, pa.array([b"1"], pa.large_binary()), np.ones(1, np.uint8))
        key = layout.state_key("counts", batch_id, "nonce", "0" * 16)
        body, (section,) = pack(key, [run])
        self.checkpoint.store.put_if_absent(key, body)
        return tuple(
            replace(one, sections=(section, *one.sections)) if one.first_hash <= int(hashes[0]) < one.end_hash else one
            for one in state.slices
        )

    def newest(self) -> Marker:
        marker = self.checkpoint.newest_marker()
        assert marker is not None
        return marker

    def faults(self) -> list[str]:
        """What ``verify`` finds, of all that it looks at."""
        for batch_id, lists in enumerate(self.lists):
            self.checkpoint.create_plan(Plan(batch_id, 1, 0, {}))
            state = {name: one.to_json() for name, one in lists.items()}
            self.checkpoint.create_marker(
                Marker(batch_id, "committed", Attempt(1, batch_id, "n"), {}, {}, 0, state=state)
            )
        verification = verify_checkpoint(self.checkpoint.store)
        assert verification.contents is not None
        checks = [*verification.checks, *verify_state(verification.contents)]
        found = [f"{fault.where}: {fault.message}" for check in checks for fault in check.faults]
        return [one for one in found if "writers/" not in one]  # nobody claimed it


@pytest.fixture
def stream() -> Stream:
    return Stream()


def change(batch_id: int, **given: Any) -> Callable[[Stream], None]:
    def act(stream: Stream) -> None:
        stream.lists[batch_id]["counts"] = replace(stream.lists[batch_id]["counts"], **given)

    return act


def slices_cut(stream: Stream) -> None:
    first, second = stream.lists[1]["counts"].slices
    change(1, slices=(replace(first, first_hash=5), second))(stream)


def slices_in_another_order(stream: Stream) -> None:
    change(1, slices=stream.lists[1]["counts"].slices[::-1])(stream)


def lost(stream: Stream) -> None:
    del stream.lists[2]["counts"]


def begun_anew(stream: Stream) -> None:
    stream.define("counts", 2)
    stream.lists[2]["counts"] = StateList.empty(2)


def definition_gone(stream: Stream) -> None:
    stream.checkpoint.store.delete([layout.operator_key("counts", 1)])


def earlier_object_comes_back(stream: Stream) -> None:
    stream.lists[1]["counts"] = StateList.empty(slices=2)


@pytest.mark.parametrize(
    ("act", "fault"),
    [
        (slices_cut, "counts: the slices of its list in batch 1 do not hold every hash once"),
        (slices_in_another_order, "counts: the slices of its list in batch 1 do not hold every hash once"),
        (lost, "counts: its state ends with batch 1, while batch 2 is decided, and nobody has dropped it"),
        (begun_anew, "counts: its state ends with batch 1, while batch 2 is decided, and nobody has dropped it"),
        (change(2, fired_ms=50), "counts: batch 2 says that timers have fired up to 50, the batch before up to 100"),
        (definition_gone, "operators/counts/00001/definition.json: it is missing, though batch 0 has state"),
        (earlier_object_comes_back, f"counts: batch 2 names {layout.state_prefix('counts')}{0:020d}-nonce-"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_list_that_is_not_as_promised_is_a_fault(stream: Stream, act: Callable[[Stream], None], fault: str) -> None:
    assert stream.faults() == []
    broken = Stream()
    act(broken)
    assert any(one.startswith(fault) for one in broken.faults()), broken.faults()


@pytest.mark.parametrize("act", [lost, begun_anew])
def test_what_was_dropped_on_purpose_may_end(stream: Stream, act: Callable[[Stream], None]) -> None:
    act(stream)
    stream.checkpoint.create_dropped("counts", 1, 0)
    assert stream.faults() == []


def test_a_damaged_record_of_an_operator_is_a_fault(stream: Stream) -> None:
    key = layout.dropped_key("counts", 1)
    stream.checkpoint.store.put_if_absent(key, b"{")
    assert any(key in one for one in stream.faults())


def test_how_much_an_operator_remembers(stream: Stream) -> None:
    assert stream.faults() == []
    (summary,) = operators_behind(stream.checkpoint, stream.newest())
    most = max(len(one.sections) for one in stream.lists[2]["counts"].slices)
    found = (summary.name, summary.kind, summary.keys, summary.sections, summary.slices, summary.max_sections_a_slice)
    assert found == ("counts", "update_state_by_key", 3, 3, 2, most)
    assert summary.size_bytes == sum(entry.size_bytes for entry in stream.checkpoint.store.list(layout.STATE))
