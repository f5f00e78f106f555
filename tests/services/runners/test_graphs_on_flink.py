"""Random graphs, from any start, on a cluster of Flink: by value, batch by batch.

What goes wrong is printed with its seed; `python tests/graphs/run.py --runner flink --max_nodes 6 --one SEED --shrink` makes
it small. Kafka and the stores are in memory, since workers live in the driver's process.
"""

from __future__ import annotations

import pytest

from graphs.chunks import FIRST_SEED, check
from graphs.known_streams import number_stream
from graphs.runners import flink
from services.streams.known_graphs import KNOWN

CHUNK = 2


@pytest.mark.runs_on("FlinkRunner cluster", storage="memory")
@pytest.mark.parametrize("story", KNOWN)
def test_a_known_graph_on_flink(shared_flink: list[str], story: str) -> None:
    with number_stream(flink(shared_flink)) as stream:
        KNOWN[story](stream)


@pytest.mark.runs_on("FlinkRunner cluster", storage="memory")
def test_random_graphs_on_flink(shared_flink: list[str]) -> None:
    first_seed = FIRST_SEED + 1_000
    check(range(first_seed, first_seed + CHUNK), flink(shared_flink))
