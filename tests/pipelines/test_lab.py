"""The lab as a person runs it: its counts are the same in every run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson

from beam_exactly_once.lab.picture import draw
from support.lab.outcomes import expected


def test_receivers_lose_and_repeat_where_offset_ranges_do_not(tmp_path: Path) -> None:
    lab = subprocess.run(
        [sys.executable, "-m", "beam_exactly_once", "lab", "--json", "--svg", str(tmp_path / "lab.svg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert lab.returncode == 0, lab.stderr
    assert orjson.loads(lab.stdout) == {"outcomes": [outcome.to_json() for outcome in expected()], "exact": True}
    assert (tmp_path / "lab.svg").read_text(encoding="utf-8") == draw(expected())
