"""``resolve``: passes one batch, on the record, and never a decided one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from beam_exactly_once.checkpoint import Marker
from beam_exactly_once.checkpoint.layout import commits_key
from beam_exactly_once.cli import commands
from beam_exactly_once.errors import Fenced
from beam_exactly_once.object_store import ObjectStore
from support.command_line import run
from support.hand_made_stream import P0, P1, HandMadeStream


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HandMadeStream:
    made = HandMadeStream(tmp_path)
    monkeypatch.setattr(commands, "_CLOCK", made.clock)
    return made


def newest_of(stream: HandMadeStream) -> Marker:
    newest = stream.checkpoint.newest_marker()
    assert newest is not None
    return newest


def test_skip_goes_on_behind_the_batch_and_fences_the_driver(stream: HandMadeStream) -> None:
    stream.run(0)
    plan, driver = stream.plan(1), stream.writer
    result = run("resolve", stream.location, "--batch", 1, "--skip", answer="y\n")
    assert result.exit_code == 0
    newest = newest_of(stream)
    assert (newest.batch_id, newest.outcome, newest.records_read, newest.offsets_lost) == (
        1,
        "skipped",
        0,
        {"kafka": 15},
    )
    assert newest.sources["kafka"].next_offsets == {P0: 20, P1: 10}
    assert newest.sources["kafka"].lost == plan.sources["kafka"].ranges
    claim = stream.checkpoint.read_writer(2)
    assert claim is not None
    assert claim.owner.endswith(f" pid {os.getpid()} (resolve)")
    with pytest.raises(Fenced):
        driver.commit(stream.marker(plan))
    assert newest_of(stream) == newest
    assert run("verify", stream.location).exit_code == 0


def test_abandon_gives_the_offsets_back(stream: HandMadeStream) -> None:
    stream.run(0)
    before = dict(stream.next_offsets)
    stream.plan(1)
    assert run("resolve", stream.location, "--batch", 1, "--abandon", "--yes").exit_code == 0
    newest = newest_of(stream)
    assert (newest.outcome, newest.sources["kafka"].next_offsets, newest.offsets_lost) == (
        "abandoned",
        before,
        {"kafka": 0},
    )
    stream.claim()
    stream.publish(newest)
    stream.next_offsets = dict(newest.sources["kafka"].next_offsets)
    stream.run(2)
    assert newest_of(stream).records_read == 15
    assert run("verify", stream.location).exit_code == 0


@pytest.mark.parametrize(
    ("flag", "meaning"),
    [
        ("--skip", "--skip goes on behind these 15 offsets. Their records will never be written"),
        ("--abandon", "--abandon gives the batch up and loses nothing"),
    ],
)
def test_resolve_says_what_it_means_before_it_asks(stream: HandMadeStream, flag: str, meaning: str) -> None:
    stream.run(0)
    stream.plan(1)
    result = run("resolve", stream.location, "--batch", 1, flag, answer="n\n")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[:5] == [
        "Batch 1 was to read",
        "source  partition  from  up to  offsets",
        "───────────────────────────────────────",
        "kafka   orders-0     10     20       10",
        "kafka   orders-1      5     10        5",
    ]
    assert meaning in result.stdout
    assert "will stop as fenced." in result.stdout
    assert (result.exit_code, newest_of(stream).batch_id) == (1, 0)


@pytest.mark.parametrize("flags", [[], ["--skip", "--abandon"]])
def test_resolve_wants_one_decision(stream: HandMadeStream, flags: list[str]) -> None:
    stream.plan(0)
    result = run("resolve", stream.location, "--batch", 0, "--yes", *flags)
    assert result.exit_code == 2
    assert "either --skip, --abandon or --reject" in result.stderr
    assert stream.checkpoint.newest_marker() is None


def refused(stream: HandMadeStream, batch_id: int, flag: str) -> str:
    before = stream.everything()
    result = run("resolve", stream.location, "--batch", batch_id, flag, "--yes")
    assert (result.exit_code, stream.everything()) == (2, before)
    return result.stderr


def test_resolve_refuses_any_other_batch(stream: HandMadeStream) -> None:
    stream.run(0, 1)
    assert "there is none: the next start plans again." in refused(stream, 2, "--skip")
    stream.plan(2)
    assert "is decided: it has a commit marker, which never changes" in refused(stream, 1, "--skip")
    assert "which is batch 2." in refused(stream, 3, "--abandon")


def test_a_batch_with_another_planned_behind_it_is_only_skipped(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.plan(1)
    stream.plan(2)
    assert "its offsets would be read by none" in refused(stream, 1, "--abandon")
    assert run("resolve", stream.location, "--batch", 1, "--skip", "--yes").exit_code == 0


@pytest.mark.parametrize("decided_before", [0, 1])
def test_an_unreadable_plan_is_only_abandoned(stream: HandMadeStream, decided_before: int) -> None:
    stream.run(*range(decided_before)) if decided_before else None
    before = dict(stream.next_offsets)
    stream.plan(decided_before)
    stream.corrupt_plan(decided_before)
    assert "use --abandon" in refused(stream, decided_before, "--skip")
    assert run("resolve", stream.location, "--batch", decided_before, "--abandon", "--yes").exit_code == 0
    newest = newest_of(stream)
    assert (newest.outcome, newest.sources["kafka"].next_offsets) == ("abandoned", before)
    recovery = stream.claim().recover()
    assert (recovery.next_batch_id, recovery.replays) == (decided_before + 1, ())


def test_a_batch_that_the_output_already_holds_is_not_passed(stream: HandMadeStream) -> None:
    stream.run(0, 1)
    stream.path(commits_key(1)).unlink()
    result = run("resolve", stream.location, "--batch", 1, "--abandon", "--yes")
    assert result.exit_code == 5
    assert result.stderr.startswith(f"SinkAhead: sink 'files': {stream.output} holds batch 1 already")
    assert not stream.path(commits_key(1)).exists()


@contextlib.contextmanager
def while_asking(monkeypatch: pytest.MonkeyPatch, do: Any) -> Iterator[None]:
    def confirm(*_: object, **__: object) -> bool:
        do()
        return True

    monkeypatch.setattr(click, "confirm", confirm)
    yield


def test_the_driver_commits_while_the_person_thinks(stream: HandMadeStream, monkeypatch: pytest.MonkeyPatch) -> None:
    stream.run(0)
    marker = stream.marker(stream.plan(1))
    with while_asking(monkeypatch, lambda: stream.writer.commit(marker)):
        result = run("resolve", stream.location, "--batch", 1, "--skip")
    assert result.exit_code == 2
    assert "Nothing was passed" in result.stderr
    assert newest_of(stream) == marker


def test_the_driver_commits_between_the_last_look_and_the_marker(
    stream: HandMadeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.run(0)
    marker = stream.marker(stream.plan(1))
    put_if_absent = type(stream.checkpoint.store).put_if_absent

    def too_late(store: ObjectStore, key: str, body: bytes) -> Any:
        if key == commits_key(1):
            monkeypatch.undo()
            stream.checkpoint.create_marker(marker)
        return put_if_absent(store, key, body)

    monkeypatch.setattr(type(stream.checkpoint.store), "put_if_absent", too_late)
    result = run("resolve", stream.location, "--batch", 1, "--skip", "--yes")
    assert (result.exit_code, newest_of(stream)) == (2, marker)


def test_another_plan_appears_while_the_person_thinks(stream: HandMadeStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody restores another copy of the plan: what was agreed to is not what would be lost."""
    stream.run(0)
    plan = stream.plan(1)
    source = {**plan.to_json()["sources"]["kafka"], "ranges": {}}
    with while_asking(
        monkeypatch, lambda: stream.change("offsets/00000000000000000001.json", sources={"kafka": source})
    ):
        result = run("resolve", stream.location, "--batch", 1, "--skip")
    assert result.exit_code == 2
    assert "changed in the meantime" in result.stderr
    assert newest_of(stream).batch_id == 0
