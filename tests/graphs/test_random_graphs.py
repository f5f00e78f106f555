"""Random graphs, from any start, on the runner of Beam's Python SDK: every sink has what plain Python says, batch by batch.

What goes wrong is printed with its seed; `python tests/graphs/run.py --one SEED --shrink` makes it small. Other graphs than
the usual ones: set $BEAM_EXACTLY_ONCE_GRAPHS_SEED.
"""

from __future__ import annotations

import os

import pytest

from graphs.checking import REFUSED, outcome_of
from graphs.drawing import story
from graphs.runners import RUNNERS

pytestmark = pytest.mark.runs_on("DirectRunner", storage="memory")

FIRST_SEED = int(os.environ.get("BEAM_EXACTLY_ONCE_GRAPHS_SEED", "0"))
CHUNK = 8
CHUNKS = {"in_process": 16, "two_workers": 5, "one_thread": 2, "threads": 2}
"""Each has graphs of its own."""
MAX_REFUSED = 3
"""Of a chunk; few graphs have steps that wait for each other."""


def _chunks() -> list[tuple[str, int]]:
    runners = [runner for runner, count in CHUNKS.items() for _ in range(count)]
    return [(runner, FIRST_SEED + number * CHUNK) for number, runner in enumerate(runners)]


@pytest.mark.parametrize(("runner", "first_seed"), _chunks())
def test_random_graphs_by_value(runner: str, first_seed: int) -> None:
    outcomes = {seed: outcome_of(story(seed), RUNNERS[runner]) for seed in range(first_seed, first_seed + CHUNK)}

    wrong = [f"seed {seed} on {runner}: {one}\n{story(seed)}" for seed, one in outcomes.items() if one.is_wrong]
    assert not wrong, "\n\n".join(wrong)
    assert sum(one.kind == REFUSED for one in outcomes.values()) <= MAX_REFUSED


def test_random_graphs_with_workers_in_processes() -> None:
    """Few, and small: each batch starts new processes."""
    seeds = range(FIRST_SEED + 10_000, FIRST_SEED + 10_003)

    outcomes = {seed: outcome_of(story(seed, max_nodes=4), RUNNERS["processes"]) for seed in seeds}

    assert not [f"seed {seed}: {one}\n{story(seed, max_nodes=4)}" for seed, one in outcomes.items() if one.is_wrong]
