"""The batch that carries state into a new stream: killed, overtaken and swept under at every call to a store."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pytest

from beam_exactly_once import CheckpointAt, Record
from beam_exactly_once.checkpoint import (
    Attempt,
    Checkpoint,
    Marker,
    Plan,
    SourceCommit,
    SourcePlan,
    StreamWriter,
    layout,
)
from beam_exactly_once.checkpoint.resolution import propose
from beam_exactly_once.clock import SYSTEM_CLOCK
from beam_exactly_once.errors import CheckpointHole, ConfigurationError, CorruptObject, Fenced, PipelineChanged
from beam_exactly_once.kafka import KafkaSettings, selection_of
from beam_exactly_once.object_store import ObjectEntry, ObjectStore, open_object_store
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.pipelines.carried_batch import CarriedBatch
from beam_exactly_once.pipelines.known_operators import KnownOperators
from beam_exactly_once.planning import BatchLimits, LogSource
from beam_exactly_once.planning.continuing import carried_from
from beam_exactly_once.planning.source_planner import SourcePlanner
from beam_exactly_once.planning.start import start_of
from beam_exactly_once.state.definition import OperatorDefinition
from beam_exactly_once.state.hashing import hash_keys
from beam_exactly_once.state.run import TOMBSTONE, Run
from beam_exactly_once.state.section import fetch_from, pack, read_section
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.types import JsonState
from beam_exactly_once.state.updates import UpdateEach
from beam_exactly_once.state.upkeep.carrying import copy_state
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from beam_exactly_once.transforms.stream_graph import OperatorSpec
from support.checkpoints import overwrite
from support.ending import ends_with, kill

SEED = bytes(range(16))
ORDERS = TopicPartition("orders", 0)

Table: TypeAlias = dict[bytes, bytes | None]
"""Values by key; None is a tombstone."""

BEHIND_7: list[Table] = [
    {b"a": b"3", b"b": None, b"d": b"1"},  # the newest
    {b"a": b"2", b"b": b"1", b"c": b"1"},
]
BEHIND_8: list[Table] = [{b"a": b"4"}, *BEHIND_7]


def alive(tables: list[Table]) -> dict[bytes, bytes]:
    whole: Table = {}
    for table in reversed(tables):
        whole.update(table)
    return {key: value for key, value in whole.items() if value is not None}


@dataclass
class Streams:
    """An old stream with state, made by hand, and new ones that go on from it. It has read five orders."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    cluster: MemoryKafka = field(default_factory=lambda: MemoryKafka({"orders": 1}))
    kind: str = "update_state_by_key"
    operators: tuple[str, ...] = ("counts",)
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.cluster.append(Record("orders", value=b"%d" % number) for number in range(9))
        old = Checkpoint.open(self.store("old"))
        definition = OperatorDefinition("counts", self.kind, "json", SEED)
        old.create_operator("counts", 2, definition.to_json())
        old.create_state_type("counts", 2, JsonState().to_definition())
        self.decide(7, BEHIND_7)

    def store(self, name: str) -> ObjectStore:
        return open_object_store(f"memory://{self.id}/{name}")

    def checkpoint(self, name: str) -> Checkpoint:
        found = Checkpoint.open_existing(self.store(name))
        assert found is not None
        return found

    def decide(self, batch_id: int, tables: list[Table]) -> None:
        """A batch of the old stream, published."""
        old = self.checkpoint("old")
        state = StateList.empty(2, slices=2)
        key = layout.state_key("counts", batch_id, "nonce", secrets.token_hex(8))
        runs = [[run_of(table).slice(one.first_hash, one.end_hash) for table in tables] for one in state.slices]
        body, sections = pack(key, [run for of_slice in runs for run in of_slice])
        old.store.put_if_absent(key, body)
        of_slice = len(tables)
        slices = tuple(
            replace(
                one, sections=tuple(sections[number * of_slice : (number + 1) * of_slice]), next_due_ms=2000 + number
            )
            for number, one in enumerate(state.slices)
        )
        state = replace(state, slices=slices, fired_ms=1000, keys=len(alive(tables)))
        sources = {"kafka": SourceCommit({ORDERS: batch_id - 2}, (), 1, 1)}
        marker = Marker(
            batch_id, "committed", Attempt(1, batch_id, "n"), sources, {}, 0, state={"counts": state.to_json()}
        )
        old.create_marker(marker)
        old.create_published(batch_id)

    def sweep(self) -> None:
        """The old stream goes on, and removes what its batch 7 had."""
        self.decide(8, BEHIND_8)
        store = self.store("old")
        store.delete([layout.commits_key(7), *self.state_keys("old", 7)])

    def state_keys(self, name: str, batch_id: int) -> list[str]:
        keys = [entry.key for entry in self.store(name).list(layout.STATE)]
        return [key for key in keys if layout.state_batch_id(key) == batch_id]

    def start(self, name: str = "new", place: CheckpointAt | None = None, *, alone: bool = False) -> bool:
        """What a driver does before its first batch. ``alone``: without ``continue_from``."""
        checkpoint = Checkpoint.open(StoreLocation(f"memory://{self.id}/{name}", None).store)
        operators = {one: OperatorSpec(one, UpdateEach(max, JsonState(), None), (), Any) for one in self.operators}  # type: ignore[arg-type] # Beam is not asked
        known = KnownOperators(checkpoint, operators, self.without)
        source = LogSource(
            "kafka",
            KafkaSettings("memory:9092"),
            selection_of(["orders"]),
            start_of("earliest"),
            BatchLimits(),
            "fail",
        )
        place = place or CheckpointAt(f"memory://{self.id}/old")
        elsewhere = None if alone else (place, StoreLocation(place.location, None))
        with self.cluster.serving():
            planner = SourcePlanner(source, SYSTEM_CLOCK, may_wait=False)
            try:
                writer = StreamWriter.claim(checkpoint, owner="ann", claimed_at_ms=0)
                recovery = writer.recover()
                if recovery.newest is not None:
                    return False
                carried = CarriedBatch(writer, known, {"kafka": planner}, SYSTEM_CLOCK)
                is_decided = carried.decide(elsewhere, recovery.replays)
                if not is_decided:
                    planner.take_position(checkpoint, None)
                    known.live({}, 0)
                return is_decided
            finally:
                planner.close()

    def assert_carried_whole(self, name: str = "new") -> None:
        """Offsets and state are of one batch, whichever it is."""
        marker = self.checkpoint(name).read_marker(0)
        assert marker is not None
        is_behind_8 = marker.sources["kafka"].next_offsets == {ORDERS: 6}
        self.assert_carried(name, *((8, BEHIND_8) if is_behind_8 else (7, BEHIND_7)))

    def assert_carried(self, name: str = "new", batch_id: int = 7, tables: list[Table] = BEHIND_7) -> None:
        """The new stream stands where the old one stood behind that batch, with all that it remembered."""
        checkpoint = self.checkpoint(name)
        (marker,) = [checkpoint.read_marker(number) for number in checkpoint.marker_ids()]
        assert marker is not None
        assert marker.sources["kafka"].next_offsets == {ORDERS: batch_id - 2}
        state = StateList.from_json(marker.state["counts"])
        fetch = fetch_from(checkpoint.store)
        found = {}
        for one in state.slices:
            runs = [read_section(ref, fetch(ref.object_key, ref.offset, ref.size_bytes)) for ref in one.sections]
            assert len(runs) <= 1
            found |= {
                key: value.as_py() for run in runs for key, value in zip(run.keys.to_pylist(), run.values, strict=True)
            }
        assert found == alive(tables)
        assert (state.generation, state.fired_ms, state.next_due_ms, state.keys) == (1, 1000, 2000, len(alive(tables)))
        definition = checkpoint.operators()["counts"][1].definition
        assert definition is not None
        assert bytes.fromhex(definition["seed"]) == SEED


