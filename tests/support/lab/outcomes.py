"""What the lab finds, whenever and wherever it runs."""

from __future__ import annotations

from beam_exactly_once.lab.experiment import RECORDS, RUNS, Outcome
from beam_exactly_once.lab.lives import Tally
from beam_exactly_once.lab.moments import DATA_ONLY, PROGRESS_ONLY, WAITING, WRITTEN, Design, Moment

DIFFERENT: dict[tuple[Design, Moment], tuple[range, int]] = {
    ("receiver", PROGRESS_ONLY): (range(400, 500), 0),
    ("receiver", WAITING): (range(300, 600), 0),
    ("receiver", WRITTEN): (range(400, 600), 0),
    ("logged_receiver", DATA_ONLY): (range(400, 500), 2),
    ("logged_receiver", WRITTEN): (range(300, 400), 2),
}
"""Ids that are there otherwise than once, and how often."""


def expected() -> list[Outcome]:
    """In the order of the runs."""
    return [Outcome(design, moment, Tally(_copies(design, moment))) for design, moment in RUNS]


def _copies(design: Design, moment: Moment) -> list[int]:
    ids, times = DIFFERENT.get((design, moment), (range(0), 1))
    return [times if number in ids else 1 for number in range(RECORDS)]
