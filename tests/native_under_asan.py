"""Builds the native reader with AddressSanitizer and runs its tests, or those that are named: python tests/native_under_asan.py

Needs gcc. The interpreter and librdkafka stay as they are: what is found is what the extension does with memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN = """
import sys
import beam_exactly_once.kafka as room
room.__path__.insert(0, sys.argv[1])
from beam_exactly_once.kafka import _native_reader
assert _native_reader.__file__.startswith(sys.argv[1])
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def main(tests: list[str]) -> int:
    """The exit code of pytest, or of what AddressSanitizer ended."""
    with tempfile.TemporaryDirectory() as built:
        flags = {"CC": "gcc", "CFLAGS": "-fsanitize=address -fno-omit-frame-pointer -g -Wall -Wextra -Werror"}
        build = [
            sys.executable,
            "setup.py",
            "-q",
            "build_ext",
            "--build-lib",
            built,
            "--build-temp",
            f"{built}/objects",
        ]
        subprocess.run(build, cwd=ROOT, env={**os.environ, **flags}, check=True)
        library = subprocess.run(
            ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        # The interpreter leaves memory behind when it ends, so leaks say nothing.
        sanitized = {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "BEAM_EXACTLY_ONCE_READER": "native"}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        run = [sys.executable, "-c", RUN, f"{built}/beam_exactly_once/kafka", "-q", "--timeout", "600", *tests]
        return subprocess.run(
            run, cwd=ROOT, env={**os.environ, **sanitized, "PYTHONPATH": path}, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["tests/contract/test_native_reader.py"]))
