"""``verify`` and ``demo`` as a person or a script meets them; looking changes nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles
from beam_exactly_once.checkpoint.layout import commits_key
from beam_exactly_once.cli import commands, demo
from beam_exactly_once.kafka import Record
from beam_exactly_once.object_store import ObjectStore, open_object_store, override_stores
from support.command_line import kafka_holding, run
from support.hand_made_stream import HandMadeStream


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HandMadeStream:
    made = HandMadeStream(tmp_path)
    monkeypatch.setattr(commands, "_CLOCK", made.clock)
    return made


def test_verify_for_people(stream: HandMadeStream) -> None:
    stream.run(0, 1)
    stream.commit(stream.plan(2))
    result = run("verify", stream.location)
    assert result.exit_code == 0
    assert (
        "\n".join(line.rstrip() for line in result.stdout.splitlines())
        == f"""\
Checks
checked                         looked at  result
────────────────────────────────────────────────────
metadata                                1  ok
writer claims                           1  ok
plans                                   3  ok
markers                                 3  ok
definitions                             2  ok
notes of what is published              0  ok
spilled lists                           0  ok
no batch missing                        3  ok
offsets without gap or overlap          3  ok
rows for every sink                     3  ok
files of sink files                     3  ok
manifests of sink files                 3  ok (note)

