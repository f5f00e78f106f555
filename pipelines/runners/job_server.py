"""The job server of a stream on a portable runner: one for all batches, ended with the stream.

Beam's own ways start one for every run (Flink) or keep it until the process ends (Prism), and handle SIGINT.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.portability.api import beam_job_api_pb2_grpc
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkRunner
from apache_beam.runners.portability.job_server import SubprocessJobServer
from apache_beam.runners.portability.portable_runner import JobServiceHandle, PortableRunner
from apache_beam.runners.portability.prism_runner import PrismRunner

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import ConfigurationError, RunnerUnavailable
from beam_exactly_once.patience import Patience
from beam_exactly_once.pipelines.runners import tied_process
from beam_exactly_once.pipelines.runners.unstaged_jars import without_staging

START_TIMEOUT_S = 120.0
"""How long a job server may take to answer, be it ours or the user's."""
PAUSE_S = 0.1
MASTER_TIMEOUT_S = 20.0
"""How long a Flink cluster may take to answer before a stream starts."""
STOP_TIMEOUT_S = 20.0
TIMEOUT_SLACK_S = 60.0
MAX_PRISM_RUNS = 100
"""Prism keeps every run in memory, 0.4 MB of a small one, until it ends."""
LOG_LINES = 40
"""How much of a job server's output is kept for error messages."""

_LOGGER = logging.getLogger(__name__)
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_timeout_ms", 600_000),
    ("grpc.http2.max_pings_without_data", 0),
]


@contextlib.contextmanager
def one_job_server(
    runner: PortableRunner, options: PipelineOptions, batch_timeout_s: float | None = None
) -> Iterator[None]:
    """While open, every run of ``runner`` goes to the same job server.

    That is the user's, by ``--job_endpoint``, or else one that is started here and ended in the end, however the
    program ends. One of ours that has ended is replaced at the next run, and a Prism of ours also now and then.

    Args:
        runner: whose runs these are.
        options: of the pipeline.
        batch_timeout_s: after which nothing is expected any more from a run.

    Raises:
        ConfigurationError: it cannot be started: no Java, no jar, no binary.
        RunnerUnavailable: it, or the Flink cluster, does not answer.
    """
    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint == "embed":
        yield
        return

    def open_handle(opened: contextlib.ExitStack) -> tuple[JobServiceHandle, _Process | None]:
        """A job server, and its process if that is ours."""
        process: _Process | None = None
        if endpoint:
            given = _connected(runner, options, endpoint, "given by --job_endpoint", None)
            handle = opened.enter_context(given)
        else:
            handle, process = opened.enter_context(_started(runner, options))
        # Beam's is a minute, and Prism would be given up after it in the middle of a batch.
        handle.timeout = None if batch_timeout_s is None else batch_timeout_s + TIMEOUT_SLACK_S
        return handle, process

    max_runs = MAX_PRISM_RUNS if isinstance(runner, PrismRunner) and not endpoint else None
    with contextlib.ExitStack() as opened:
        (handle, process), runs = open_handle(opened), 0

        def next_handle(_: PipelineOptions) -> JobServiceHandle:
            nonlocal handle, process, runs
            has_ended = process is not None and process.has_ended()
            if process is not None and has_ended and runs:
                _LOGGER.warning("the job server has ended, and another one is started.%s", process.last_words())
            if has_ended or runs == max_runs:
                runs = 0
                opened.close()
                handle, process = open_handle(opened)
            runs += 1
            return handle

        runner.create_job_service = next_handle
        yield


