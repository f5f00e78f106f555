"""The worker pool: workers that come at once, with today's code, and that nothing outlives."""

from __future__ import annotations

import queue
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2
from click.testing import CliRunner

from beam_exactly_once.cli import main as command
from beam_exactly_once.errors import EXIT_CONFIGURATION, ConfigurationError
from beam_exactly_once.pipelines.worker_pool import zygote
from beam_exactly_once.pipelines.worker_pool.pool import running_worker_pool
from beam_exactly_once.pipelines.worker_pool.preloading import NotPreloaded, preload

WAIT_S = 180.0


class Runner(beam_fn_api_pb2_grpc.BeamFnControlServicer):
    """What a runner is to a worker: it waits for it, and lets it go."""

    def __init__(self, at: str = "localhost:0") -> None:
        self.came: queue.Queue[str] = queue.Queue()
        self._server = grpc.server(ThreadPoolExecutor(16))
        beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(self, self._server)
        self.url = f"{at.partition(':')[0]}:{self._server.add_insecure_port(at)}"
        self._server.start()

    def Control(self, responses: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """One worker's connection, until it ends."""
        metadata = dict(context.invocation_metadata())
        self.came.put(str(metadata["worker_id"]))
        for _ in responses:
            pass
        yield from ()

    def close(self) -> None:
        """As a runner that is done with its workers."""
        self._server.stop(None).wait()


@pytest.fixture
def deaf() -> Iterator[DeafRunner]:
    deaf = DeafRunner()
    yield deaf
    deaf.close()


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


class DeafRunner:
    """One to which nobody gets through: it never answers."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()


class Pool:
    """A running pool, asked as Flink asks it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("workers at"), line
        self.process = psutil.Process(process.pid)
        self._channel = grpc.insecure_channel(line.split()[-1])
        self._stub: Any = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(self._channel)

    def ask(self, worker_id: str, url: str) -> psutil.Process:
        """The process of a worker that is on its way to a runner."""
        before = set(self.workers())
        request = beam_fn_api_pb2.StartWorkerRequest(
            worker_id=worker_id, control_endpoint=endpoints_pb2.ApiServiceDescriptor(url=url)
        )
        answer = self._stub.StartWorker(request, timeout=WAIT_S)
        assert answer.error == ""
        (worker,) = set(self.workers()) - before
        return worker

    def start(self, worker_id: str, runner: Runner) -> psutil.Process:
        """The process of a worker that has come to its runner."""
        worker = self.ask(worker_id, runner.url)
        assert runner.came.get(timeout=WAIT_S) == worker_id
        return worker

    def stop(self, worker_id: str) -> None:
        self._stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id=worker_id), timeout=WAIT_S)

    def workers_after(self, ended: psutil.Process) -> list[psutil.Process]:
        """All of them, when the pool has done what it does about one that has ended."""
        assert gone(ended)
        self.stop("nobody")  # it answers behind that
        return self.workers()

    def zygotes(self) -> list[psutil.Process]:
        return self.process.children()

    def workers(self) -> list[psutil.Process]:
        return [worker for one in self.zygotes() for worker in one.children()]

    def close(self) -> None:
        self._channel.close()


