"""Three designs, killed at the same moments, and counted by value."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import EmbeddedBroker, produce
from beam_exactly_once.lab.lives import Tally, life, pipeline
from beam_exactly_once.lab.moments import DESIGNS, MOMENTS, NEVER, Design, Moment
from beam_exactly_once.lab.old_designs import BLOCK_RECORDS, INTERVAL_BLOCKS, OUTPUT, Run, drive

TOPIC = "events"
RECORDS = 1000
SIDE_BY_SIDE = max(2, min(4, os.cpu_count() or 1))
"""Runs at a time. They wait for the broker and the disk, too, so two are faster than one on one processor."""
RUNS = tuple((design, moment) for moment in MOMENTS for design in DESIGNS if design not in moment.impossible)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one design wrote that was killed at one moment, once it had run to its end."""

    design: Design
    moment: Moment
    tally: Tally

    def to_json(self) -> Json:
        """For machines."""
        return {
            "design": self.design,
            "kill": self.moment.name,
            "lost": self.tally.lost,
            "repeated": self.tally.repeated,
        }


def run_lab(work_dir: Path) -> Iterator[Outcome]:
    """Run each design once a moment; outcomes come in the order of :data:`RUNS`. Runs share nothing but the broker, so several go
    on side by side.

    Args:
        work_dir: gets a folder for each run; must be empty, or not be there.

    Raises:
        ConfigurationError: ``work_dir`` is not empty, or a process failed.
    """
    if work_dir.exists() and any(work_dir.iterdir()):
        raise ConfigurationError(f"{work_dir} is not empty; give another --work-dir, or remove it.")
    with EmbeddedBroker({TOPIC: 1}) as broker, ThreadPoolExecutor(SIDE_BY_SIDE, "lab") as runs:
        for _ in produce(broker.bootstrap_servers, TOPIC, 1, (b"%d" % number for number in range(RECORDS))):
            pass
        yield from runs.map(lambda run: _outcome(run, work_dir, broker.bootstrap_servers), RUNS)


def _outcome(run: tuple[Design, Moment], work_dir: Path, bootstrap_servers: str) -> Outcome:
    design, moment = run
    folder = work_dir / f"{design}-{moment.name}"
    (folder / OUTPUT).mkdir(parents=True)
    if design == "offset_ranges":
        was_killed = _offset_ranges(moment, folder, bootstrap_servers)
    else:
        was_killed = _old_design(design, moment, folder, bootstrap_servers)
    if was_killed != (moment != NEVER):
        raise ConfigurationError(f"{folder.name} was {'' if was_killed else 'not '}killed; see {folder / 'log'}.")
    return Outcome(design, moment, Tally.of(RECORDS, _ids(folder / OUTPUT)))


def is_exact(outcomes: Sequence[Outcome]) -> bool:
    """Whether this library lost nothing and repeated nothing."""
    return all(outcome.tally.is_exact for outcome in outcomes if outcome.design == "offset_ranges")


def _old_design(design: Design, moment: Moment, folder: Path, bootstrap_servers: str) -> bool:
    run = Run(design, folder, bootstrap_servers, TOPIC, RECORDS, moment)
    _run_to_the_end(folder, (drive, run), (drive, run))
    return run.killed.exists()


def _offset_ranges(moment: Moment, folder: Path, bootstrap_servers: str) -> bool:
    flags = [
        f"--bootstrap-servers={bootstrap_servers}",
        f"--topics={TOPIC}",
        f"--output-location={folder / OUTPUT}",
        "--output-format=text",
        f"--checkpoint-location={folder / 'checkpoint'}",
        f"--max-batch-offsets={BLOCK_RECORDS * INTERVAL_BLOCKS}",
    ]
    again = (pipeline, "kafka_to_files", flags)
    return _run_to_the_end(folder, (*again, *moment.kill), again)


def _run_to_the_end(folder: Path, first: tuple[Any, ...], again: tuple[Any, ...]) -> bool:
    """Start it, and if it was killed as a whole, start it again; whether it was."""
    log = folder / "log"
    with life(log, *first) as started:
        was_killed = started.was_killed()
    if was_killed:
        with life(log, *again) as started:
            if started.was_killed():
                raise ConfigurationError(f"{folder.name} was killed by somebody else; see {log}.")
    return was_killed


def _ids(output: Path) -> Iterator[int]:
    """Of all records that are visible there."""
    for file in output.glob("*.txt"):
        yield from map(int, file.read_bytes().split())