@contextlib.contextmanager
def _started(runner: PortableRunner, options: PipelineOptions) -> Iterator[tuple[JobServiceHandle, _Process | None]]:
    if isinstance(runner, FlinkRunner) and not _is_local(options):
        _ask_master(options.view_as(FlinkRunnerOptions).flink_master)
    with contextlib.ExitStack() as opened:
        job_server_options = options.view_as(JobServerOptions)
        if job_server_options.artifacts_dir is None:
            prefix = "beam-exactly-once-artifacts-"
            opened.callback(setattr, job_server_options, "artifacts_dir", None)  # the next one has a folder of its own
            job_server_options.artifacts_dir = opened.enter_context(tempfile.TemporaryDirectory(prefix=prefix))
        wrapped = runner.default_job_server(options)
        server = getattr(wrapped, "_job_server", wrapped)  # without Beam's handlers of signals and of the exit
        if not isinstance(server, SubprocessJobServer):
            opened.callback(server.stop)
            yield runner.create_job_service_handle(server.start(), options), None
            return
        command, endpoint = _command(server)
        if isinstance(runner, FlinkRunner):
            command = without_staging(command, is_local=_is_local(options))
        process = opened.enter_context(_Process(command))
        handle = opened.enter_context(_connected(runner, options, endpoint, "started by this stream", process))
        yield handle, process


def _command(server: SubprocessJobServer) -> tuple[list[str], str]:
    """What starts a job server, and where it will answer; downloads it where no path was given."""
    name = type(server).__name__
    try:
        command, endpoint = server.subprocess_cmd_and_endpoint()
    except Exception as error:
        raise ConfigurationError(
            f"{name} has no program: {error} Give its path: --flink_job_server_jar for Flink, --prism_location for "
            "Prism; or the address of a job server of your own: --job_endpoint."
        ) from error
    command = [str(part) for part in command]
    if shutil.which(command[0]) is None:
        raise ConfigurationError(
            f"{name} needs {command[0]!r}, which is not on the PATH. Install it (Flink: Java 11 or newer), name it by "
            "--job_server_java_launcher, or give the address of a job server of your own: --job_endpoint."
        )
    return command, endpoint


def _is_local(options: PipelineOptions) -> bool:
    """Whether Flink is inside the job server."""
    return options.view_as(FlinkRunnerOptions).flink_master in MAGIC_HOST_NAMES


def _ask_master(flink_master: str) -> None:
    """Prove that the cluster answers: a job server would try again and again."""
    url = FlinkRunner.add_http_scheme(flink_master)
    try:
        with urllib.request.urlopen(f"{url}/overview", timeout=MASTER_TIMEOUT_S) as answer:
            answer.read()
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise RunnerUnavailable(
            f"the Flink cluster of --flink_master={flink_master} does not answer at {url}/overview: {error}."
        ) from error


@contextlib.contextmanager
def _connected(
    runner: PortableRunner,
    options: PipelineOptions,
    endpoint: str,
    whose: str,
    process: _Process | None,
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[JobServiceHandle]:
    """One channel for all batches."""
    with grpc.insecure_channel(endpoint, options=_CHANNEL_OPTIONS) as channel:
        ready = grpc.channel_ready_future(channel)
        patience = Patience(clock, timeout_s=START_TIMEOUT_S, first_pause_s=PAUSE_S)
        while not ready.done():
            ended = process is not None and process.has_ended()
            if ended or patience.is_over:
                ready.cancel()
                why = "ended" if ended else f"did not answer in {START_TIMEOUT_S:g} s"
                raise RunnerUnavailable(
                    f"the job server at {endpoint}, {whose}, {why}.{process.last_words() if process else ''}"
                )
            patience.wait()
        stub: Any = beam_job_api_pb2_grpc.JobServiceStub(channel)
        yield runner.create_job_service_handle(stub, options)


class _Process:
    """A job server's process; a context manager.

    It ends with this one even if this one is killed, and Ctrl-C does not reach it: the batch is finished first.
    """

    def __init__(self, command: list[str]) -> None:
        self._tail: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        _LOGGER.info("starting a job server: %s", " ".join(command))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(tied_process.__file__)), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reading = threading.Thread(target=self._read, name="job server's output", daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            _LOGGER.debug("%s", text)

    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def last_words(self) -> str:
        """The end of its output, for an error message."""
        return " Its output ends:\n" + "\n".join(self._tail)

    def __enter__(self) -> _Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reading.join(STOP_TIMEOUT_S)
