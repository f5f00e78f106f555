"""Runs a command to its end and says what it cost, its children and grandchildren included.

    python measuring.py COMMAND ...

Prints one line of JSON. A JVM that a program leaves behind is waited for, too: on Linux this process takes in orphans.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


class ProgramFailed(Exception):
    """A measured program ended with an error, or did not end."""


@dataclass(frozen=True)
class Run:
    """What one run of a program cost, from its start to its end as a process."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    """Of the largest of its processes."""


def run_measured(command: list[str], folder: Path, environment: dict[str, str], timeout_s: float) -> Run:
    """Run ``command`` in ``folder``; what it prints goes to ``log`` there.

    Raises:
        ProgramFailed: it failed, or ran longer than ``timeout_s``.
    """
    log = folder / "log"
    with log.open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, __file__, *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=printed,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=timeout_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ProgramFailed(f"{command} did not end in {timeout_s:g} s:\n{log.read_text()[-3000:]}") from None
            raise
    if process.returncode:
        raise ProgramFailed(f"{command} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    return Run(**json.loads(said))


def main(command: list[str]) -> int:
    """Run, wait for all that it left behind, print."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began_s = time.perf_counter()
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    seconds = time.perf_counter() - began_s
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
    print(json.dumps(vars(run)))
    return code if code >= 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
