"""Which generation of an operator a start goes on with."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from beam_exactly_once.checkpoint import Checkpoint, layout
from beam_exactly_once.errors import CheckpointHole, PipelineChanged
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.pipelines.known_operators import KnownOperators
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.types import JsonState
from beam_exactly_once.state.updates import FirstOfEach, UpdateEach
from beam_exactly_once.transforms.stateful.operators_of_batch import LiveOperator, OperatorsOfBatches
from beam_exactly_once.transforms.stream_graph import OperatorSpec
from support.checkpoints import marker, plan

COUNTS = UpdateEach(max, JsonState(), None)
OTHERS = FirstOfEach(None)


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint.open(open_object_store(f"memory://{secrets.token_hex(8)}"))


def start(
    checkpoint: Checkpoint, update: Any, *, without: Sequence[str] = (), state: Mapping[str, int] | None = None
) -> LiveOperator | None:
    """A start with an operator ``counts``, or with none, behind a marker with these generations."""
    operators = {} if update is None else {"counts": OperatorSpec("counts", update, (), Any)}  # type: ignore[arg-type] # Beam is not asked
    known = KnownOperators(checkpoint, operators, without)
    known.refuse_changes()
    lists = {name: StateList.empty(generation) for name, generation in (state or {}).items()}
    return known.live(lists, 0).get("counts")


def test_a_start_that_failed_before_its_first_batch_leaves_no_generation_behind(checkpoint: Checkpoint) -> None:
    first = start(checkpoint, COUNTS)
    assert first == start(checkpoint, COUNTS)
    assert first is not None
    assert first.generation == 1


def test_what_was_dropped_comes_again_as_another(checkpoint: Checkpoint) -> None:
    """Of another kind, with other hashes; and a failed start of that leaves no generation behind either."""
    first = start(checkpoint, COUNTS)
    start(checkpoint, None, without=["counts"], state={"counts": 1})
    again = start(checkpoint, OTHERS)
    assert first is not None
    assert again is not None
    assert (again.generation, again.hash_seed != first.hash_seed) == (2, True)
    assert start(checkpoint, OTHERS) == again
    with pytest.raises(PipelineChanged, match="had kind='deduplicate_by_key', now 'update_state_by_key'"):
        start(checkpoint, COUNTS)


def test_a_note_that_a_frozen_driver_writes_late_drops_nothing(checkpoint: Checkpoint) -> None:
    """The marker names the operator: a newer driver has gone on with it."""
    first = start(checkpoint, COUNTS)
    checkpoint.create_dropped("counts", 1, 0)
    assert start(checkpoint, COUNTS, state={"counts": 1}) == first
    with pytest.raises(PipelineChanged, match="knows an operator 'counts'"):
        start(checkpoint, None, state={"counts": 1})


def test_what_another_driver_has_added_meanwhile_is_not_dropped_by_chance(checkpoint: Checkpoint) -> None:
    known = KnownOperators(checkpoint, {}, ())
    known.refuse_changes()
    start(checkpoint, COUNTS)
    with pytest.raises(PipelineChanged, match="knows an operator 'counts'"):
        known.live({"counts": StateList.empty()}, 0)


def test_without_its_definition_state_is_not_read_by_another_hash(checkpoint: Checkpoint) -> None:
    start(checkpoint, COUNTS)
    checkpoint.store.delete([layout.operator_key("counts", 1)])
    with pytest.raises(
        CheckpointHole, match=r"operators/counts/00001/definition\.json is missing, and with it the seed"
    ):
        start(checkpoint, COUNTS, state={"counts": 1})


def test_what_never_was_there_need_not_be_dropped(checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    """The same code may begin another stream. In one that has others it may be a slip."""
    start(checkpoint, COUNTS, without=["old"])
    assert caplog.text == ""
    start(checkpoint, COUNTS, without=["old"])
    assert "knows no operator 'old'" in caplog.text


def test_a_name_to_drop_may_be_a_slip_also_in_a_stream_without_operators(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    start(checkpoint, None, without=["old"])
    assert caplog.text == ""
    checkpoint.create_plan(plan(0))
    start(checkpoint, None, without=["old"])
    assert "knows no operator 'old'" in caplog.text


def renamed(checkpoint: Checkpoint, state: Mapping[str, int], update: Any = COUNTS) -> LiveOperator:
    """A start with an operator ``totals`` that was ``counts``."""
    known = KnownOperators(checkpoint, {"totals": OperatorSpec("totals", update, (), Any, "counts")}, ())  # type: ignore[arg-type]
    known.refuse_changes()
    return known.live({name: StateList.empty(generation) for name, generation in state.items()}, 0)["totals"]


def test_a_renamed_operator_goes_on_with_list_and_hashes(checkpoint: Checkpoint) -> None:
    """As long as no marker has the new name, the old code finds all under the old one; a start that failed changes nothing."""
    first = start(checkpoint, COUNTS)
    assert renamed(checkpoint, {"counts": 1}) == first
    assert start(checkpoint, COUNTS, without=["totals"], state={"counts": 1}) == first
    counts, other = replace(StateList.empty(1), keys=7), StateList.empty(3)
    operators = OperatorsOfBatches(live={"totals": LiveOperator(2, "00")}, renamed={"counts": "totals"})
    totals = replace(counts, generation=2)
    for before, after in [
        ({"counts": counts, "other": other}, {"totals": totals, "other": other}),
        ({"counts": other, "totals": totals}, {"counts": other, "totals": totals}),
    ]:
        state = {name: one.to_json() for name, one in before.items()}
        assert operators.state_in(replace(marker(0), state=state)) == after
    assert renamed(checkpoint, {"totals": 1}) == first
    with pytest.raises(
        PipelineChanged, match=r"knows an operator 'totals' .*\(it has: counts\).*renamed_from='totals'"
    ):
        start(checkpoint, COUNTS, state={"totals": 1})


def test_a_name_that_a_failed_start_took_for_another_state_is_taken_anew(checkpoint: Checkpoint) -> None:
    """It was to begin with nothing, so its hashes are others."""
    first = start(checkpoint, COUNTS)
    assert first is not None
    known = KnownOperators(checkpoint, {"totals": OperatorSpec("totals", COUNTS, (), Any)}, ["counts"])  # type: ignore[arg-type]
    assert known.live({"counts": StateList.empty(1)}, 0)["totals"].hash_seed != first.hash_seed
    assert renamed(checkpoint, {"counts": 1}) == LiveOperator(2, first.hash_seed)
    assert renamed(checkpoint, {"counts": 1}) == LiveOperator(2, first.hash_seed)


def test_a_renamed_operator_must_be_of_the_same_kind_and_known_by_one_name(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    start(checkpoint, COUNTS)
    with pytest.raises(PipelineChanged, match=r"operator 'counts' had kind=.*without=\['operators/counts'\]"):
        renamed(checkpoint, {"counts": 1}, OTHERS)
    renamed(checkpoint, {"counts": 1})
    with pytest.raises(PipelineChanged, match=r"'totals' has renamed_from='counts', and .* has state of both"):
        renamed(checkpoint, {"counts": 1, "totals": 1})
    assert "has neither" not in caplog.text


def test_a_name_of_before_may_be_a_slip(checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    renamed(checkpoint, {})
    assert caplog.text == ""
    checkpoint.create_dropped("totals", 1, 0)
    renamed(checkpoint, {})
    assert "operator 'totals' has renamed_from='counts'" in caplog.text
    assert "has neither, so it begins with nothing" in caplog.text


def test_strangers_among_the_records_are_left_alone(checkpoint: Checkpoint) -> None:
    checkpoint.store.put_if_absent(f"{layout.OPERATORS}.DS_Store", b"")
    assert start(checkpoint, COUNTS) is not None
