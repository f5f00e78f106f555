"""The process that workers are forked from. It has no thread and no connection, so that a fork of it is whole.

    python -m beam_exactly_once.pipelines.worker_pool.zygote REQUESTS ANSWERS MODULE …

REQUESTS and ANSWERS are open files of its pool: a line of JSON each. Its end is that of all its workers, and it ends when
its pool does.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import mmap
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import NoReturn, TextIO

from beam_exactly_once.pipelines.worker_pool.preloading import LoadedFiles, NotPreloaded, preload

STATE_CACHE_BYTES = 100 << 20
"""Of a worker: Beam's own default."""
MAX_FORKED_AGAIN = 3
"""How often one worker is."""

_LOGGER = logging.getLogger(__name__)


class _Worker:
    """One that a runner has asked for, whichever process it is."""

    def __init__(self, control: str, worker_id: str) -> None:
        self.control, self.worker_id = control, worker_id
        self.is_stopped = False
        self.forked_again = 0
        self._has_come = mmap.mmap(-1, 1)  # which the forked process shares

    def comes(self) -> None:
        """To its runner, from now on. Said by the forked process."""
        self._has_come[0] = 1

    @property
    def has_come(self) -> bool:
        """Whether its runner may know it. A runner sees by itself that one which it knows is lost."""
        return bool(self._has_come[0])

    def is_twin_of(self, other: _Worker) -> bool:
        """Whether a runner would take one for the other."""
        return (self.control, self.worker_id) == (other.control, other.worker_id)


class Zygote:
    """Forks workers, and stops them. A worker that is killed before its runner knows it is forked again: the runner would wait
    for it, Prism a minute.

    Args:
        requests: of the pool, which waits for the answer to each.
        answers: to it.
    """

    def __init__(self, requests: TextIO, answers: TextIO) -> None:
        self._requests, self._answers = requests, answers
        self._lifeline, self._held = os.pipe()
        """A worker reads from the first until nobody holds the second, which this process alone does."""
        self._workers: dict[int, _Worker] = {}
        """By process. One that has ended stays a process until it is taken from here, so its number is nobody else's."""
        self._is_retired = False
        self._loaded = LoadedFiles()
        self._woken, self._wakes = os.pipe()
        """There is something to read where a child has ended."""
        os.set_blocking(self._wakes, False)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def serve(self) -> None:
        """Until the pool closes its end, or the last worker of what has changed since has ended."""
        asked = self._requests.fileno()
        while not self._is_retired or self._workers:
            ready, _, _ = select.select([asked, self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, select.PIPE_BUF)
                self._take_ended()
            if asked in ready:
                line = self._requests.readline()
                if not line:
                    break
                request = json.loads(line)
                start = request.get("start")
                say(self._answers, self._stop(request["stop"]) if start is None else self._start(**start))
        for process in self._workers:
            os.kill(process, signal.SIGKILL)

    def _start(self, control: str, worker_id: str) -> dict[str, str]:
        changed = self._loaded.changed()
        if changed is not None:
            self._is_retired = True
            return {"changed": changed}
        self._fork(_Worker(control, worker_id))
        return {}

    def _fork(self, worker: _Worker) -> None:
        process = os.fork()
        if process == 0:
            signal.set_wakeup_fd(-1)
            self._requests.close()
            self._answers.close()
            for one in (self._held, self._woken, self._wakes):
                os.close(one)
            _be_worker(worker, self._lifeline)
        self._workers[process] = worker

    def _stop(self, worker_id: str) -> dict[str, str]:
        found = {process: worker for process, worker in self._workers.items() if worker.worker_id == worker_id}
        for worker in found.values():
            worker.is_stopped = True
        # Two runners may give two workers one id. Both end when their runner is done with them.
        if len(found) == 1:
            os.kill(next(iter(found)), signal.SIGTERM)
        return {}

    def _take_ended(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                process, status = ended
                worker = self._workers.pop(process)
                if os.WIFSIGNALED(status):
                    self._replace(worker, os.WTERMSIG(status))

    def _replace(self, worker: _Worker, number: int) -> None:
        """Fork a worker again that a signal has ended, if its runner still waits for it."""
        if worker.is_stopped or worker.has_come or any(worker.is_twin_of(one) for one in self._workers.values()):
            return
        what = f"worker {worker.worker_id!r} was ended by signal {number} before it came to its runner"
        if worker.forked_again == MAX_FORKED_AGAIN:
            _LOGGER.warning("%s, %d times: its runner waits for it in vain", what, worker.forked_again + 1)
            return
        worker.forked_again += 1
        _LOGGER.warning("%s: it is forked again", what)
        try:
            self._fork(worker)
        except OSError as error:  # the other workers live on
            _LOGGER.warning("worker %r cannot be forked again: %s", worker.worker_id, error)


def _be_worker(worker: _Worker, lifeline: int) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        threading.Thread(target=_end_with_zygote, args=(lifeline,), name="lifeline", daemon=True).start()
        draw_anew()
        from apache_beam.runners.worker.sdk_worker import SdkHarness

        harness = SdkHarness(
            worker.control, worker_id=worker.worker_id, state_cache_size=STATE_CACHE_BYTES, data_buffer_time_limit_ms=0
        )
        worker.comes()
        harness.run()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # whatever happens, this process must not go on as a zygote
            os._exit(code)


def _end_with_zygote(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


def draw_anew() -> None:
    """Give numpy's global generator another seed, since all forks have that of their parent. Python's own does it itself."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def say(answers: TextIO, answer: dict[str, str]) -> None:
    """One answer."""
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def main(arguments: Sequence[str]) -> None:
    """Import, then serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the pool ends this process
    requests, answers = os.fdopen(int(arguments[0])), os.fdopen(int(arguments[1]), "w")
    try:
        preload(arguments[2:])
    except NotPreloaded as error:
        say(answers, {"error": str(error)})
        return
    gc.collect()
    gc.freeze()  # so that searches for garbage do not copy what workers share
    zygote = Zygote(requests, answers)
    say(answers, {})
    zygote.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)
