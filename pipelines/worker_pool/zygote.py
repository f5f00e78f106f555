"""The process that workers are forked from. It has no thread and no connection, so that a fork of it is whole.

    python -m beam_exactly_once.pipelines.worker_pool.zygote REQUESTS ANSWERS MODULE …

REQUESTS and ANSWERS are open files of its pool: a line of JSON each. Its end is that of all its workers, and it ends when
its pool does.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import TextIO

from beam_exactly_once.pipelines.worker_pool.preloading import LoadedFiles, NotPreloaded, preload

STATE_CACHE_BYTES = 100 << 20
"""Of a worker: Beam's own default."""


class Zygote:
    """Forks workers, and stops them.

    Args:
        requests: of the pool.
        answers: to it.
    """

    def __init__(self, requests: TextIO, answers: TextIO) -> None:
        self._requests, self._answers = requests, answers
        self._lifeline, self._held = os.pipe()
        """A worker reads from the first until nobody holds the second, which this process alone does."""
        self._workers: dict[int, str] = {}
        """Ids by process. One that has ended stays a process until it is taken from here, so its number is nobody else's."""
        self._is_retired = False
        self._loaded = LoadedFiles()
        signal.signal(signal.SIGCHLD, lambda number, frame: self._forget_ended())

    def serve(self) -> None:
        """Until the pool closes its end, or the last worker of what has changed since has ended."""
        for line in self._requests:
            request = json.loads(line)
            with _children_blocked():
                say(
                    self._answers,
                    self._start(**request["start"]) if "start" in request else self._stop(request["stop"]),
                )
            self._end_if_retired()
        with _children_blocked():
            for process in self._workers:
                os.kill(process, signal.SIGKILL)

    def _start(self, control: str, worker_id: str) -> dict[str, str]:
        changed = self._loaded.changed()
        if changed is not None:
            self._is_retired = True
            return {"changed": changed}
        process = os.fork()
        if process == 0:
            self._requests.close()
            self._answers.close()
            os.close(self._held)
            _be_worker(control, worker_id, self._lifeline)
        self._workers[process] = worker_id
        return {}

    def _stop(self, worker_id: str) -> dict[str, str]:
        found = [process for process, whose in self._workers.items() if whose == worker_id]
        # Two runners may give two workers one id. Both end when their runner is done with them.
        if len(found) == 1:
            os.kill(found[0], signal.SIGTERM)
        return {}

    def _forget_ended(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                self._workers.pop(ended, None)
        self._end_if_retired()

    def _end_if_retired(self) -> None:
        if self._is_retired and not self._workers:
            os._exit(0)


@contextlib.contextmanager
def _children_blocked() -> Iterator[None]:
    """While open, no child is forgotten."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _be_worker(control: str, worker_id: str, lifeline: int) -> None:
    """Never returns."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        threading.Thread(target=_end_with_zygote, args=(lifeline,), name="lifeline", daemon=True).start()
        draw_anew()
        from apache_beam.runners.worker.sdk_worker import SdkHarness

        SdkHarness(control, worker_id=worker_id, state_cache_size=STATE_CACHE_BYTES, data_buffer_time_limit_ms=0).run()
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
