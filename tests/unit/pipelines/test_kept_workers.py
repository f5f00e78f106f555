"""What a driver does about a worker that is gone, that fails, or that does not end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import ControlConnection

from beam_exactly_once.errors import RunnerUnavailable
from beam_exactly_once.pipelines.runners import kept_workers, whole_elements
from beam_exactly_once.pipelines.runners.kept_workers import KeptWorker, ProcessWorker, in_kept_worker, is_kept
from beam_exactly_once.pipelines.runners.whole_elements import WholeElementWorkers


class Connection(ControlConnection):
    def __init__(self) -> None:
        super().__init__()
        self.aborted_by: Exception | None = None

    def abort(self, exn: Exception) -> None:
        self.aborted_by = exn


class Worker(KeptWorker):
    """One that is gone when a test says so, and ends when it is killed."""

    def __init__(self, name: str) -> None:
        self.worker_id = name
        self.control_conn: Any = Connection()
        self.gone = False
        self.killed = threading.Event()

    def __str__(self) -> str:
        return self.worker_id

    def lost(self) -> str | None:
        return f"{self} is gone" if self.gone else None

    def close(self) -> None:
        self.killed.wait()

    def kill(self) -> None:
        self.killed.set()


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[WholeElementWorkers, Worker, Worker]]:
    monkeypatch.setattr(whole_elements, "WATCH_S", 0.01)
    workers, first, second = WholeElementWorkers({}, None, 2), Worker("first"), Worker("second")
    workers._cached_handlers["environment"] = [first, second]
    yield workers, first, second
    workers.close_all(0)
    assert first.killed.is_set()
    assert second.killed.is_set()


def test_a_worker_that_is_gone_ends_the_wait_for_another_one(
    both: tuple[WholeElementWorkers, Worker, Worker],
) -> None:
    workers, first, second = both
    never = threading.Event()
    call = workers.call(0, never.wait)
    second.gone = True

    with pytest.raises(RunnerUnavailable, match="second is gone, and with it what it ran") as raised:
        workers.results([call])

    assert first.control_conn.aborted_by is second.control_conn.aborted_by is raised.value
    with pytest.raises(RunnerUnavailable, match="second is gone"):
        workers.check()  # before the next batch
    never.set()


def test_an_error_does_not_wait_for_a_worker_that_is_in_the_middle_of_something(
    both: tuple[WholeElementWorkers, Worker, Worker],
) -> None:
    workers, _, _ = both
    never = threading.Event()

    def fail() -> None:
        raise RuntimeError("Traceback (most recent call last): …")

    with pytest.raises(RuntimeError, match="Traceback"):
        workers.results([workers.call(0, never.wait), workers.call(1, fail)])
    never.set()


def test_a_connection_that_breaks_is_the_loss_of_its_worker(both: tuple[WholeElementWorkers, Worker, Worker]) -> None:
    """It breaks a moment before the worker is seen to be gone."""
    workers, first, _ = both

    def broken() -> None:
        first.gone = True
        raise RuntimeError("Channel closed prematurely.")

    with pytest.raises(RunnerUnavailable, match="first is gone"):
        workers.results([workers.call(0, broken)])


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessWorker]:
    monkeypatch.setattr(kept_workers, "STOPPED_MAX_S", 0.0)
    worker = ProcessWorker.__new__(ProcessWorker)
    worker._lock, worker._stopped_since_s, worker.control_conn = threading.Lock(), None, ControlConnection()
    program = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    worker._process = subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True)
    yield worker
    worker.kill()
    worker.stop_worker()


def becomes(worker: ProcessWorker) -> str:
    """What it says as soon as it says something."""
    lost = None
    while lost is None:
        lost = worker.lost()
    return lost


def test_a_process_says_that_it_was_killed(process: ProcessWorker) -> None:
    assert process.lost() is None
    process._process.send_signal(signal.SIGKILL)
    assert becomes(process).endswith("ended with exit code -9")


def test_a_process_says_that_it_was_stopped_and_no_longer_when_it_goes_on(process: ProcessWorker) -> None:
    process._process.send_signal(signal.SIGSTOP)
    assert becomes(process).endswith("was stopped by a signal")
    process._process.send_signal(signal.SIGCONT)
    while process.lost() is not None:
        pass


def test_a_worker_that_ends_before_it_connects_is_not_waited_for(process: ProcessWorker) -> None:
    assert process._process.stdin
    process._process.stdin.close()
    with pytest.raises(RunnerUnavailable, match="ended with exit code 0"):
        process.wait_ready()


@pytest.mark.parametrize(
    ("urn", "payload", "kept"),
    [
        (python_urns.EMBEDDED_PYTHON_GRPC, "{}", True),
        (python_urns.SUBPROCESS_SDK, f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main", True),
        (python_urns.SUBPROCESS_SDK, "/opt/worker", False),
        (python_urns.EMBEDDED_PYTHON, "", False),
    ],
)
def test_programs_of_others_stay_what_they_are(urn: str, payload: str, kept: bool) -> None:
    environment = beam_runner_api_pb2.Environment(urn=urn, payload=payload.encode())
    assert is_kept(in_kept_worker(environment)) == kept
    assert environment.urn == urn
