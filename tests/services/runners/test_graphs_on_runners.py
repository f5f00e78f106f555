"""Random graphs, from any start, on Prism and on a Flink inside the job server: by value, batch by batch.

What goes wrong is printed with its seed; `python tests/graphs/run.py --runner prism --nodes_max 6 --one SEED --shrink` makes
it small. Kafka and the stores are in memory, since workers live in the driver's process.
"""

from __future__ import annotations

import pytest

from graphs.chunks import FIRST_SEED, check
from graphs.runners import flink, prism

CHUNK = 6


@pytest.mark.runs_on("PrismRunner", storage="memory")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("number", range(4))
def test_random_graphs_on_prism(prism_location: str, number: int) -> None:
    first_seed = FIRST_SEED + number * CHUNK
    check(range(first_seed, first_seed + CHUNK), prism(prism_location))


@pytest.mark.runs_on("FlinkRunner [local]", storage="memory")
@pytest.mark.parametrize("number", range(2))
def test_random_graphs_on_flink(flink_job_server_jar: str, number: int) -> None:
    first_seed = FIRST_SEED + 1_000 + number * CHUNK
    check(range(first_seed, first_seed + CHUNK), flink(flink_job_server_jar))
