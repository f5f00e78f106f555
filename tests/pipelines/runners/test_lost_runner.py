"""A runner is lost in a batch, and the driver goes on: as its next start would, and for so long and no longer."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pytest

from beam_exactly_once import BatchProgress, ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles, read_batches
from beam_exactly_once.checkpoint import Attempt, StreamWriter, layout
from beam_exactly_once.errors import Fenced, Retryable, RunnerUnavailable, StepFailed, StoreUnavailable
from beam_exactly_once.pipelines.runners.lost_runner import FIRST_PAUSE_S, GIVE_UP_S, MAX_ATTEMPTS, LostRunner
from beam_exactly_once.pipelines.runners.repeated_run import RunTask
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.commit_counts import CommitCounts
from support.stream_under_test import opened
from support.timers.timed_stream import RunningClock

RECORDS = 6
Run = Callable[[BatchTask], CommitCounts]


def lost() -> None:
    raise RunnerUnavailable("the worker is gone")


class Stream:
    """Six records, two a batch, on a runner that is lost as a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = RunningClock()
        self.progress: list[BatchProgress] = []
        self.attempts: list[Attempt] = []
        self.published_only: list[int] = []
        """Batches that were run without a plan."""
        self.kafka = MemoryKafka({"orders": 1})
        self.kafka.append(Record("orders", value=b'{"id": %d}' % number) for number in range(RECORDS))

    def run(self, runner: Callable[[BatchTask, Run], CommitCounts]) -> None:
        """One life. ``runner`` is given what DirectRunner would run, and how."""
        noted = self

        class OnThatRunner(ExactlyOnceStream):
            def _drive(self, run_task: RunTask) -> None:
                def run(task: BatchTask) -> CommitCounts:
                    noted.attempts.append(task.attempt)
                    if task.plan is None:
                        noted.published_only.append(task.attempt.batch_id)
                    return runner(task, run_task)

                self._clock = noted.clock
                super()._drive(run)

        with self.kafka.serving(), OnThatRunner(self.checkpoint, listeners=self.progress.append) as stream:
            read = ReadFromKafka("memory:9092", ["orders"], max_batch_offsets=2)
            rows = stream | read | beam.Map(lambda record: json.loads(record.value))
            _ = rows | WriteToFiles(f"{self.folder}/output", format="json")

    @property
    def checkpoint(self) -> str:
        return f"{self.folder}/checkpoint"

    def rows(self) -> list[int]:
        files = [
            file.uri.removeprefix("file://") for batch in read_batches(f"{self.folder}/output") for file in batch.files
        ]
        return [json.loads(line)["id"] for file in files for line in Path(file).read_text().splitlines()]

    def assert_exactly_once(self) -> None:
        assert self.rows() == list(range(RECORDS))
        assert len(set(self.attempts)) == len(self.attempts)
        assert len({one.nonce for one in self.attempts}) == len(self.attempts)


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return Stream(tmp_path)


