"""A stream from a write-ahead log that is killed, and a log that is swept as soon as it may be: nothing is lost or repeated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from beam_exactly_once.errors import EXIT_DONE
from beam_exactly_once.wal.readers import WalReader
from support.lives import life, values_in
from support.wal.streams import append, location, numbers, sweep, to_files

pytestmark = pytest.mark.runs_on("DirectRunner")

TELLING = ("readers/", "sources/", "offsets/", "commits/")
"""What is created there tells of a source: what it needs of the log, where it begins, what is decided."""


def filled(work_dir: Path) -> Path:
    """40 records. Another stream has read them all, so that only the stream under test keeps anything."""
    append(work_dir, numbers(range(16)))
    append(work_dir, numbers(range(16, 30)))  # behind a claim
    append(work_dir, numbers(range(30, 40)), partition=1)
    WalReader(location(work_dir), "other", "wal").finished(0, {0: 10**6, 1: 10**6})
    return work_dir


def test_killed_whenever_it_has_told_something_and_the_log_swept_then(tmp_path: Path) -> None:
    untouched, undisturbed = filled(tmp_path / "untouched"), tmp_path / "undisturbed"
    shutil.copytree(untouched, undisturbed)
    with life(undisturbed, log=undisturbed / "calls", build=to_files) as alone:
        assert alone.wait() == EXIT_DONE
    calls = (undisturbed / "calls").read_text().splitlines()
    telling = [
        number
        for number, call in enumerate(calls, start=1)
        if call.startswith(tuple(f"put_if_absent {one}" for one in TELLING))
    ]
    told = [calls[number - 1].split()[1].partition("/")[0] for number in telling]
    assert told == ["readers", "sources", *["offsets", "commits"] * 2]
    for number in telling:
        work_dir = tmp_path / str(number)
        shutil.copytree(untouched, work_dir)
        print(f"killed after call {number}: {calls[number - 1]}")
        with life(work_dir, kill_after=f"any::{number}", build=to_files) as first:
            assert first.wait() == -9
        assert sweep(work_dir) == [0, 0], "it holds all: it may start again where it began"
        append(work_dir, numbers(range(40, 44)))
        with life(work_dir, build=to_files) as second:
            assert second.wait() == EXIT_DONE
        has_batches = any(call.startswith("put_if_absent commits/") for call in calls[:number])
        assert (sweep(work_dir) > [0, 0]) == has_batches, "what its oldest batch has read is let go at its next start"
        assert values_in(work_dir / "output") == sorted(numbers(range(44)))