@contextmanager
def pool_of(folder: Path, *modules: str) -> Iterator[Pool]:
    """Found in ``folder``: its modules."""
    command = [
        sys.executable,
        "-m",
        "beam_exactly_once",
        "worker-pool",
        "--port=0",
        *(f"--preload={m}" for m in modules),
    ]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            pool = Pool(process)
            yield pool
            pool.close()
        finally:
            process.terminate()
            process.wait(WAIT_S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module of the user lies, which says where it was imported."""
    folder = tmp_path_factory.mktemp("modules")
    write_module(folder, "first")
    return folder


@pytest.fixture(scope="module")
def pool(folder: Path) -> Iterator[Pool]:
    with pool_of(folder, "users_steps") as pool:
        yield pool


def write_module(folder: Path, version: str) -> None:
    (folder / "users_steps.py").write_text(f"print('imported', {version!r}, file=open({str(folder / 'log')!r}, 'a'))\n")


def imports(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def gone(*processes: psutil.Process) -> bool:
    return not psutil.wait_procs(processes, timeout=WAIT_S)[1]


def test_workers_come_with_what_was_imported_before(pool: Pool, runner: Runner, folder: Path) -> None:
    workers = [pool.start(f"worker-{number}", runner) for number in range(3)]
    assert len(set(workers)) == 3
    assert imports(folder) == ["imported first"]
    pool.stop("worker-1")
    assert gone(workers[1])
    assert workers[0].is_running()
    assert workers[2].is_running()


def test_a_worker_ends_when_its_runner_is_done(pool: Pool, runner: Runner) -> None:
    worker = pool.start("worker", runner)
    runner.close()
    assert pool.workers_after(worker) == []


def test_a_worker_that_is_killed_on_its_way_is_forked_again_three_times(pool: Pool, deaf: DeafRunner) -> None:
    workers = [pool.ask("worker", deaf.url)]
    for _ in range(3):
        workers[-1].kill()
        (again,) = pool.workers_after(workers[-1])
        workers.append(again)
    assert len(set(workers)) == 4
    workers[-1].kill()
    assert pool.workers_after(workers[-1]) == []


def test_a_worker_that_is_forked_again_comes_to_its_runner(pool: Pool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as later:
        worker = pool.ask("worker", url := f"127.0.0.1:{later.getsockname()[1]}")
        worker.kill()
        (again,) = pool.workers_after(worker)
    runner = Runner(url)
    assert runner.came.get(timeout=WAIT_S) == "worker"
    again.kill()
    assert pool.workers_after(again) == [], "a runner sees that one which came to it is lost"
    runner.close()


def test_a_worker_that_is_stopped_on_its_way_is_not_forked_again(pool: Pool, deaf: DeafRunner) -> None:
    worker = pool.ask("worker", deaf.url)
    pool.stop("worker")
    assert pool.workers_after(worker) == []


def test_a_worker_that_dies_before_it_can_be_stopped_is_not_forked_again(pool: Pool, deaf: DeafRunner) -> None:
    """Its process that forks it is told of both at once."""
    worker = pool.ask("worker", deaf.url)
    (zygote_,) = pool.zygotes()
    zygote_.suspend()
    worker.kill()
    with ThreadPoolExecutor(1) as asking:
        asked = asking.submit(pool.stop, "worker")
        zygote_.resume()
        asked.result(WAIT_S)
    assert all(gone(one) for one in pool.workers_after(worker))


def test_a_worker_is_not_forked_again_where_its_runner_has_asked_for_another(pool: Pool, deaf: DeafRunner) -> None:
    first, second = (pool.ask("worker", deaf.url) for _ in range(2))
    first.kill()
    assert pool.workers_after(first) == [second]
    pool.stop("worker")
    assert gone(second)


def test_a_worker_that_dies_leaves_nothing_and_the_next_may_have_its_id(pool: Pool, runner: Runner) -> None:
    first = pool.start("worker", runner)
    first.kill()
    assert pool.workers_after(first) == []
    second = pool.start("worker", runner)
    pool.stop("worker")
    assert gone(second)


def test_workers_of_two_runners_with_one_id_are_not_stopped_for_each_other(pool: Pool, runner: Runner) -> None:
    other = Runner()
    workers = [pool.start("worker", runner), pool.start("worker", other)]
    pool.stop("worker")
    other.close()
    assert gone(workers[1])
    assert workers[0].is_running()
    pool.stop("worker")
    assert gone(workers[0])


def test_a_module_that_changed_is_imported_anew_for_new_workers_alone(pool: Pool, runner: Runner, folder: Path) -> None:
    old = pool.start("old", runner)
    (retired,) = pool.zygotes()
    write_module(folder, "second one")

    new = pool.start("new", runner)

    assert imports(folder)[-1] == "imported second one"
    assert old.is_running()
    pool.stop("old")
    assert gone(old, retired)
    pool.stop("new")
    assert gone(new)


def test_a_lost_zygote_takes_its_workers_along_and_is_replaced(pool: Pool, runner: Runner) -> None:
    worker = pool.start("worker", runner)
    (lost,) = pool.zygotes()
    lost.kill()
    assert gone(worker)
    assert pool.start("worker", runner).is_running()


@pytest.mark.parametrize("end", [psutil.Process.kill, psutil.Process.terminate])
def test_a_pool_that_ends_leaves_no_worker(
    tmp_path: Path, runner: Runner, end: Callable[[psutil.Process], None]
) -> None:
    with pool_of(tmp_path) as pool:
        left = [pool.start(f"worker-{number}", runner) for number in range(2)] + pool.zygotes()
        end(pool.process)
        assert gone(*left)


def test_a_module_that_does_not_exist_ends_the_command(tmp_path: Path) -> None:
    ended = CliRunner().invoke(command, ["worker-pool", "--port=0", "--preload=users_steps"])
    assert ended.exit_code == EXIT_CONFIGURATION
    assert "users_steps cannot be imported: ModuleNotFoundError: No module named 'users_steps'" in ended.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero"),
        (
            "import threading\nthreading.Thread(target=threading.Event().wait, args=(0.1,), name='poller').start()\n",
            "starts threads when it is imported (poller)",
        ),
    ],
)
def test_a_module_that_cannot_be_preloaded_names_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    name = f"users_steps_{len(text)}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NotPreloaded, match=re.escape(f"{name} {says}")):
        preload([name])


def test_a_port_that_is_taken(runner: Runner) -> None:
    host, _, port = runner.url.partition(":")
    with pytest.raises(ConfigurationError, match=f"{runner.url}.*--port"), running_worker_pool(host, int(port), []):
        raise AssertionError("two listen")


def test_a_worker_draws_other_numbers_than_its_siblings() -> None:
    np.random.seed(1)
    drawn = []
    for _ in range(2):
        np.random.seed(1)
        zygote.draw_anew()
        drawn.append(np.random.random(4).tolist())
    assert drawn[0] != drawn[1]
