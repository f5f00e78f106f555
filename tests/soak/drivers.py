"""Drivers of one stream, kept running as a scheduler would: started again after exit code 75, or when they were killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import psutil

from beam_exactly_once.errors import EXIT_DONE, EXIT_FENCED, EXIT_RETRYABLE

POLL_S = 0.1
END_TIMEOUT_S = 180.0
MODULE = "beam_exactly_once.pipelines.kafka_to_files"


def clock_time() -> str:
    """Of now, for people who compare what was done with what drivers say."""
    return datetime.now().astimezone().time().isoformat("milliseconds")


class Drivers:
    """One driver, or for a while two; a context manager that ends them.

    Args:
        flags: of the ready-made pipeline.
        log: what they say, each line behind its time and its process.
    """

    def __init__(self, flags: list[str], log: Path) -> None:
        self._flags = flags
        self._log = log
        self._running: list[psutil.Popen] = []
        self._lock = threading.Lock()
        self._is_ending = threading.Event()
        self.starts = 0
        self.faults: list[str] = []
        self._keeping = threading.Thread(target=self._keep, name="drivers", daemon=True)

    def __enter__(self) -> Drivers:
        self.start_another()
        self._keeping.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ending.set()
        self._keeping.join()
        for one in self._running:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()

    @property
    def newest(self) -> psutil.Popen:
        """The one that has the stream, or is about to take it."""
        with self._lock:
            return self._running[-1]

    def start_another(self) -> None:
        """Beside whatever runs."""
        command = [sys.executable, "-m", MODULE, *self._flags]
        with self._lock:
            started = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
            self._running.append(started)
            self.starts += 1
        threading.Thread(target=self._write_down, args=(started,), name="what a driver says", daemon=True).start()

    def _write_down(self, driver: psutil.Popen) -> None:
        with self._log.open("ab", buffering=0) as log:
            log.write(f"{clock_time()} {driver.pid} starts\n".encode())
            for line in driver.stdout:
                log.write(f"{clock_time()} {driver.pid} ".encode() + line)

    def _keep(self) -> None:
        while not self._is_ending.wait(POLL_S):
            with self._lock:
                newest = self._running[-1]
                ended = [one for one in self._running if one.poll() is not None]
                self._running = [one for one in self._running if one not in ended]
            for one in ended:
                allowed = (EXIT_RETRYABLE, -signal.SIGKILL, *(() if one is newest else (EXIT_FENCED,)))
                if one.returncode not in allowed:
                    self.faults.append(f"a driver ended with {one.returncode}, see {self._log}")
            if newest in ended:
                self.start_another()

    def end(self) -> None:
        """Ask them to stop, and wait for it: the one that has the stream is done, others are fenced or started in vain."""
        self._is_ending.set()
        self._keeping.join()
        for one in self._running:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()
                one.terminate()
        codes = [self._code_of(one) for one in self._running]
        # One that has just been started ends by the signal itself: it does not listen yet, and has not taken the stream.
        others = (EXIT_DONE, EXIT_FENCED, EXIT_RETRYABLE, -signal.SIGTERM)
        self.faults += [
            f"a driver that was asked to stop ended with {code}, see {self._log}"
            for code in codes
            if code not in others
        ]
        if EXIT_DONE not in codes:
            self.faults.append(f"no driver that was asked to stop was done, see {self._log}")

    @staticmethod
    def _code_of(one: psutil.Popen) -> int | None:
        try:
            return int(one.wait(END_TIMEOUT_S))
        except subprocess.TimeoutExpired:
            return None
