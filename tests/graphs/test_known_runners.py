"""What does not depend on how FnApiRunner is run: on the number and kind of its workers, or who else has the same runner.

Workers stay from batch to batch, and each calls its steps in one thread.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.pvalue import AsSingleton
from apache_beam.runners.direct.direct_runner import DirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment

from beam_exactly_once import ForEachBatch
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.runners import kept_workers
from beam_exactly_once.pipelines.runners.whole_elements import WholeElementWorkers
from graphs.known_streams import NumberStream, number_stream
from graphs.runners import RUNNERS, Runner, import_path
from graphs.steps import Deferring, row, ungrouped
from graphs.test_kept_steps import Seen, plus_value
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


# -- workers that stay ---------------------------------------------------------------------------------------------

Numbers = beam.PCollection[int]
SEVERAL = ["two_workers", "threads", "processes"]


class NotingInFiles(beam.DoFn):
    """Notes in a file of its process and thread when it is set up, begins, and is torn down."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def setup(self) -> None:
        self._note("setup")

    def start_bundle(self) -> None:
        self._note("bundle")

    def process(self, number: int) -> list[int]:
        return [number]

    def teardown(self) -> None:
        self._note("teardown")

    def _note(self, what: str) -> None:
        with (self._folder / f"{os.getpid()}-{threading.get_native_id()}").open("a") as file:
            file.write(f"{what}\n")


@pytest.mark.parametrize("runner", SEVERAL)
def test_each_worker_sets_its_steps_up_once_a_stream_and_calls_them_in_one_thread(runner: str, tmp_path: Path) -> None:
    steps_are_set_up_once_in_a_thread_of_their_worker(runner, tmp_path)


def steps_are_set_up_once_in_a_thread_of_their_worker(runner: str, folder: Path) -> None:
    notes = folder / "notes"
    notes.mkdir(parents=True)

    def build(numbers: Numbers, to: NumberStream) -> None:
        to.write(numbers | beam.Reshuffle() | beam.ParDo(NotingInFiles(notes)))

    with number_stream(runner, folder) as stream:
        stream.send(range(12))

        stream.start(build, a_batch=4)

        assert stream.published() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    noted = [file.read_text().split() for file in notes.iterdir()]
    assert noted == [["setup", "bundle", "bundle", "bundle", "teardown"]] * 2


@pytest.mark.parametrize("runner", SEVERAL)
def test_state_timers_and_side_inputs_are_those_of_one_batch(runner: str, tmp_path: Path) -> None:
    nothing_of_a_batch_reaches_the_next_one(runner, tmp_path)


def nothing_of_a_batch_reaches_the_next_one(runner: str, folder: Path) -> None:
    def build(numbers: Numbers, to: NumberStream) -> None:
        keyed = numbers | beam.Map(same_key).with_output_types(tuple[int, int])
        to.write(keyed | beam.ParDo(Seen()), "seen")
        to.write(keyed | beam.GroupIntoBatches(2) | beam.FlatMap(ungrouped), "grouped")
        total = numbers | beam.CombineGlobally(sum)
        to.write(numbers | beam.Reshuffle() | beam.Map(plus_value, AsSingleton(total)), "plus")

    with number_stream(runner, folder) as stream:
        stream.send([1, 1, 1, 2, 2, 2, 3, 3, 3])

        stream.start(build, a_batch=3, allow_per_batch=True)

        assert stream.published("seen") == [[1, 2, 3], [2, 4, 6], [3, 6, 9]]
        assert stream.published("grouped") == [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
        assert stream.published("plus") == [[103] * 3, [206] * 3, [309] * 3]


def test_where_beam_lacks_a_name_workers_are_started_for_each_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kept_workers, "_NEEDED", ((kept_workers, "in_another_release"),))
    notes = tmp_path / "notes"
    notes.mkdir()

    def build(numbers: Numbers, to: NumberStream) -> None:
        to.write(numbers | beam.ParDo(NotingInFiles(notes)))

    with number_stream("one_thread", tmp_path) as stream:
        stream.send(range(4))

        stream.start(build, a_batch=2)

        assert stream.published() == [[0, 1], [2, 3]]
    noted = sorted(what for file in notes.iterdir() for what in file.read_text().split())
    assert noted == ["bundle", "bundle", "setup", "setup", "teardown", "teardown"]
    assert [record.message for record in caplog.records if "in_another_release" in record.message] == [
        "workers are started anew for each batch: there is no "
        "beam_exactly_once.pipelines.runners.kept_workers.in_another_release, by which they could stay"
    ]


def end_if_told(folder: Path, where: str) -> None:
    """Send the own process a signal, where a file says which; only once."""
    told = folder / where
    if told.exists():
        which = int(told.read_text())
        told.unlink()
        os.kill(os.getpid(), which)


class Ending(beam.DoFn):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def process(self, number: int) -> list[int]:
        end_if_told(self._folder, str(number))
        return [number]


class EndingBehindTheMarker:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, rows: Any) -> None:
        end_if_told(self._folder, "commit")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Beam's, when a connection breaks
def test_a_batch_whose_worker_is_gone_is_run_again_with_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed in a commit, killed in a step, and stopped in a step."""
    monkeypatch.setattr(kept_workers, "STOPPED_MAX_S", 0.1)
    for where, which in {"commit": signal.SIGKILL, "3": signal.SIGKILL, "5": signal.SIGSTOP}.items():
        (tmp_path / where).write_text(str(int(which)))

    def build(numbers: Numbers, to: NumberStream) -> None:
        to.write(numbers | beam.ParDo(Ending(tmp_path)))
        _ = numbers | beam.Map(row) | ForEachBatch(EndingBehindTheMarker(tmp_path), schema=pa.schema({"v": pa.int64()}))

    with number_stream("one_process", tmp_path) as stream:
        stream.send(range(6))

        stream.start(build, a_batch=2)

        assert stream.published() == [[0, 1], [2, 3], [4, 5]]
    lost = [record.message for record in caplog.records if "lost its runner" in record.message]
    assert len(lost) == 3
    assert "ended with exit code -9" in lost[0]
    assert "ended with exit code -9" in lost[1]
    assert "was stopped by a signal" in lost[2]
