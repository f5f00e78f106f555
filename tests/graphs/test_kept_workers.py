"""Several workers, in threads and in processes, stay from batch to batch: by value, and who calls their steps."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.pvalue import AsSingleton

from beam_exactly_once.pipelines.runners import kept_workers
from graphs.known_streams import NumberStream, number_stream
from graphs.steps import ungrouped
from graphs.test_kept_steps import Seen, plus_value
from graphs.timed_steps import same_key

pytestmark = pytest.mark.runs_on("DirectRunner")

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


class Ending(beam.DoFn):
    """Sends its own process a signal, where the file for that number says which; each only once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def process(self, number: int) -> list[int]:
        told = self._folder / f"at-{number}"
        if told.exists():
            which = int(told.read_text())
            told.unlink()
            os.kill(os.getpid(), which)
        return [number]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Beam's, when a connection breaks
def test_a_batch_whose_worker_is_gone_is_run_again_with_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed in a step, and stopped in a step."""
    monkeypatch.setattr(kept_workers, "STOPPED_MAX_S", 0.1)
    (tmp_path / "at-3").write_text(str(int(signal.SIGKILL)))
    (tmp_path / "at-5").write_text(str(int(signal.SIGSTOP)))

    def build(numbers: Numbers, to: NumberStream) -> None:
        to.write(numbers | beam.ParDo(Ending(tmp_path)))

    with number_stream("one_process", tmp_path) as stream:
        stream.send(range(6))

        stream.start(build, a_batch=2)

        assert stream.published() == [[0, 1], [2, 3], [4, 5]]
    lost = [record.message for record in caplog.records if "lost its runner" in record.message]
    assert len(lost) == 2
    assert "ended with exit code -9" in lost[0]
    assert "was stopped by a signal" in lost[1]
