"""The job server of a stream: what a user sees when it cannot be had, and that it ends with the program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.flink_runner import FlinkRunner

from beam_exactly_once.errors import BeamExactlyOnceError, ConfigurationError, RunnerUnavailable
from beam_exactly_once.pipelines.runners import job_server, tied_process
from beam_exactly_once.pipelines.runners.job_server import one_job_server

WAIT_S = 120.0


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def error_of(*options: str) -> BeamExactlyOnceError:
    with pytest.raises(BeamExactlyOnceError) as raised, one_job_server(FlinkRunner(), PipelineOptions(list(options))):
        raise AssertionError("it started")
    return raised.value


def program(folder: Path, text: str) -> str:
    path = folder / "java"
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_no_jar() -> None:
    error = error_of("--flink_master=[local]", "--flink_job_server_jar=/none/job-server.jar")
    assert isinstance(error, ConfigurationError)
    assert "/none/job-server.jar" in str(error)
    assert "--flink_job_server_jar" in str(error)


def test_no_java(tmp_path: Path) -> None:
    jar = tmp_path / "job-server.jar"
    jar.touch()
    error = error_of(
        "--flink_master=[local]", f"--flink_job_server_jar={jar}", f"--job_server_java_launcher={tmp_path}/java"
    )
    assert isinstance(error, ConfigurationError)
    assert f"{tmp_path}/java" in str(error)


def test_a_job_server_that_ends_at_once(tmp_path: Path) -> None:
    jar = tmp_path / "job-server.jar"
    jar.touch()
    java = program(tmp_path, "import sys; print('no such luck'); sys.exit(3)")
    error = error_of("--flink_master=[local]", f"--flink_job_server_jar={jar}", f"--job_server_java_launcher={java}")
    assert isinstance(error, RunnerUnavailable)
    assert "no such luck" in str(error)


def test_a_cluster_that_does_not_answer(unused_port: int) -> None:
    error = error_of(f"--flink_master=127.0.0.1:{unused_port}")
    assert isinstance(error, RunnerUnavailable)
    assert f"127.0.0.1:{unused_port}" in str(error)


def test_a_job_endpoint_that_does_not_answer(unused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server, "START_TIMEOUT_S", 0.5)
    error = error_of(f"--job_endpoint=127.0.0.1:{unused_port}")
    assert isinstance(error, RunnerUnavailable)
    assert f"127.0.0.1:{unused_port}" in str(error)
    assert "--job_endpoint" in str(error)


def test_a_tied_process_ends_with_a_program_that_is_killed(tmp_path: Path) -> None:
    sleeper = tmp_path / "pid"
    inner = f"import os, pathlib, time; pathlib.Path({str(sleeper)!r}).write_text(str(os.getpid())); time.sleep(600)"
    command = [sys.executable, tied_process.__file__, sys.executable, "-c", inner]
    outer = f"import subprocess; subprocess.Popen({command!r}, stdin=subprocess.PIPE).wait()"
    with subprocess.Popen([sys.executable, "-c", outer]) as driver:
        deadline_s = time.monotonic() + WAIT_S
        while not (sleeper.exists() and sleeper.read_text()):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        process = psutil.Process(int(sleeper.read_text()))
        os.kill(driver.pid, signal.SIGKILL)
    process.wait(WAIT_S)


def test_a_tied_process_ends_as_its_command() -> None:
    command = [sys.executable, tied_process.__file__, sys.executable, "-c", "raise SystemExit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as tied:
        assert tied.wait(WAIT_S) == 7
