"""``beam-exactly-once run``: ready-made pipelines by their names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from beam_exactly_once.cli import commands
from beam_exactly_once.pipelines import kafka_to_files
from beam_exactly_once.pipelines.ready_made import ReadyMade
from support.command_line import run


def pipelines() -> dict[str, ReadyMade]:
    folder = Path(kafka_to_files.__file__).parent
    files = [*folder.glob("*_to_*.py"), *folder.glob("*_count*.py")]
    modules = [import_module(f"beam_exactly_once.pipelines.{path.stem}") for path in files]
    return {module.PIPELINE.name: module.PIPELINE for module in modules}


def test_every_ready_made_pipeline_has_a_name() -> None:
    assert set(commands.READY_MADE) == set(pipelines())


@pytest.mark.parametrize("target", ["kafka-to-files", "kafka_to_files"])
def test_the_flags_go_to_the_pipeline_and_its_exit_code_comes_back(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sequence[str]] = []

    def main(argv: Sequence[str], *, program: str) -> int:
        seen.append([program, *argv])
        return 75

    monkeypatch.setattr(kafka_to_files, "main", main)
    assert run("run", target, "--topics", "orders", "--help", "--output_location=a").exit_code == 75
    assert seen == [["beam-exactly-once run kafka-to-files", "--topics", "orders", "--help", "--output_location=a"]]


def test_a_target_that_is_none_names_the_nearest() -> None:
    result = run("run", "kafka-to-fils")
    assert (result.exit_code, "Is kafka-to-files meant?" in result.stderr) == (2, True)
    assert "There are kafka-to-files, kafka-to-sql" in run("run", "orders.yaml").stderr


def test_without_a_target_it_says_what_there_is() -> None:
    assert "TARGET is kafka-to-files" in run("run").stdout
    shown = " ".join(run("run", "--help").stdout.split())
    assert "TARGET is kafka-to-files" in shown
    assert all(prefix in shown for prefix in ("--output-", "--rejected-", "--count-"))


def test_both_doors_are_one() -> None:
    door = [sys.executable, "-m", "beam_exactly_once"]
    seen = subprocess.run([*door, "run", "kafka-to-files", "--help"], capture_output=True, text=True, check=True)
    own = [sys.executable, "-m", "beam_exactly_once.pipelines.kafka_to_files"]
    assert (
        seen.stdout.partition("\n")[2]
        == subprocess.run([*own, "--help"], capture_output=True, text=True, check=True).stdout.partition("\n")[2]
    )


@pytest.mark.parametrize("name", commands.READY_MADE)
def test_flags_follow_one_rule(name: str) -> None:
    """By what they are arguments of, and no flag twice."""
    prefixes = {"stream": "--", "source": "--", "output": "--output-", "rejected": "--rejected-", "step": "--count-"}
    prefixes["late"] = "--late-"
    flags = pipelines()[name].flags
    for group, arguments in flags.items():
        assert [one.flag for one in arguments] == [prefixes[group] + one.name.replace("_", "-") for one in arguments]
    everything = [one.flag for arguments in flags.values() for one in arguments]
    assert sorted(set(everything)) == sorted(everything)
