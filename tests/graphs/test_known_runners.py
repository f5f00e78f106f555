"""What does not depend on how FnApiRunner is run: on the number and kind of its workers, or who else has the same runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.direct.direct_runner import DirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.runners.whole_elements import WholeElementWorkers
from graphs.known_streams import NumberStream, number_stream
from graphs.runners import RUNNERS, Runner, import_path
from graphs.steps import Deferring, ungrouped
from graphs.timed_steps import same_key

pytestmark = pytest.mark.runs_on("DirectRunner")

BARRIER_TIMEOUT_S = 300.0
PROGRAM_TIMEOUT_S = 300.0


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_a_splittable_dofn_defers_is_read_by_any_number_of_workers(runner: str, tmp_path: Path) -> None:
    def build(numbers: beam.PCollection[int], to: NumberStream) -> None:
        to.write(numbers | beam.Reshuffle() | beam.ParDo(Deferring()))

    with number_stream(runner, tmp_path) as stream:
        stream.send([10, 20, 30, 40, 50])

        stream.start(build, a_batch=4)

        assert stream.published() == [[10, 11, 20, 21, 30, 31, 40, 41], [50, 51]]


@pytest.mark.parametrize("runner", RUNNERS)
def test_bundles_that_are_repeated_for_a_profile_add_nothing(runner: str, tmp_path: Path) -> None:
    """Beam's option for it runs each bundle once more, and throws away what it made and kept."""

    def build(numbers: beam.PCollection[int], to: NumberStream) -> None:
        keyed = numbers | beam.Reshuffle() | beam.Map(same_key).with_output_types(tuple[int, int])
        to.write(keyed | beam.GroupIntoBatches(2) | beam.FlatMap(ungrouped))

    known = RUNNERS[runner]
    with number_stream(
        Runner((*known.options, "--direct_runner_bundle_repeat=1"), known.shares_memory), tmp_path
    ) as stream:
        stream.send([10, 20, 30, 40, 50])

        stream.start(build)

        assert stream.published() == [[10, 20, 30, 40, 50]]


SPLITS = """--direct_test_splits={"ParDo(Deferring)": {"timings": [0, 0], "fractions": [0.5, 0.5]}}"""


def test_splits_for_tests_are_refused_where_they_would_lose_the_input() -> None:
    with number_stream(Runner((SPLITS,))) as stream:
        stream.send([10, 20, 30])

        with pytest.raises(ConfigurationError, match="multi_threading"):
            stream.start(lambda numbers, to: to.write(numbers | beam.ParDo(Deferring())))


@pytest.mark.parametrize("runner", ["one_thread", "threads"])
def test_what_a_split_takes_away_is_read_by_any_number_of_workers(runner: str) -> None:
    with number_stream(Runner((*RUNNERS[runner].options, SPLITS))) as stream:
        stream.send([10, 20, 30])

        stream.start(lambda numbers, to: to.write(numbers | beam.Reshuffle() | beam.ParDo(Deferring())))

        assert stream.published() == [[10, 11, 20, 21, 30, 31]]


@pytest.mark.parametrize("cache_mb", [None, 5])
def test_no_side_flushes_by_time_and_other_pipelines_are_as_beam_makes_them(
    cache_mb: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, used = WholeElementWorkers.get_worker_handlers, []

    def noting(self: Any, *arguments: Any) -> Any:
        handlers = get(self, *arguments)
        used.extend(handlers)
        return handlers

    monkeypatch.setattr(WholeElementWorkers, "get_worker_handlers", noting)
    runner = FnApiRunner(default_environment=EmbeddedPythonGrpcEnvironment(state_cache_size=cache_mb))
    with number_stream() as stream:
        stream.send([1, 2])

        stream.start(lambda numbers, to: to.write(numbers), runner=runner)

        assert stream.published() == [[1, 2]]
    assert used
    for handler in used:
        assert handler.data_conn._data_buffer_time_limit_ms <= 0
        assert handler.worker._data_channel_factory._data_buffer_time_limit_ms <= 0
        assert handler._state_cache_size == (cache_mb or worker_handlers.STATE_CACHE_SIZE_MB) << 20
    assert worker_handlers.DATA_BUFFER_TIME_LIMIT_MS == 1000


def test_the_runner_that_beam_makes_by_default_may_be_given_as_an_instance() -> None:
    with number_stream() as stream:
        stream.send([1, 2])

        stream.start(lambda numbers, to: to.write(numbers), runner=DirectRunner())

        assert stream.published() == [[1, 2]]


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
