"""Beam's service of external workers, upon a :mod:`zygote`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.worker_pool import zygote

MAX_REQUESTS = 16
"""Of those that are answered at the same time; they are quick."""
END_TIMEOUT_S = 10.0

_LOGGER = logging.getLogger(__name__)
_SERVER_OPTIONS = [
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),  # a second pool at one port would get some of the requests
]


class ZygoteLost(Exception):
    """It has ended, or cannot begin."""


class ZygoteProcess:
    """A running zygote.

    Args:
        modules: to import besides those of Beam and this library.

    Raises:
        ZygoteLost: a module cannot be preloaded.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        requests, own_requests = os.pipe()
        own_answers, answers = os.pipe()
        command = [sys.executable, "-m", zygote.__name__, str(requests), str(answers), *modules]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(requests, answers))
        os.close(requests)
        os.close(answers)
        self._requests, self._answers = os.fdopen(own_requests, "w"), os.fdopen(own_answers)
        began = self._answer()
        if "error" in began:
            self.close()
            raise ZygoteLost(began["error"])

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        """Its answer.

        Raises:
            ZygoteLost: it has ended.
        """
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        except OSError as error:
            raise ZygoteLost("the process that forks workers has ended") from error
        return self._answer()

    def _answer(self) -> dict[str, str]:
        line = self._answers.readline()
        if not line:
            raise ZygoteLost("the process that forks workers has ended")
        answer: dict[str, str] = json.loads(line)
        return answer

    @property
    def has_ended(self) -> bool:
        """Whether it is gone, and so are its workers."""
        return self._process.poll() is not None

    def retire(self) -> None:
        """Let it live until its last worker has ended."""
        threading.Thread(target=self._process.wait, name="retired zygote", daemon=True).start()

    def close(self) -> None:
        """End it and its workers; twice does no harm."""
        with contextlib.suppress(OSError):
            self._requests.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts and stops workers for a runner.

    Args:
        modules: that workers need, besides Beam and this library.

    Raises:
        ZygoteLost: a module cannot be preloaded.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._zygote = ZygoteProcess(modules)
        self._retired: list[ZygoteProcess] = []
        """They live as long as their last worker."""

    def StartWorker(self, request: beam_fn_api_pb2.StartWorkerRequest, context: Any) -> Any:
        """Fork one."""
        start = {"start": {"control": request.control_endpoint.url, "worker_id": request.worker_id}}
        with self._lock:
            try:
                self._start(start)
            except ZygoteLost as error:
                return beam_fn_api_pb2.StartWorkerResponse(error=f"the worker pool has no worker: {error}")
        return beam_fn_api_pb2.StartWorkerResponse()

    def _start(self, start: dict[str, Any]) -> None:
        if self._zygote.has_ended:
            _LOGGER.warning("the process that forks workers has ended; another one begins")
            self._begin_another()
        changed = self._zygote.ask(start).get("changed")
        if changed is not None:
            _LOGGER.warning("%s has changed: workers from now on import what is there", changed)
            self._zygote.retire()
            self._retired.append(self._zygote)
            self._begin_another()
            self._zygote.ask(start)

    def _begin_another(self) -> None:
        for one in [one for one in self._retired if one.has_ended]:
            one.close()
            self._retired.remove(one)
        self._zygote = ZygoteProcess(self._modules)

    def StopWorker(self, request: beam_fn_api_pb2.StopWorkerRequest, context: Any) -> Any:
        """End one, if it has not ended."""
        with self._lock:
            for one in (self._zygote, *self._retired):
                with contextlib.suppress(ZygoteLost):
                    one.ask({"stop": request.worker_id})
        return beam_fn_api_pb2.StopWorkerResponse()

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            for one in (self._zygote, *self._retired):
                one.close()


@contextlib.contextmanager
def running_worker_pool(host: str, port: int, modules: Sequence[str]) -> Iterator[int]:
    """A pool that serves runners while the block is open. Yields the port, which 0 leaves to the system.

    Raises:
        ConfigurationError: a module cannot be preloaded, or nobody can listen there.
    """
    with ThreadPoolExecutor(MAX_REQUESTS) as threads:
        server = grpc.server(threads, options=_SERVER_OPTIONS)
        try:
            found = server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise ConfigurationError(
                f"nobody can listen at {host}:{port}: {error}. Give another --port or --host."
            ) from error
        try:
            pool = WorkerPool(modules)
        except ZygoteLost as error:
            raise ConfigurationError(f"--preload: {error}") from error
        with contextlib.closing(pool):
            beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
            server.start()
            try:
                yield found
            finally:
                server.stop(None).wait()
