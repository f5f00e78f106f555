"""``beam-exactly-once state`` and ``verify``, of a stream that counts."""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from beam_exactly_once.checkpoint import layout
from support.checkpoints import overwrite
from support.command_line import run
from support.keyed_stream import KeyedStream

pytestmark = pytest.mark.runs_on("DirectRunner")


@pytest.fixture
def stream(tmp_path: Path) -> KeyedStream:
    """Batches of two numbers: 1 and 2, 11 and 1."""
    made = KeyedStream(tmp_path)
    made.produce(1, 2, 11, 1)
    made.run()
    return made


def test_show_the_operators(stream: KeyedStream) -> None:
    shown = run("state", "show", stream.location)
    assert shown.exit_code == 0
    assert [line.split()[:4] for line in shown.stdout.splitlines()][3:] == [
        ["update_state_by_key", "update_state_by_key", "json", "2"]
    ]


def test_status_shows_what_is_remembered(stream: KeyedStream) -> None:
    shown = run("status", stream.location)
    assert "State behind batch 1" in shown.stdout
    assert ["update_state_by_key", "update_state_by_key", "json", "2"] in [
        line.split()[:4] for line in shown.stdout.splitlines()
    ]
    (found,) = orjson.loads(run("status", stream.location, "--json").stdout)["operators"]
    assert (found["name"], found["keys"], found["slices"], found["max_sections_a_slice"]) == (
        "update_state_by_key",
        2,
        16,
        2,
    )


def test_show_a_key_behind_a_batch(stream: KeyedStream) -> None:
    for batch, count in (((), 3), (("--at-batch", 0), 1)):
        shown = run("state", "show", stream.location, "update_state_by_key", "--key", "1", *batch)
        assert orjson.loads(shown.stdout) == {"key": 1, "value": count, "version": 1, "expires_at_ms": None}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("update_state_by_key", "--key", '"1"'), 1, "remembers nothing of this key behind batch 1"),
        (("other", "--key", "1"), 2, "there is no operator 'other' behind batch 1: there are update_state_by_key"),
        (("--key", "1"), 2, "--key needs the OPERATOR"),
        (("--at-batch", 7), 2, "batch 7 has no marker any more, or not yet"),
    ],
)
def test_what_is_not_there(stream: KeyedStream, arguments: tuple[object, ...], code: int, message: str) -> None:
    shown = run("state", "show", stream.location, *arguments)
    assert shown.exit_code == code
    assert message in " ".join(shown.stderr.split())


def test_export_all_keys(stream: KeyedStream, tmp_path: Path) -> None:
    exported = run("state", "export", stream.location, "update_state_by_key", tmp_path / "state.parquet")
    assert exported.exit_code == 0
    rows = pq.read_table(tmp_path / "state.parquet").to_pylist()
    assert sorted((row["key"], row["value"]) for row in rows) == [("1", "3"), ("2", "1")]


def test_verify_looks_at_every_section(stream: KeyedStream) -> None:
    clean = run("verify", stream.location)
    assert clean.exit_code == 0
    assert "state of operator update_state_by_key" in clean.stdout
    key = sorted(entry.key for entry in stream.store().list(layout.STATE))[-1]
    overwrite(stream.store(), key, lambda body: body[::-1])
    found = run("verify", stream.location)
    assert found.exit_code == 5
    assert f"{key}: the section at byte 0 does not match its checksum" in " ".join(found.stdout.split())