def run_of(table: Table) -> Run:
    keys = pa.array(list(table), pa.large_binary())
    versions = np.array([TOMBSTONE if value is None else 1 for value in table.values()], np.uint8)
    return Run.of(hash_keys(keys, SEED), keys, pa.array(list(table.values()), pa.large_binary()), versions)


@pytest.fixture
def streams() -> Streams:
    return Streams()


def calls_of_a_start() -> range:
    """The numbers of its calls to stores."""
    calls, streams = StoreCalls(None, lambda: None), Streams()
    with watching(calls):
        assert streams.start()
    return range(1, len(calls.log) + 1)


CALLS = calls_of_a_start()


def at_call(number: int, act: Callable[[], object]) -> Any:
    """Context manager: something happens behind that call."""
    return watching(StoreCalls(KillPoint("any", "", number), act))


def entries(store: ObjectStore) -> list[ObjectEntry]:
    return list(store.list())


def test_state_and_offsets_of_one_marker_are_carried_along(streams: Streams) -> None:
    """What was there is only read; a slice that was in pieces is one."""
    before = entries(streams.store("old"))
    assert streams.start()
    streams.assert_carried()
    assert entries(streams.store("old")) == before
    plan = streams.checkpoint("new").read_plan(0)
    assert plan is not None
    assert (plan.ranges, plan.carries is not None) == ({"kafka": ()}, True)
    assert not streams.start()


