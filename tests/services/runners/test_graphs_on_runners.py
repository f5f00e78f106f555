"""Random graphs, from any start, on Prism and on a Flink inside the job server: by value, batch by batch.

Kafka and the stores are in memory, since workers live in the driver's process.
"""

from __future__ import annotations

import os

import pytest

from graphs.checking import REFUSED, outcome_of
from graphs.drawing import story
from graphs.runners import Runner, flink, prism

FIRST_SEED = int(os.environ.get("BEAM_EXACTLY_ONCE_GRAPHS_SEED", "0"))
CHUNK = 6
NODES_MAX = 6
REFUSED_MAX = 2


def check(runner: Runner, first_seed: int) -> None:
    seeds = range(first_seed, first_seed + CHUNK)
    outcomes = {seed: outcome_of(story(seed, nodes_max=NODES_MAX), runner) for seed in seeds}

    wrong = [
        f"seed {seed}: {one}\n{story(seed, nodes_max=NODES_MAX)}" for seed, one in outcomes.items() if one.is_wrong
    ]
    assert not wrong, "\n\n".join(wrong)
    assert sum(one.kind == REFUSED for one in outcomes.values()) <= REFUSED_MAX


@pytest.mark.runs_on("PrismRunner", storage="memory")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("chunk", range(5))
def test_random_graphs_on_prism(prism_location: str, chunk: int) -> None:
    check(prism(prism_location), FIRST_SEED + chunk * CHUNK)


@pytest.mark.runs_on("FlinkRunner [local]", storage="memory")
@pytest.mark.parametrize("chunk", range(4))
def test_random_graphs_on_flink(flink_job_server_jar: str, chunk: int) -> None:
    check(flink(flink_job_server_jar), FIRST_SEED + 1_000 + chunk * CHUNK)
