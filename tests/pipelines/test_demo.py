"""The demo as a person runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def test_a_small_demo_finds_nothing_lost_and_nothing_twice(tmp_path: Path) -> None:
    demo = subprocess.run(
        [
            sys.executable,
            *("-m", "beam_exactly_once", "demo", "--records", "5000", "--kills", "3", "--seed", "5"),
            *("--work-dir", str(tmp_path / "demo")),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    numbers = re.findall(r"[\d,]+", demo.stdout.split("Exactly once?")[1])
    assert numbers[:5] == ["5,000", "5,000", "0", "0", "3"]
    assert list((tmp_path / "demo" / "output").glob("*.parquet"))
    assert (tmp_path / "demo" / "checkpoint" / "metadata.json").is_file()
    assert demo.stdout.splitlines()[-5:] == [
        "Each of 5,000 records is in the files exactly once, although the pipeline was killed 3 times.",
        "",
        f"Where it stands:    beam-exactly-once status {tmp_path}/demo/checkpoint",
        f"Check every file:   beam-exactly-once verify {tmp_path}/demo/checkpoint",
        "Your own topics:    beam-exactly-once run kafka-to-files --help",
    ]
