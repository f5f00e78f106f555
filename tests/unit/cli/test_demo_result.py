"""How the demo ends: with a sentence, and what to do next."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from beam_exactly_once.cli.demo import DemoResult, show, show_next_steps


def result(written: int, lost: int, duplicated: int, kills: int) -> DemoResult:
    made = DemoResult(5000)
    made.written, made.lost, made.duplicated = written, lost, duplicated
    made.kills = ["a moment"] * kills
    return made


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            result(5000, 0, 0, 3),
            "Each of 5,000 records is in the files exactly once, although the pipeline was killed 3 times.",
        ),
        (
            result(5000, 0, 0, 1),
            "Each of 5,000 records is in the files exactly once, although the pipeline was killed once.",
        ),
        (result(5000, 0, 0, 0), "Each of 5,000 records is in the files exactly once, without a kill."),
        (
            result(5001, 2, 3, 3),
            "Of 5,000 records, 2 are lost and 3 are there twice. That must never be: please report it, with the flags that "
            "you gave.",
        ),
    ],
)
def test_the_last_line_of_the_result_is_a_sentence(given: DemoResult, sentence: str) -> None:
    shown = io.StringIO()
    show(given, Console(file=shown, width=200))
    assert shown.getvalue().splitlines()[-1] == sentence


@pytest.mark.parametrize(
    ("work_dir", "lines"),
    [
        (
            "/tmp/demo",
            [
                "Where it stands:    beam-exactly-once status /tmp/demo/checkpoint",
                "Check every file:   beam-exactly-once verify /tmp/demo/checkpoint",
                "Your own topics:    beam-exactly-once run kafka-to-files --help",
            ],
        ),
        (
            None,
            [
                "Keep what it wrote: beam-exactly-once demo --work-dir demo",
                "Your own topics:    beam-exactly-once run kafka-to-files --help",
            ],
        ),
    ],
)
def test_the_next_steps_are_commands(work_dir: str | None, lines: list[str]) -> None:
    shown = io.StringIO()
    show_next_steps(work_dir, Console(file=shown, width=200))
    assert shown.getvalue().splitlines() == ["", *lines]
