"""A stream that is killed after any kind of write to a store, or frozen after any kind of call, loses and repeats nothing.

After every single one it is killed in memory: by the simulation, and by the stories of sinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from beam_exactly_once.errors import EXIT_DONE, EXIT_FENCED
from beam_exactly_once.testing.crashing import READS
from beam_exactly_once.testing.sink_world import ends_of_kinds
from support.lives import assert_exactly_once, folders, life, rejecting, values_in

pytestmark = pytest.mark.runs_on("DirectRunner")


def of_each_kind(calls: Sequence[str]) -> list[tuple[int, str]]:
    """The first and the last call of each method in each folder, with their numbers."""
    return ends_of_kinds(calls, lambda call: call.rpartition("/")[0])


def writes_of_each_kind(calls: Sequence[str]) -> list[tuple[int, str]]:
    """Without those that read: a driver that is killed after one leaves what it left before. One that is frozen may not."""
    return [(number, call) for number, call in of_each_kind(calls) if call.split()[0] not in READS]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Every call that an undisturbed life makes, in order."""
    work_dir = tmp_path_factory.mktemp("undisturbed")
    with life(work_dir, log=work_dir / "calls") as undisturbed:
        assert undisturbed.wait() == EXIT_DONE
    assert_exactly_once(work_dir)
    return (work_dir / "calls").read_text().splitlines()


def test_an_undisturbed_life_makes_the_calls_that_the_protocol_says(calls: list[str]) -> None:
    """Three batches: each two creates, three GETs and one LIST in the checkpoint; its file and manifest besides.
    The last one is noted to be published."""
    first_plan = next(index for index, call in enumerate(calls) if call.startswith("put_if_absent offsets/"))
    per_batch = [call for call in calls[first_plan - 1 :] if "part-" not in call and "_batches/" not in call]
    assert per_batch == [
        call
        for batch in range(3)
        for call in (
            "get writers/00000000000000000001.json",
            f"put_if_absent offsets/{batch:020d}.json",
            f"put_if_absent commits/{batch:020d}.json",
            "get writers/00000000000000000002.json",
            "get writers/00000000000000000001.json",
            "list commits/",
        )
    ] + [f"put_if_absent published/{2:020d}.json"]


def test_killed_after_any_kind_of_write(calls: list[str], tmp_path: Path) -> None:
    for number, call in writes_of_each_kind(calls):
        work_dir = tmp_path / str(number)
        print(f"killed after call {number}: {call}")
        with life(work_dir, kill_after=f"any::{number}") as first:
            assert first.wait() == -9
        with life(work_dir) as second:
            assert second.wait() == EXIT_DONE
        assert_exactly_once(work_dir)


def test_killed_while_the_files_of_several_folders_are_staged_and_published(tmp_path: Path) -> None:
    with life(tmp_path / "undisturbed", log=tmp_path / "calls", build=folders) as undisturbed:
        assert undisturbed.wait() == EXIT_DONE
    assert_exactly_once(tmp_path / "undisturbed")
    calls = (tmp_path / "calls").read_text().splitlines()
    of_files = [number for number, call in enumerate(calls, start=1) if " topic=orders/partition=" in call]
    assert len(of_files) >= 8, "a file a folder and batch, staged and published"
    for number in (of_files[0], of_files[1], of_files[-2], of_files[-1]):
        work_dir = tmp_path / str(number)
        print(f"killed after call {number}: {calls[number - 1]}")
        with life(work_dir, kill_after=f"any::{number}", build=folders) as first:
            assert first.wait() == -9
        with life(work_dir, build=folders) as second:
            assert second.wait() == EXIT_DONE
        assert_exactly_once(work_dir)


def test_killed_while_rejected_records_are_staged_committed_and_published(tmp_path: Path) -> None:
    """Undecodable ones, and those that the sink cannot write, each in an output of its own, of the same batches."""
    rejected = ("undecodable", "unfit")
    with life(tmp_path / "undisturbed", log=tmp_path / "calls", build=rejecting) as undisturbed:
        assert undisturbed.wait() == EXIT_DONE
    assert_exactly_once(tmp_path / "undisturbed", *rejected)
    found = {name: values_in(tmp_path / "undisturbed" / name) for name in rejected}
    assert found == {"undecodable": [b"0-3", b"3-3"], "unfit": [b"0-10", b"0-11", b"0-8", b"0-9"]}
    calls = list(enumerate((tmp_path / "calls").read_text().splitlines(), start=1))
    last_plan = max(number for number, call in calls if call.startswith("put_if_absent offsets/"))
    of_last_batch = [
        (number, call)
        for number, call in calls[last_plan:]
        if any(name in call for name in ("part-", "_batches/0", " commits/0"))
    ]
    assert len(of_last_batch) >= 7, "its marker, and of each of three outputs a file and a manifest"
    for number, call in of_last_batch:
        work_dir = tmp_path / str(number)
        print(f"killed after call {number}: {call}")
        with life(work_dir, kill_after=f"any::{number}", build=rejecting) as first:
            assert first.wait() == -9
        with life(work_dir, build=rejecting) as second:
            assert second.wait() == EXIT_DONE
        assert_exactly_once(work_dir, *rejected)
        assert {name: values_in(work_dir / name) for name in rejected} == found


def test_killed_again_while_recovering(tmp_path: Path) -> None:
    """The first life dies between commit and publish of a batch, the second after any kind of write of its recovery."""
    committed = "put_if_absent:commits/:2"
    with life(tmp_path / "watched", kill_after=committed) as first:
        assert first.wait() == -9
    with life(tmp_path / "watched", log=tmp_path / "recovery") as second:
        assert second.wait() == EXIT_DONE
    for number, call in writes_of_each_kind((tmp_path / "recovery").read_text().splitlines()):
        work_dir = tmp_path / str(number)
        print(f"second life killed after its call {number}: {call}")
        with life(work_dir, kill_after=committed) as first:
            assert first.wait() == -9
        with life(work_dir, kill_after=f"any::{number}") as second:
            assert second.wait() == -9
        with life(work_dir) as third:
            assert third.wait() == EXIT_DONE
        assert_exactly_once(work_dir)


def test_frozen_after_any_kind_of_call_while_a_second_driver_goes_on(calls: list[str], tmp_path: Path) -> None:
    """The first driver wakes when the second has done all the work. It may finish or find itself fenced, no more."""
    for number, call in of_each_kind(calls):
        work_dir = tmp_path / str(number)
        print(f"frozen after call {number}: {call}")
        with life(work_dir, kill_after=f"any::{number}", freeze=True) as first:
            assert first.wait_frozen()
            with life(work_dir) as second:
                assert second.wait() == EXIT_DONE
            assert_exactly_once(work_dir)
            first.thaw()
            assert first.wait() in (EXIT_DONE, EXIT_FENCED)
        assert_exactly_once(work_dir)


def test_frozen_between_commit_and_publish_while_a_second_driver_is_killed_there_too(tmp_path: Path) -> None:
    with life(tmp_path, kill_after="put_if_absent:commits/:1", freeze=True) as first:
        assert first.wait_frozen()
        with life(tmp_path, kill_after="put_if_absent:commits/:1") as second:
            assert second.wait() == -9
        first.thaw()
        assert first.wait() == EXIT_FENCED
    with life(tmp_path) as third:
        assert third.wait() == EXIT_DONE
    assert_exactly_once(tmp_path)
