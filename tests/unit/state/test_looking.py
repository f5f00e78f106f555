"""What people see of state: keys by their type, numbers of any size, and what JSON does not know."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker, SourceCommit
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.state import tagged
from beam_exactly_once.state.definition import OperatorDefinition
from beam_exactly_once.state.hashing import hash_keys
from beam_exactly_once.state.keys import encode_key
from beam_exactly_once.state.run import Run
from beam_exactly_once.state.section import pack
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.upkeep.looking import StateView
from support.checkpoints import NOW, P0
from support.command_line import run
from support.state_rows import SEED, large

HUGE = 1 << 80
KEYS_LIKE_ONE: tuple[Any, ...] = (1, True, (1,), (True,), ("a", (1,)), ("a", (True,)))


def remembering(values: Mapping[bytes, Any]) -> str:
    """The location of a stream whose operator ``totals`` remembers these accumulators, by encoded key."""
    location = f"memory://{secrets.token_hex(8)}"
    checkpoint = Checkpoint.open(open_object_store(location))
    definition = OperatorDefinition("totals", "combine_per_key", "accumulator", SEED)
    checkpoint.create_operator("totals", 1, definition.to_json())
    keys = large(values)
    accumulators = large(tagged.encode(value, tagged.PLAIN) for value in values.values())
    body, sections = pack(
        "state/totals", [Run.of(hash_keys(keys, SEED), keys, accumulators, np.ones(len(keys), np.uint8))]
    )
    checkpoint.store.put_if_absent("state/totals", body)
    state = StateList.empty(1, slices=1)
    state = replace(
        state, slices=(replace(state.slices[0], sections=tuple(sections) if values else ()),), keys=len(keys)
    )
    stands = {"kafka": SourceCommit({P0: 1}, (), 1, 1)}
    checkpoint.create_marker(
        Marker(0, "committed", Attempt(1, 0, "a"), stands, {}, NOW, state={"totals": state.to_json()})
    )
    return location


def shown(location: str, key: str) -> str:
    """What ``state show`` prints as the value of a key."""
    text = run("state", "show", location, "totals", "--key", key).stdout
    return text.split('"value": ')[1].split(',\n  "version"')[0]


def exported(location: str, file: Path) -> list[tuple[str, str]]:
    assert run("state", "export", location, "totals", file).exit_code == 0
    return [(row["key"], row["value"]) for row in pq.read_table(file).to_pylist()]


def test_a_slice_without_sections_remembers_nothing(tmp_path: Path) -> None:
    location = remembering({})
    assert StateView(open_object_store(location)).of_key("totals", 1) == []
    assert exported(location, tmp_path / "totals.parquet") == []


@pytest.mark.parametrize("key", KEYS_LIKE_ONE, ids=repr)
def test_a_key_is_found_by_its_type_also_inside_of_tuples(key: Any) -> None:
    location = remembering({encode_key(one): number for number, one in enumerate(KEYS_LIKE_ONE)})
    (found,) = StateView(open_object_store(location)).of_key("totals", key)
    assert (repr(found.key), found.value) == (repr(key), next(n for n, one in enumerate(KEYS_LIKE_ONE) if one is key))


@pytest.mark.parametrize("key", [1, True, (1,), (True,)], ids=repr)
def test_a_key_that_is_equal_to_python_alone_is_another(key: Any) -> None:
    """They may even have one hash: all of a slice is looked at."""
    others = [one for one in KEYS_LIKE_ONE if one == key and one is not key]
    location = remembering({encode_key(one): 7 for one in others})
    assert StateView(open_object_store(location)).of_key("totals", key) == []


def test_an_int_of_any_size_is_shown_and_exported_as_a_key_and_as_a_value(tmp_path: Path) -> None:
    location = remembering({encode_key(HUGE): -HUGE, encode_key(("a", HUGE)): HUGE + 1})
    assert shown(location, str(HUGE)) == str(-HUGE)
    assert shown(location, f'["a", {HUGE}]') == str(HUGE + 1)
    assert sorted(exported(location, tmp_path / "totals.parquet")) == sorted(
        [(str(HUGE), str(-HUGE)), (f'["a",{HUGE}]', str(HUGE + 1))]
    )


def test_a_key_that_is_no_json_is_plain_text() -> None:
    location = remembering({encode_key(text): number for number, text in enumerate(["be", "NaN", "-Infinity"])})
    assert [shown(location, text) for text in ("be", "NaN", "-Infinity")] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("value", "as_json"),
    [
        (float("inf"), "inf"),
        (0.1, 0.1),
        (b"\xff\0", "/wA="),
        (Decimal("1.10"), "1.10"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3), "2026-01-02T03:00:00"),
        ((1, {b"\xff"}, None), [1, ["/w=="], None]),
        ({1: "a", "b": (True,), ("c", 2): 3, None: 4}, {"1": "a", "b": [True], '["c", 2]': 3, "null": 4}),
    ],
    ids=repr,
)
def test_what_json_does_not_know_is_shown_and_exported_as_text(value: Any, as_json: Any, tmp_path: Path) -> None:
    key = ("ä", b"\xff")
    location = remembering({encode_key("k"): value, encode_key(key): 0})
    assert orjson.loads(shown(location, "k")) == as_json
    found = dict(exported(location, tmp_path / "totals.parquet"))
    assert {name: orjson.loads(text) for name, text in found.items()} == {'"k"': as_json, '["ä","/w=="]': 0}