note   manifests of sink files: batch 2 is decided and not published yet: its driver, or the next start, does it.
No fault in {stream.location}"""
    )


def test_verify_names_each_fault_and_exits_with_5(stream: HandMadeStream) -> None:
    stream.run(0, 1, 2)
    stream.path(commits_key(1)).unlink()
    (file,) = stream.output.glob(f"part-{0:020d}-*")
    file.unlink()
    result = run("verify", stream.location)
    assert result.exit_code == 5
    assert f"fault 1  {commits_key(1)}\n  {stream.location} has no marker of batch 1" in result.stdout
    assert f"fault 2  {file.name}\n  {file} of batch 0, with 15 rows, is missing. Restore" in result.stdout
    assert result.stdout.endswith(f"2 faults found in {stream.location}\n")


def test_verify_as_json(stream: HandMadeStream) -> None:
    stream.run(0, 1, 2)
    stream.path(commits_key(1)).unlink()
    result = run("verify", stream.location, "--json")
    found = orjson.loads(result.stdout)
    hole = {
        "where": commits_key(1),
        "message": f"{stream.location} has no marker of batch 1, though batch 2 is decided. Restore it from a copy or an "
        "older version of the object. No start of this stream needs it; continue_from with this batch would.",
    }
    assert result.exit_code == 5
    assert {key: found[key] for key in ("location", "stream_id", "clean")} == {
        "location": str(stream.location),
        "stream_id": "0000000000000000",
        "clean": False,
    }
    assert [(check["name"], check["examined"], check["faults"], check["notes"]) for check in found["checks"]] == [
        ("metadata", 1, [], []),
        ("writer claims", 1, [], []),
        ("plans", 3, [], []),
        ("markers", 2, [], []),
        ("definitions", 2, [], []),
        ("notes of what is published", 0, [], []),
        ("spilled lists", 0, [], []),
        ("no batch missing", 3, [hole], []),
        ("offsets without gap or overlap", 3, [], []),
        ("rows for every sink", 2, [], []),
        ("files of sink files", 2, [], []),
        ("manifests of sink files", 2, [], []),
    ]


def test_verify_says_that_a_checkpoint_without_metadata_has_a_fault(stream: HandMadeStream) -> None:
    stream.path("metadata.json").unlink()
    stream.path("writers/00000000000000000001.json").unlink()
    result = run("verify", stream.location, "--json")
    assert (result.exit_code, orjson.loads(result.stdout)["stream_id"]) == (5, None)


def test_verify_finds_no_fault_in_what_a_real_stream_wrote(tmp_path: Path) -> None:
    location, kafka = str(tmp_path / "checkpoint"), kafka_holding(p0=(0, 25), p1=(3, 8))
    for appended in (0, 0, 20):
        kafka.append([Record("orders", 1, value=b"paid")] * appended)
        with kafka.serving(), ExactlyOnceStream(location, retain_batches=2) as real:
            _ = (
                real
                | ReadFromKafka("kafka:9092", ["orders"], max_batch_offsets=10)
                | WriteToFiles(str(tmp_path / "output"), format="json")
            )
    found = orjson.loads(run("verify", location, "--json").stdout)
    assert (found["clean"], [note for check in found["checks"] for note in check["notes"]]) == (True, [])
    with kafka.serving():
        status = orjson.loads(run("status", location, "--bootstrap-servers", "kafka:9092", "--json").stdout)
    assert (status["batches"]["decided"], status["lag_offsets"]) == (5, {"kafka": {"orders": {"0": 0, "1": 0}}})
    assert [one["next_offset"] for one in status["sources"]["kafka"]] == [25, 28]


def test_looking_changes_nothing(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.commit(stream.plan(1))
    stream.plan(2)
    before = stream.everything()
    for arguments in (["status"], ["status", "--json"], ["verify"], ["verify", "--json"]):
        assert run(arguments[0], stream.location, *arguments[1:]).exit_code == 0
    assert run("resolve", stream.location, "--batch", 2, "--skip", answer="n\n").exit_code == 1
    assert stream.everything() == before


@pytest.mark.parametrize("command", [["status"], ["verify"], ["resolve", "--batch", "0", "--skip"]])
def test_an_empty_location(tmp_path: Path, command: list[str]) -> None:
    result = run(command[0], tmp_path / "typo", *command[1:])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"ConfigurationError: {tmp_path}/typo is empty: there is no checkpoint.")
    assert list(tmp_path.iterdir()) == []


def test_store_options_reach_the_stores_of_the_checkpoints_kind(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.change("sinks/files/definition.json", location="gs://lake/orders")
    opened: list[tuple[str, Mapping[str, Any] | None]] = []

    def open_store(uri: str, options: Mapping[str, Any] | None) -> ObjectStore:
        opened.append((uri, options))
        return open_object_store(str(stream.location if "checkpoint" in uri else stream.output))

    with override_stores(open_store):
        run(
            "verify",
            "memory://checkpoint",
            "--storage-options",
            "region_name=a=b",
            "--storage-options",
            "profile_name=me",
        )
    assert opened == [
        ("memory://checkpoint", {"region_name": "a=b", "profile_name": "me"}),
        ("gs://lake/orders", None),
    ]


@pytest.mark.parametrize("option", ["novalue", "=value"])
def test_a_store_option_without_key_or_value(stream: HandMadeStream, option: str) -> None:
    result = run("status", stream.location, "--storage-options", option)
    assert result.exit_code == 2
    assert f"'{option}' is not KEY=VALUE." in result.stderr


def test_the_command_starts_without_beam() -> None:
    code = "import sys, beam_exactly_once.cli; print('apache_beam' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


@pytest.mark.parametrize(("lost", "exit_code"), [(0, 0), (3, 1)])
def test_demo_exits_by_what_it_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int, exit_code: int
) -> None:
    asked: list[object] = []

    def run_demo(records: int, kills: int, work_dir: Path, seed: int, console: object) -> demo.DemoResult:
        asked.extend([records, kills, work_dir, seed])
        return demo.DemoResult(produced=records, written=records - lost, lost=lost)

    monkeypatch.setattr(demo, "run_demo", run_demo)
    result = run("demo", "--records", 100, "--kills", 2, "--work-dir", tmp_path, "--seed", 7)
    assert (asked, result.exit_code) == ([100, 2, tmp_path, 7], exit_code)
    assert f"beam-exactly-once status {tmp_path}/checkpoint" in result.stdout


@pytest.mark.parametrize("command", [[], ["status"], ["verify"], ["resolve"], ["demo"], ["lab"]])
def test_help(command: list[str]) -> None:
    assert run(*command, "-h").stdout.startswith("Usage:")


def test_version() -> None:
    assert "version" in run("--version").stdout
