"""Runs a command that must not outlive the program that started it, even if that one is killed.

    python tied_process.py COMMAND …

The command is ended when standard input ends, which the system closes when the starting program is gone. A file of its
own, run as a script: it needs nothing of this library, so it starts at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

END_TIMEOUT_S = 10.0


def main(command: list[str]) -> int:
    """Run ``command`` to its end or to that of standard input; returns its exit code."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_input, args=(process,), daemon=True).start()
    return process.wait()


def _end_with_input(process: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]) & 0xFF)  # the thread may still read, which an ordinary exit would wait for
