"""An operator of a checkpoint stays the same, or is refused with the way out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from beam_exactly_once.errors import PipelineChanged
from beam_exactly_once.state.definition import OperatorDefinition, refuse_changed, refuse_changed_state
from beam_exactly_once.state.keys import SAMPLES, decode_key
from beam_exactly_once.state.types import AccumulatorState, JsonState

STORED = OperatorDefinition("counts", "update_state_by_key", "json", bytes(range(16)))


def same(value: Any) -> Any:
    return value


def test_a_definition_comes_back_from_json() -> None:
    of_windows = replace(STORED, time_domain="event_time", window={"kind": "fixed", "size_ms": 60_000, "offset_ms": 0})
    for definition in (STORED, of_windows):
        assert OperatorDefinition.from_json(orjson.loads(orjson.dumps(definition.to_json()))) == definition
    assert STORED.to_json() == {
        "name": "counts",
        "kind": "update_state_by_key",
        "state": "json",
        "seed": "000102030405060708090a0b0c0d0e0f",
        "time_domain": "processing_time",
        "window": None,
        "key_samples": list(STORED.key_samples),
    }
    assert [decode_key(bytes.fromhex(sample)) for sample in STORED.key_samples] == list(SAMPLES)


def test_the_seed_may_differ_and_is_never_shown() -> None:
    refuse_changed(STORED, replace(STORED, seed=bytes(16)))
    assert "0001" not in repr(STORED)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "stateful_combine_per_key"}, "kind='update_state_by_key', now 'stateful_combine_per_key'"),
        ({"state": "arrow"}, "state='json', now 'arrow'"),
        ({"time_domain": "event_time"}, "time_domain='processing_time', now 'event_time'"),
        ({"window": {"kind": "fixed"}}, "window=none, now {'kind': 'fixed'}"),
        ({"state": "arrow", "time_domain": "event_time"}, "state='json', now 'arrow'; time_domain="),
    ],
    ids=str,
)
def test_an_operator_that_is_another_one_is_refused_with_both(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineChanged) as refused:
        refuse_changed(STORED, replace(STORED, **changes))
    message = str(refused.value)
    assert message.startswith(f"operator 'counts' had {said}")
    for way_out in ("Change it back", "without=['operators/counts']"):
        assert way_out in message
    assert STORED.seed.hex() not in message


def test_other_bytes_of_keys_are_refused() -> None:
    with pytest.raises(PipelineChanged, match="operator 'counts': this version of the library gives keys other bytes"):
        refuse_changed(STORED, replace(STORED, key_samples=("73",)))


def test_all_versions_that_were_written_must_be_known() -> None:
    first, second = JsonState(), JsonState(version=2, upgrades={1: same})
    refuse_changed_state("counts", [first.to_definition()], second)
    refuse_changed_state("counts", [first.to_definition(), second.to_definition()], second)
    with pytest.raises(PipelineChanged, match="values of version 2, and this code has version=1"):
        refuse_changed_state("counts", [first.to_definition(), second.to_definition()], first)
    with pytest.raises(PipelineChanged, match="values of version 1, and this code has version=2"):
        refuse_changed_state("counts", [first.to_definition()], JsonState(version=2))
    with pytest.raises(PipelineChanged, match="had state='json', now 'accumulator'"):
        refuse_changed_state("counts", [first.to_definition()], AccumulatorState("sum"))


def test_the_name_of_a_type_may_change() -> None:
    stored = {**JsonState(dict[str, int]).to_definition(), "type": "Older"}
    refuse_changed_state("counts", [stored], JsonState(dict[str, int]))
