"""What does not depend on how FnApiRunner is run: on the number and kind of its workers, or who else has the same runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from graphs.known_streams import NumberStream, number_stream
from graphs.runners import RUNNERS, import_path
from graphs.steps import Deferring

pytestmark = pytest.mark.runs_on("DirectRunner")

BARRIER_TIMEOUT_S = 60.0
PROGRAM_TIMEOUT_S = 60.0


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_a_splittable_dofn_defers_is_read_by_any_number_of_workers(runner: str, tmp_path: Path) -> None:
    def build(numbers: beam.PCollection[int], to: NumberStream) -> None:
        to.write(numbers | beam.Reshuffle() | beam.ParDo(Deferring()))

    with number_stream(runner, tmp_path) as stream:
        stream.send([10, 20, 30, 40, 50])

        stream.start(build, a_batch=4)

        assert stream.published() == [[10, 11, 20, 21, 30, 31, 40, 41], [50, 51]]


@pytest.mark.parametrize("runner", ["one_thread", "threads"])
def test_elements_of_a_long_bundle_stay_whole(runner: str) -> None:
    """Beam's worker threads send after each second what they have: that must not be half an element."""
    program = [sys.executable, str(Path(__file__).with_name("long_bundle.py")), runner]

    ended = subprocess.run(
        program,
        env={**os.environ, "PYTHONPATH": import_path()},
        timeout=PROGRAM_TIMEOUT_S,
        stdout=subprocess.PIPE,
        check=False,
    )

    assert ended.returncode == 0
    assert json.loads(ended.stdout) == [[2, 101]]


def test_two_streams_may_share_one_runner_one_after_the_other() -> None:
    runner = FnApiRunner()
    with number_stream() as first:
        second = first.another()
        for stream, numbers in ((first, [1, 2]), (second, [3, 4]), (first, [5])):
            stream.send(numbers)

            stream.start(lambda numbers, to: to.write(numbers), runner=runner)

        assert first.published() == [[1, 2], [5]]
        assert second.published() == [[3, 4]]


_both_are_running: Callable[[], object] = lambda: None  # noqa: E731 (a step finds it here by its name)


def meet(value: int) -> int:
    _both_are_running()
    return value


def test_two_streams_may_share_one_runner_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of each waits until one of the other is running."""
    barrier = threading.Barrier(2, timeout=BARRIER_TIMEOUT_S)
    monkeypatch.setitem(globals(), "_both_are_running", barrier.wait)
    runner = FnApiRunner()
    errors: list[Exception] = []

    def start(stream: NumberStream) -> None:
        try:
            stream.start(lambda numbers, to: to.write(numbers | beam.Map(meet)), runner=runner)
        except Exception as error:
            barrier.abort()
            errors.append(error)

    with number_stream() as first:
        second = first.another()
        first.send([1])
        second.send([2])
        threads = [threading.Thread(target=start, args=[stream]) for stream in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert errors == []
        assert first.published() == [[1]]
        assert second.published() == [[2]]