@pytest.mark.parametrize("moment", ["before the run", "before the marker", "behind the marker", "behind the publish"])
def test_a_batch_whose_runner_is_lost_goes_on_in_the_driver(
    stream: Stream, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is run again while it is undecided, and only published once it is decided."""
    in_store = StoreCalls(None, lost)
    if moment.endswith("marker"):
        in_store = StoreCalls(KillPoint("put_if_absent", layout.COMMITS, 2, moment.startswith("before")), lost)

    def runner(task: BatchTask, run: Run) -> CommitCounts:
        is_lost = moment.endswith(("run", "publish")) and task.attempt.batch_id == 1 and len(stream.attempts) == 2
        if is_lost and moment.startswith("before"):
            lost()
        counts = run(task)
        if is_lost:
            lost()
        return counts

    with caplog.at_level(logging.WARNING), watching(in_store):
        stream.run(runner)

    stream.assert_exactly_once()
    assert [(one.batch_id, one.records_read, one.attempts_lost) for one in stream.progress] == [
        (0, 2, 0),
        (1, 2, 1),
        (2, 2, 0),
    ]
    assert stream.published_only == ([1] if moment.startswith("behind") else [])
    assert [(one.batch_id, one.writer_epoch) for one in stream.attempts] == [(0, 1), (1, 1), (1, 2), (2, 2)]
    does = "publishes" if stream.published_only else "runs"
    said = f"batch 1 lost its runner, for time 1, and writer 2 {does} it again: the worker is gone"
    assert [line.getMessage() for line in caplog.records if line.name.startswith("beam_exactly_once")] == [said]


def test_the_publish_of_a_start_goes_on_too(stream: Stream) -> None:
    stream.clock.stops_at_s = 0
    with watching(StoreCalls(KillPoint("put_if_absent", layout.COMMITS, 2), lost)), pytest.raises(RunnerUnavailable):
        stream.run(lambda task, run: run(task))
    stream.clock.stops_at_s = 1e9

    stream.run(lost_at(1, times=2))

    stream.assert_exactly_once()
    assert stream.published_only == [1, 1, 1]


def lost_at(batch_id: int, *, times: int) -> Callable[[BatchTask, Run], CommitCounts]:
    left = times

    def runner(task: BatchTask, run: Run) -> CommitCounts:
        nonlocal left
        if task.attempt.batch_id == batch_id and left:
            left -= 1
            lost()
        return run(task)

    return runner


def test_a_runner_that_stays_away_ends_the_driver_in_the_end(stream: Stream) -> None:
    with pytest.raises(
        RunnerUnavailable, match=f"batch 1 lost its runner {MAX_ATTEMPTS} times, at last: the worker is gone"
    ):
        stream.run(lost_at(1, times=MAX_ATTEMPTS))
    assert stream.clock.seconds == 0.5 + 1 + 2 + 4 + 8 + 8

    stream.run(lost_at(1, times=MAX_ATTEMPTS - 1))
    stream.assert_exactly_once()


def test_attempts_that_take_long_until_they_are_lost(stream: Stream) -> None:
    def slow(task: BatchTask, run: Run) -> CommitCounts:
        stream.clock.seconds += GIVE_UP_S / 2
        lost()
        raise AssertionError

    with pytest.raises(RunnerUnavailable, match="lost its runner 3 times"):
        stream.run(slow)


def test_a_number_of_attempts_that_begin_however_long_each_takes() -> None:
    clock, error = RunningClock(), Retryable("nothing was planned")
    lost_runner = LostRunner(clock, threading.Event(), min_attempts=3)
    for _ in range(2):
        clock.seconds += 2 * GIVE_UP_S
        lost_runner.wait_for_next(4, error)
    clock.seconds += 2 * GIVE_UP_S
    with pytest.raises(Retryable, match="batch 4 lost its runner 3 times, at last: nothing was planned"):
        lost_runner.wait_for_next(4, error)


def test_a_stream_that_is_to_stop_does_not_begin_again(stream: Stream) -> None:
    stream.clock.stops_at_s = FIRST_PAUSE_S
    with pytest.raises(RunnerUnavailable, match=r"^the worker is gone$"):
        stream.run(lost_at(0, times=1))
    assert len(stream.attempts) == 1


def test_a_driver_that_was_replaced_meanwhile_does_not_begin_again(stream: Stream) -> None:
    def replaced(task: BatchTask, run: Run) -> CommitCounts:
        StreamWriter.claim(opened(stream.checkpoint), owner="another", claimed_at_ms=0)
        lost()
        raise AssertionError

    with pytest.raises(Fenced):
        stream.run(replaced)
    assert len(stream.attempts) == 1


@pytest.mark.parametrize("error", [ValueError("of a step"), Retryable("too slow"), StoreUnavailable("no answer")])
def test_nothing_else_is_tried_again(stream: Stream, error: Exception) -> None:
    def fails(task: BatchTask, run: Run) -> CommitCounts:
        raise error

    with pytest.raises(StepFailed if isinstance(error, ValueError) else type(error)):
        stream.run(fails)
    assert len(stream.attempts) == 1