@pytest.mark.parametrize("number", CALLS)
def test_killed_behind_any_call_the_next_start_carries_the_same(streams: Streams, number: int) -> None:
    """Also when the old stream has gone on meanwhile."""
    with at_call(number, kill), ends_with("killed here"):
        streams.start()
    planned = next(streams.store("new").list(layout.OFFSETS), None) is not None
    streams.decide(8, BEHIND_8)
    streams.start()
    streams.assert_carried(*(("new", 7, BEHIND_7) if planned else ("new", 8, BEHIND_8)))


@pytest.mark.parametrize("number", CALLS)
def test_the_old_stream_sweeps_meanwhile(streams: Streams, number: int) -> None:
    """All of the state is carried, or none. If that of batch 7 is decided to be carried, only a new place can carry another."""
    with at_call(number, streams.sweep):
        error = error_of(streams.start)
    new = "new"
    if error and next(streams.store("new").list(layout.OFFSETS), None) is not None:
        assert "with an empty checkpoint_location; nothing was written to its outputs" in error
        new = "another"
    streams.start(new)
    streams.assert_carried_whole(new)


def error_of(act: Callable[[], object]) -> str:
    try:
        act()
    except CheckpointHole as error:
        return str(error)
    return ""


@pytest.mark.parametrize("number", CALLS)
def test_two_drivers_carry_the_same(streams: Streams, number: int) -> None:
    """Whichever batch of the old stream each has seen as its newest."""

    def another_driver() -> None:
        streams.decide(8, BEHIND_8)
        streams.start()

    with at_call(number, another_driver), contextlib.suppress(Fenced):
        streams.start()
    streams.assert_carried_whole()


def test_the_plan_of_an_older_driver_is_adopted(streams: Streams) -> None:
    """It had seen another batch of the old stream as its newest."""
    streams.decide(8, BEHIND_8)

    def older_driver_plans() -> None:
        old = streams.checkpoint("old")
        marker = old.read_marker(7)
        assert marker is not None
        sources = {"kafka": SourcePlan((), (), {ORDERS: 5})}
        plan = Plan(0, 1, 0, sources, carries=carried_from(old, marker, ("counts",)))
        assert streams.checkpoint("new").create_plan(plan).mine

    with watching(StoreCalls(KillPoint("get", layout.commits_key(8), 1), older_driver_plans)):
        assert streams.start()
    streams.assert_carried()


# -- what is refused -------------------------------------------------------------------------------------------------


