"""What the lab shows, and that the documents show the same."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from beam_exactly_once.lab import experiment, report
from beam_exactly_once.lab.experiment import RECORDS, Outcome
from beam_exactly_once.lab.lives import Tally
from beam_exactly_once.lab.moments import NEVER
from beam_exactly_once.lab.picture import draw
from support.command_line import run
from support.lab.outcomes import expected

ROOT = Path(__file__).parents[3]


def shown(outcomes: list[Outcome]) -> list[str]:
    printed = io.StringIO()
    report.show(outcomes, Console(file=printed, width=120))
    return [line.rstrip() for line in printed.getvalue().splitlines()]


def printed_in(document: str, command: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    (block,) = re.findall(rf"```console\n\$ {re.escape(command)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [str(line) for line in block.splitlines()]


def test_a_tally_tells_what_is_lost_from_what_is_there_again() -> None:
    tally = Tally.of(6, [0, 1, 1, 1, 4, 5, 5])
    assert (tally.written, tally.lost, tally.repeated, tally.is_exact) == (7, 2, 3, False)
    assert list(tally.fates()) == [("once", 1), ("repeated", 1), ("lost", 2), ("once", 1), ("repeated", 1)]
    assert Tally.of(2, [1, 0]).is_exact


def test_the_page_on_why_shows_what_the_command_prints() -> None:
    assert printed_in("docs/why.md", "beam-exactly-once lab --svg lab.svg") == shown(expected())
    assert (ROOT / "docs" / "lab.svg").read_text(encoding="utf-8") == draw(expected())


def test_the_readme_shows_its_last_lines() -> None:
    assert printed_in("README.md", "beam-exactly-once lab | tail -3") == shown(expected())[-3:]


def test_a_record_that_this_library_lost_is_never_called_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = [*expected(), Outcome("offset_ranges", NEVER, Tally([0] + [1] * (RECORDS - 1)))]
    monkeypatch.setattr(experiment, "run_lab", lambda work_dir: iter(lost))
    result = run("lab", "--work-dir", tmp_path)
    assert result.exit_code == 1
    assert "Offset ranges:           at worst 1 lost and 0 repeated" in result.stdout
    assert "This must never be: please report it." in result.stdout


def test_json_and_the_picture_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run_lab", lambda work_dir: iter(expected()))
    result = run("lab", "--json", "--svg", tmp_path / "lab.svg")
    assert result.exit_code == 0
    assert (tmp_path / "lab.svg").read_text(encoding="utf-8") == draw(expected())
    assert '"kill": "blocks_wait_in_memory",\n      "lost": 300,\n      "repeated": 0' in result.stdout


def test_a_folder_with_older_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "receiver-never").mkdir()
    result = run("lab", "--work-dir", tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path} is not empty; give another --work-dir, or remove it." in result.stderr
