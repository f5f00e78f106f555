"""Random graphs, from any start, on Prism and on a Flink inside the job server: by value, batch by batch.

What goes wrong is printed with its seed; `python tests/graphs/run.py --runner prism --max_nodes 6 --one SEED --shrink` makes
it small. Kafka and the stores are in memory, since workers live in the driver's process.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphs import test_known_graphs as known
from graphs.chunks import FIRST_SEED, check
from graphs.known_streams import NumberStream, number_stream
from graphs.runners import flink, prism

CHUNK = 6

KNOWN: dict[str, Callable[[NumberStream], None]] = {
    "late branch, timers": lambda stream: known.test_a_branch_that_is_ready_late_is_in_the_commit_of_its_batch(
        stream, known.regrouped
    ),
    "late branch, deferring": lambda stream: known.test_a_branch_that_is_ready_late_is_in_the_commit_of_its_batch(
        stream, known.deferred
    ),
    "side input, timers": lambda stream: known.test_a_side_input_behind_a_step_that_runs_twice(
        stream, known.regrouped, "AsList"
    ),
    "side input, deferring": lambda stream: known.test_a_side_input_behind_a_step_that_runs_twice(
        stream, known.deferred, "AsList"
    ),
    "starts": known.test_a_start_that_has_nothing_to_read_runs_no_step,
    "event time": known.test_windows_by_any_event_time_are_complete,
}
"""Stories of the known graphs, which hold on every runner."""


@pytest.mark.runs_on("PrismRunner", storage="memory")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("story", KNOWN)
def test_a_known_graph_on_prism(prism_location: str, story: str) -> None:
    with number_stream(prism(prism_location)) as stream:
        KNOWN[story](stream)


@pytest.mark.runs_on("FlinkRunner [local]", storage="memory")
@pytest.mark.parametrize("story", KNOWN)
def test_a_known_graph_on_flink(flink_job_server_jar: str, story: str) -> None:
    with number_stream(flink(flink_job_server_jar)) as stream:
        KNOWN[story](stream)


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
