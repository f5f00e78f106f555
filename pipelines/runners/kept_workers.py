"""Workers of FnApiRunner in threads and in processes, which outlive a batch, and of which it is seen when they do not.

Beam waits for ever for a worker that has died, and takes any thread that is free to call one. These call their steps in one
thread each, say what has become of them, and end within a limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.job.utils import struct_to_dict
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.worker import sdk_worker, sdk_worker_main

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import RunnerUnavailable
from beam_exactly_once.pipelines.runners import kept_harness

READY_TIMEOUT_S = 300.0
"""How long a worker may take from its start to its connection: the import of everything that the pipeline needs."""
READY_POLL_S = 0.01
STOPPED_MAX_S = 3.0
"""A process that somebody has stopped for so long is lost: nobody says that it will go on."""

_THREAD_URN = "beam_exactly_once:env:thread:v1"
_PROCESS_URN = "beam_exactly_once:env:process:v1"
_BEAMS_PROGRAM = f"{sys.executable} -m {sdk_worker_main.__name__}"

_OF_HARNESS = ("_bundle_processor_cache", "_state_cache", "_worker_thread_pool")
_OF_CONNECTION = ("_read_thread", "_state")
_NEEDED: tuple[tuple[Any, str], ...] = (
    (os, "WUNTRACED"),
    (os, "killpg"),
    (sdk_worker_main, "SdkHarness"),
    (sdk_worker.BundleProcessorCache, "release"),
    (worker_handlers.ControlConnection, "abort"),
    (worker_handlers.WorkerHandler, "register_environment"),
    (worker_handlers, "EmbeddedGrpcWorkerHandler"),
)


def missing_name() -> str | None:
    """A name that workers need here, and that this system, or this release of Beam, does not have."""
    for owner, name in _NEEDED:
        if not hasattr(owner, name):
            return f"{owner.__name__}.{name}"
    for owner, names in ((sdk_worker.SdkHarness, _OF_HARNESS), (worker_handlers.ControlConnection, _OF_CONNECTION)):
        for name in names:
            if name not in owner.__init__.__code__.co_names:
                return f"{owner.__name__}.{name}"
    return None


def in_kept_worker(environment: beam_runner_api_pb2.Environment) -> beam_runner_api_pb2.Environment:
    """The same with workers of this module, where those can be had."""
    kept = beam_runner_api_pb2.Environment()
    kept.CopyFrom(environment)
    if environment.urn == python_urns.EMBEDDED_PYTHON_GRPC:
        kept.urn = _THREAD_URN
    elif environment.urn == python_urns.SUBPROCESS_SDK and environment.payload.decode() == _BEAMS_PROGRAM:
        kept.urn = _PROCESS_URN
    return kept


def is_kept(environment: beam_runner_api_pb2.Environment) -> bool:
    """Whether its workers are of this module."""
    return environment.urn in (_THREAD_URN, _PROCESS_URN)


class KeptWorker(worker_handlers.GrpcWorkerHandler):
    """A worker behind gRPC."""

    _clock: Clock = SYSTEM_CLOCK

    def lost(self) -> str | None:
        """What has become of it; None while it is at work."""
        return None if self._has_connection() else f"{self} has closed its connection"

    def wait_ready(self) -> None:
        """Wait until it can be given work.

        Raises:
            RunnerUnavailable: it has ended before, or does not connect.
        """
        give_up_s = self._clock.monotonic_s() + READY_TIMEOUT_S
        while self.control_conn._state != worker_handlers.BeamFnControlServicer.STARTED_STATE:
            lost = self.lost() or (f"{self} does not connect" if self._clock.monotonic_s() > give_up_s else None)
            if lost is not None:
                raise worker_lost(lost)
            self._clock.wait(threading.Event(), READY_POLL_S)

    def kill(self) -> None:
        """End it wherever it is, if that can be done."""

    def _has_connection(self) -> bool:
        is_new = self.control_conn._state == worker_handlers.BeamFnControlServicer.UNSTARTED_STATE
        return is_new or bool(self.control_conn._read_thread.is_alive())


def worker_lost(what: str) -> RunnerUnavailable:
    """The error of a worker that is gone."""
    return RunnerUnavailable(
        f"{what}, and with it what it ran; no record is lost. If it happens again, look for what ends it: the system, for "
        "want of memory, or a step."
    )


@worker_handlers.WorkerHandler.register_environment(_THREAD_URN, bytes)
class ThreadWorker(KeptWorker, worker_handlers.EmbeddedGrpcWorkerHandler):
    """A worker in a thread of this process."""

    def __str__(self) -> str:
        return f"a worker in a thread ({self.worker_id})"

    def start_worker(self) -> None:
        """Start the thread."""
        self.worker = kept_harness.KeptHarness(
            self.control_address,
            state_cache_size=self._state_cache_size,
            data_buffer_time_limit_ms=self._data_buffer_time_limit_ms,
            worker_id=self.worker_id,
            runner_capabilities=worker_handlers.FNAPI_RUNNER_CAPABILITIES,
        )
        self.worker_thread = threading.Thread(name="run_worker", target=self.worker.run, daemon=True)
        self.worker_thread.start()

    def lost(self) -> str | None:
        """What has become of it; None while it is at work."""
        return super().lost() if self.worker_thread.is_alive() else f"{self} has ended"


@worker_handlers.WorkerHandler.register_environment(_PROCESS_URN, bytes)
class ProcessWorker(KeptWorker):
    """A worker in a process of its own. Signals for the group of the driver are not for it, and what it starts ends with it."""

    def __init__(self, payload: bytes, state: Any, provision_info: Any, grpc_server: Any) -> None:
        super().__init__(state, provision_info, grpc_server)
        self._lock = threading.Lock()  # one of two who look would not be told
        self._stopped_since_s: float | None = None

    def __str__(self) -> str:
        return f"the process of a worker (pid {self._process.pid})"

    def start_worker(self) -> None:
        """Start the process."""
        described = {
            "CONTROL_API_SERVICE_DESCRIPTOR": str(self.control_api_service_descriptor()),
            "LOGGING_API_SERVICE_DESCRIPTOR": str(self.logging_api_service_descriptor()),
            "PIPELINE_OPTIONS": json.dumps(struct_to_dict(self.provision_info.provision_info.pipeline_options)),
            "WORKER_ID": self.worker_id,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", kept_harness.__name__],
            env={**os.environ, **described},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def lost(self) -> str | None:
        """What has become of it; None while it is at work."""
        self._look()
        if self._process.returncode is not None:
            return f"{self} ended with exit code {self._process.returncode}"
        if self._stopped_since_s is not None and self._clock.monotonic_s() - self._stopped_since_s > STOPPED_MAX_S:
            return f"{self} was stopped by a signal"
        return super().lost()

    def stop_worker(self) -> None:
        """Wait until it has ended."""
        while self._process.returncode is None:
            self._clock.wait(threading.Event(), READY_POLL_S)
            self._look()
        if self._process.stdin:
            self._process.stdin.close()

    def kill(self) -> None:
        """End it wherever it is."""
        self._look()
        if self._process.returncode is None:
            self._kill_group()

    def _look(self) -> None:
        """Note whether it has ended, was stopped, or goes on."""
        with self._lock:
            if self._process.returncode is not None:
                return
            try:
                pid, status = os.waitpid(self._process.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:  # somebody else in this process waits for all children, and has seen it end
                self._process.returncode = -1
                return
            if pid and os.WIFSTOPPED(status):
                self._stopped_since_s = self._clock.monotonic_s()
            elif pid and os.WIFCONTINUED(status):
                self._stopped_since_s = None
            elif pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self._kill_group()  # what it has started; its number is not given to others yet

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
