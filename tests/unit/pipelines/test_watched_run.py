"""A failure of the runner itself is told apart from one of the pipeline, with the way out where starting again is none."""

from __future__ import annotations

import threading

import pytest
from apache_beam.runners.portability.portable_runner import PipelineResult

from beam_exactly_once.errors import Retryable, RunnerUnavailable
from beam_exactly_once.pipelines.runners.watched_run import watched_run

WAIT_S = 120.0
NO_BUFFERS = "java.io.IOException: Insufficient number of network buffers: required 512, but only 505 available."


def test_a_cluster_with_too_few_network_buffers_says_what_to_set() -> None:
    with pytest.raises(
        RunnerUnavailable, match=r"required 512.*Set taskmanager\.network\.sort-shuffle\.min-buffers: 64"
    ):
        fail(NO_BUFFERS)


def test_any_other_failure_of_the_runner_is_told_as_it_is() -> None:
    with pytest.raises(RunnerUnavailable, match=r"no code of the pipeline, failed: the job manager went away$"):
        fail("the job manager went away")


def fail(message: str) -> None:
    with watched_run(timeout_s=None) as watch:
        watch(PipelineResult.__new__(PipelineResult))  # of a job that nobody can be asked about any more
        raise RuntimeError(message)


def test_a_batch_that_took_too_long_is_not_one_whose_runner_was_lost() -> None:
    """The next attempt may well take as long, so it is not for the driver to make it."""
    result = Cancelled.__new__(Cancelled)
    result.cancelled = threading.Event()
    with pytest.raises(Retryable, match="batch_timeout_s=0 s") as raised:
        run_until_cancelled(result)
    assert not isinstance(raised.value, RunnerUnavailable)


def run_until_cancelled(result: Cancelled) -> None:
    with watched_run(timeout_s=0.0) as watch:
        watch(result)
        assert result.cancelled.wait(WAIT_S)
        raise RuntimeError("it was cancelled")


class Cancelled(PipelineResult):
    """Of a job that runs until it is cancelled."""

    cancelled: threading.Event

    def cancel(self) -> None:
        self.cancelled.set()