def planned_and_killed(streams: Streams) -> None:
    with watching(StoreCalls(KillPoint("put_if_absent", layout.OFFSETS, 1), kill)), ends_with("killed here"):
        streams.start()


def test_a_start_that_forgets_where_it_goes_on_from_is_refused(streams: Streams) -> None:
    planned_and_killed(streams)
    with pytest.raises(ConfigurationError, match=rf"Give continue_from=CheckpointAt\('memory://{streams.id}/old', 7\)"):
        streams.start(alone=True)
    with pytest.raises(ConfigurationError, match=r"batch 0 of .* cannot be passed: it carries the state"):
        propose(streams.store("new"), 0, "abandoned")
    assert streams.start()


def test_another_stream_at_the_old_place_is_refused(streams: Streams) -> None:
    planned_and_killed(streams)
    place = CheckpointAt(f"memory://{Streams().id}/old")
    with pytest.raises(
        CheckpointHole, match="is the checkpoint of another stream, while batch 0 of this stream is planned"
    ):
        streams.start(place=place)


def test_a_marker_that_a_late_worker_made_again_is_refused(streams: Streams) -> None:
    planned_and_killed(streams)
    streams.store("old").delete([layout.commits_key(7)])
    streams.decide(7, BEHIND_8)
    with pytest.raises(CheckpointHole, match="has another marker of batch 7"):
        streams.start()


def test_an_operator_that_the_graph_lacks_is_left_behind_on_purpose_alone(streams: Streams) -> None:
    streams.operators = ("others",)
    with pytest.raises(
        PipelineChanged, match=r"old knows an operator 'counts'.*say so: without=\['operators/counts'\]"
    ):
        streams.start()
    streams.without = ("counts",)
    assert not streams.start()


@pytest.mark.parametrize("streams", [Streams(kind="deduplicate_by_key")], ids=["kind"])
def test_another_kind_of_operator_is_refused(streams: Streams) -> None:
    with pytest.raises(
        PipelineChanged, match="operator 'counts' had kind='deduplicate_by_key', now 'update_state_by_key'"
    ):
        streams.start()
    assert next(streams.store("new").list(layout.OFFSETS), None) is None


def test_a_place_where_a_stream_began_otherwise_is_refused(streams: Streams) -> None:
    """Its offsets, and the hash of its keys, are others."""
    assert not streams.start(alone=True)
    with pytest.raises(PipelineChanged, match="has recorded that source 'kafka' begins elsewhere"):
        streams.start()

    other = Streams()
    checkpoint = Checkpoint.open(other.store("new"))
    checkpoint.create_operator("counts", 1, OperatorDefinition("counts", other.kind, "json", SEED[::-1]).to_json())
    with pytest.raises(PipelineChanged, match="knows operator 'counts' already, from a start that did not continue"):
        other.start()

    third = Streams()
    checkpoint = Checkpoint.open(third.store("new"))
    checkpoint.create_plan(Plan(0, 1, 0, {}))
    with pytest.raises(
        PipelineChanged, match=r"batch 0 of .* is planned already, by a start that carried no state along"
    ):
        third.start()


def test_a_damaged_object_is_said(streams: Streams) -> None:
    (key,) = streams.state_keys("old", 7)
    overwrite(streams.store("old"), key, lambda body: body[:-1] + b"?")
    with pytest.raises(CorruptObject, match=key):
        streams.start()


def test_no_more_than_a_slice_is_held_in_memory(streams: Streams) -> None:
    """Then each slice has an object of its own; one without rows has none."""
    old, new = streams.store("old"), open_object_store(f"memory://{secrets.token_hex(8)}")
    marker = streams.checkpoint("old").read_marker(7)
    assert marker is not None
    state = StateList.from_json(marker.state["counts"])
    copied = copy_state("counts", state, Attempt(1, 0, "n"), source=old, target=new, max_object_bytes=1)
    assert len(entries(new)) == len([one for one in copied.slices if one.sections]) == len(copied.object_keys)
