"""Random graphs, from any start, on the runner of Beam's Python SDK: every sink has what plain Python says, batch by batch.

What goes wrong is printed with its seed; `python tests/graphs/run.py --max_nodes 6 --one SEED --shrink` makes it small.
$BEAM_EXACTLY_ONCE_GRAPHS_SEED, a number, gives other graphs.
"""

from __future__ import annotations

import pytest

from graphs.chunks import FIRST_SEED, check
from graphs.runners import RUNNERS

pytestmark = pytest.mark.runs_on("DirectRunner", storage="memory")

CHUNK = 5
CHUNKS = {"in_process": 6, "two_workers": 2, "one_thread": 1, "threads": 1}
"""So many for each runner, each with graphs of its own."""
PLACES = [runner for runner, count in CHUNKS.items() for _ in range(count)]


@pytest.mark.parametrize(("number", "runner"), list(enumerate(PLACES)))
def test_random_graphs_by_value(number: int, runner: str) -> None:
    first_seed = FIRST_SEED + number * CHUNK
    check(range(first_seed, first_seed + CHUNK), RUNNERS[runner])


@pytest.mark.runs_on("DirectRunner")
def test_random_graphs_with_workers_in_processes() -> None:
    """Few, and small: each start of a stream starts new processes."""
    first_seed = FIRST_SEED + 10_000
    check(range(first_seed, first_seed + 2), RUNNERS["processes"], max_nodes=4)
