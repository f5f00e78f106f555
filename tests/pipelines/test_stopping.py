"""SIGTERM ends a stream at the end of its batch, and in the middle of one that does not end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_exactly_once.checkpoint import layout
from beam_exactly_once.errors import EXIT_RETRYABLE, Fenced, Retryable
from beam_exactly_once.pipelines import stopping

pytestmark = pytest.mark.runs_on("DirectRunner")

STREAM = """
import logging, sys, threading
import apache_beam as beam
from beam_exactly_once.errors import BeamExactlyOnceError
from beam_exactly_once import Record
from beam_exactly_once import ExactlyOnceStream
from beam_exactly_once.pipelines import stopping
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once import ReadFromKafka, WriteToFiles

folder, step, stop_timeout_s, *options = sys.argv[1:]
can_be_interrupted = step == "python" and not options
stopping.STOP_TIMEOUT_S, stopping.UNWIND_TIMEOUT_S = float(stop_timeout_s), 60.0 if can_be_interrupted else 1.0

logging.getLogger(stopping.__name__).addHandler(logging.StreamHandler(sys.stdout))

def never(record):
    print("in the step", flush=True)
    if step == "python":
        while True:
            pass
    with_lock = threading.Lock()
    with_lock.acquire()
    while True:
        try:
            with_lock.acquire()  # as code does that takes every exception for its own
        except BaseException:
            pass

cluster = MemoryKafka({"orders": 1})
cluster.append([Record("orders", 0, value=b"1")])
try:
    options = beam.options.pipeline_options.PipelineOptions(options)
    with cluster.serving(), ExactlyOnceStream(folder + "/checkpoint", options=options) as stream:
        stream | ReadFromKafka("memory:9092", ["orders"]) | beam.Map(never) | WriteToFiles(folder + "/output", format="json")
except BeamExactlyOnceError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    yield
    while _started:
        _started.pop().kill()


def stream_in_a_step(folder: Path, step: str, stop_timeout_s: float, *options: str) -> subprocess.Popen[str]:
    """A stream that is in its step, which never returns."""
    running = subprocess.Popen(
        [sys.executable, "-c", STREAM, str(folder), step, str(stop_timeout_s), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _started.append(running)
    assert running.stdout is not None
    assert running.stdout.readline() == "in the step\n"
    return running


def assert_given_up(running: subprocess.Popen[str], folder: Path, words: str) -> None:
    _, errors = running.communicate(timeout=180)
    assert running.returncode == EXIT_RETRYABLE, errors
    assert words in errors
    assert "--skip" not in errors
    assert not list((folder / "checkpoint" / layout.COMMITS).glob("*"))


def test_a_batch_that_does_not_end_is_given_up_after_a_while(tmp_path: Path) -> None:
    running = stream_in_a_step(tmp_path, "python", 0.5)
    running.send_signal(signal.SIGTERM)
    assert_given_up(running, tmp_path, "given up in step 'Map(never)'")


def test_a_second_signal_gives_the_batch_up_at_once(tmp_path: Path) -> None:
    running = stream_in_a_step(tmp_path, "python", 3600)
    running.send_signal(signal.SIGTERM)
    assert running.stdout is not None
    assert running.stdout.readline() == (  # as a warning: also where nobody configured the log
        "SIGTERM: the stream stops when its running batch has ended, or in 3600 s. A second one stops it now; nothing is lost.\n"
    )
    running.send_signal(signal.SIGTERM)
    assert_given_up(running, tmp_path, "given up in step 'Map(never)'")


def test_a_step_that_cannot_be_interrupted_ends_the_process(tmp_path: Path) -> None:
    running = stream_in_a_step(tmp_path, "catches all", 0.5)
    running.send_signal(signal.SIGTERM)
    assert_given_up(running, tmp_path, "in never")


def test_a_step_in_a_thread_of_beams_does_not_keep_the_process(tmp_path: Path) -> None:
    running = stream_in_a_step(tmp_path, "python", 0.5, "--direct_running_mode=multi_threading")
    running.send_signal(signal.SIGTERM)
    assert_given_up(running, tmp_path, "given up")


@pytest.mark.parametrize("has_limit", [True, False])
def test_it_is_the_limit_that_gives_a_batch_up(has_limit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it the step below, which goes on for a while, is ended; without it nobody ends it."""
    monkeypatch.setattr(stopping, "STOP_TIMEOUT_S", 0.01)
    if not has_limit:
        monkeypatch.setattr(stopping, "_timer", lambda seconds, call: contextlib.nullcontext())
    ended = contextlib.nullcontext() if not has_limit else pytest.raises(Retryable, match="given up")
    with ended, stopping.stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(timeout=180)
        threading.Event().wait(timeout=180 if has_limit else 0.5)


def test_a_signal_in_the_moment_in_which_the_driver_begins_to_wait_is_seen() -> None:
    """The driver then holds the lock of what it waits for."""
    with stopping.stop_on_signals() as stop:
        with stop._cond:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGTERM)

        assert stop.wait(180)


def stopped_and_waiting() -> None:
    with stopping.stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(180)


def test_a_second_signal_counts_while_the_first_one_is_still_being_told(caplog: pytest.LogCaptureFixture) -> None:
    class Impatient(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    logger = logging.getLogger(stopping.__name__)
    caplog.set_level(logging.INFO, stopping.__name__)
    impatient = Impatient()
    logger.addHandler(impatient)
    try:
        with pytest.raises(Retryable, match="given up"):
            stopped_and_waiting()
    finally:
        logger.removeHandler(impatient)


def test_a_driver_that_was_replaced_says_so_whatever_signals_come() -> None:
    """Nobody may start it again, as they may after a batch that was given up."""

    def replaced_and_stopped() -> None:
        with stopping.stop_on_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except BaseException as given_up:
                raise Fenced("a newer writer exists") from given_up

    with pytest.raises(Fenced, match="a newer writer"):
        replaced_and_stopped()


def test_the_limits_are_those_of_the_documents() -> None:
    assert (stopping.STOP_TIMEOUT_S, stopping.UNWIND_TIMEOUT_S) == (60.0, 10.0)
