"""What ``verify`` says of sinks that it cannot look into."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from beam_exactly_once.cli.outputs import Outputs


def test_a_sink_of_ones_own_is_noted_and_user_code_has_nothing_to_look_at() -> None:
    contents: Any = SimpleNamespace(
        sinks={"crm": {"kind": "crm", "location": "crm://orders"}, "each": {"kind": "for_each_batch"}}
    )
    checkpoint: Any = None
    (check,) = Outputs(checkpoint, None).checks(contents)
    assert check.name == "receipts of sink crm"
    assert check.notes == ["not looked at: only a sink of kind 'crm' can read them."]
    assert not check.faults
