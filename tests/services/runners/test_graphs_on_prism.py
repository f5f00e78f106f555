"""Random graphs, from any start, on Prism: by value, batch by batch.

What goes wrong is printed with its seed; `python tests/graphs/run.py --runner prism --max_nodes 6 --one SEED --shrink` makes
it small. Kafka and the stores are in memory, since workers live in the driver's process.
"""

from __future__ import annotations

import pytest

from graphs.chunks import FIRST_SEED, check
from graphs.known_streams import number_stream
from graphs.runners import prism
from services.streams.known_graphs import KNOWN

CHUNK = 4


@pytest.mark.runs_on("PrismRunner", storage="memory")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("story", KNOWN)
def test_a_known_graph_on_prism(prism_location: str, story: str) -> None:
    with number_stream(prism(prism_location)) as stream:
        KNOWN[story](stream)


@pytest.mark.runs_on("PrismRunner", storage="memory")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("number", range(2))
def test_random_graphs_on_prism(prism_location: str, number: int) -> None:
    first_seed = FIRST_SEED + number * CHUNK
    check(range(first_seed, first_seed + CHUNK), prism(prism_location))
