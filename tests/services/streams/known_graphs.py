"""Stories of the known graphs, which hold on every runner."""

from __future__ import annotations

from collections.abc import Callable

from graphs import test_known_graphs as known
from graphs.known_streams import NumberStream

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
