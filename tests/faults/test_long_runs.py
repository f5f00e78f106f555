"""What a stream holds does not grow: with the number of batches, of partitions, of files, or with the lag."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles, read_batches
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import StoreCalls, watching

MEGABYTE = 1 << 20
PROGRAMS = Path(__file__).parents[1] / "support"


def run_program(name: str, *arguments: str) -> Any:
    """Run a program of ``tests/support`` in a process of its own; it prints one JSON line at its end."""
    child = subprocess.run(
        [sys.executable, str(PROGRAMS / name), *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "runner",
    [
        pytest.param(runner, marks=pytest.mark.runs_on(runner, trigger="ProcessingTime"))
        for runner in ("DirectRunner", "FnApiRunner")
    ],
)
def test_300_batches_in_one_process_leave_memory_threads_and_files_as_they_were(runner: str, tmp_path: Path) -> None:
    after_50, after_300 = run_program("many_batches.py", runner, "300", str(tmp_path))
    print(after_50, after_300)
    assert after_300["rss_bytes"] - after_50["rss_bytes"] <= 10 * MEGABYTE
    for held in ("threads", "open_files", "temporary_files"):
        assert after_300[held] == after_50[held], held


@pytest.mark.runs_on("DirectRunner")
@pytest.mark.parametrize("partitions", [1, 1000])
def test_a_batch_costs_the_same_few_calls_whatever_the_partitions(partitions: int, tmp_path: Path) -> None:
    cluster = MemoryKafka({"orders": partitions})
    cluster.append(Record("orders", number % partitions, value=b"x") for number in range(4 * partitions))
    calls = StoreCalls(None, lambda: None)
    with cluster.serving(), watching(calls), ExactlyOnceStream(str(tmp_path / "checkpoint")) as stream:
        _ = (
            stream
            | ReadFromKafka("memory:9092", ["orders"], max_batch_offsets=partitions)
            | WriteToFiles(str(tmp_path / "output"))
        )
    first = next(
        index for index, (method, key) in enumerate(calls.log) if (method, key[:8]) == ("put_if_absent", "offsets/")
    )
    checkpoint = [
        (method, key) for method, key in calls.log[first:] if key.startswith(("offsets/", "commits/", "writers/"))
    ]
    # Counted from the first plan; the GET before that plan is the fourth batch's third.
    assert Counter(method for method, _ in checkpoint) == {"put_if_absent": 2 * 4, "get": 3 * 4 - 1, "list": 4}
    assert [call for call in calls.log[first:] if call[0] == "list"] == [("list", "commits/")] * 4


@pytest.mark.runs_on("DirectRunner")
def test_ten_thousand_files_in_a_batch(tmp_path: Path) -> None:
    """Each is published once, and the marker stays small: the list of files is in an object of its own."""
    cluster = MemoryKafka({"orders": 1})
    cluster.append(Record("orders", 0, value=b"%d" % number) for number in range(10_100))
    with cluster.serving(), ExactlyOnceStream(f"memory://{tmp_path}/checkpoint") as stream:
        _ = (
            stream
            | ReadFromKafka("memory:9092", ["orders"])
            | WriteToFiles(f"memory://{tmp_path}/output", format="json", max_file_bytes=1)
        )
    (batch,) = read_batches(f"memory://{tmp_path}/output")
    assert batch.rows_written == 10_100
    assert len({file.name for file in batch.files}) == len(batch.files) >= 10_000


@pytest.mark.runs_on("DirectRunner")
def test_memory_is_bounded_on_a_lag_of_one_gigabyte(tmp_path: Path) -> None:
    """Default limits, a shuffle of everything by the user, records of 10 kB."""
    found = run_program("large_lag.py", "1000000000", str(tmp_path))
    print(found)
    assert found["bytes_read"] >= 1_000_000_000
    assert found["rss_peak_bytes"] - found["rss_before_bytes"] <= found["bound_bytes"]
