"""Several random graphs in one test."""

from __future__ import annotations

import os
from collections.abc import Iterable

from graphs.checking import REFUSED, outcome_of
from graphs.drawing import story
from graphs.runners import Runner

FIRST_SEED = int(os.environ.get("BEAM_EXACTLY_ONCE_GRAPHS_SEED", "0"))
"""Of all tests. Another one gives other graphs."""
MAX_NODES = 6
"""Small graphs, so that there can be many. The command has this as --max_nodes."""


def check(seeds: Iterable[int], runner: Runner, *, max_nodes: int = MAX_NODES) -> None:
    """Every sink of each graph has what plain Python says; few are refused, as steps that wait for each other are rare.

    Raises:
        AssertionError: with the seeds and the graphs.
    """
    stories = {seed: story(seed, max_nodes=max_nodes) for seed in seeds}
    outcomes = {seed: outcome_of(one, runner) for seed, one in stories.items()}

    wrong = [f"seed {seed}: {one}\n{stories[seed]}" for seed, one in outcomes.items() if one.is_wrong]
    assert not wrong, "\n\n".join(wrong)
    refused = [seed for seed, one in outcomes.items() if one.kind == REFUSED]
    assert len(refused) <= len(stories) // 3, f"too many are refused: {refused}"
