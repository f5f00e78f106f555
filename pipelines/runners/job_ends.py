"""How a stream learns that a job of a portable runner has ended, and what it counted.

The job server tells both. On Flink it does so late, so the driver asks Flink itself, goes on, and takes the metrics of the
user's steps when the job server has them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from apache_beam.metrics.metric import MetricResults
from apache_beam.options.pipeline_options import FlinkRunnerOptions, GoogleCloudOptions, PipelineOptions
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.pipelines.runners.flink_rest import FlinkJob, RestUnreachable
from beam_exactly_once.pipelines.runners.stream_metrics import StreamMetrics
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.commit_counts import CommitCounts

POLL_S = 0.05
UNREACHABLE_POLL_S = 1.0
"""While Flink does not answer. Where its job manager comes back, it says that the job is gone; the job server would ask for a
minute.
"""
LATE_S = 5.0
"""How long the job server may take, at the end of a stream, for what it tells late: more than twice what it waits at most. What
reads from it would fail in its own thread otherwise."""

_LOGGER = logging.getLogger(__name__)


class JobEnds:
    """Of the jobs of one stream.

    Args:
        master: the address of Flink's REST interface; None where the job server alone tells.
        options: of the stream's jobs, and of nothing else: they get the name of each job.
        metrics: to which those of each job are added.
    """

    def __init__(
        self, master: str | None, options: PipelineOptions, metrics: StreamMetrics, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._master = master
        self._options = options
        self._name = options.view_as(GoogleCloudOptions).job_name
        self._metrics = metrics
        self._clock = clock
        self._late: list[WaitingForEnd] = []
        """Of jobs whose end Flink has told, and the job server not yet."""
        self._has_warned = False

    def name_next(self, task: BatchTask) -> Callable[[PipelineResult], CommitCounts]:
        """Name the job that is submitted next; returns what waits for its end, and gives what its commit counted.

        That raises what the job failed of, and gives zeros where the job server has not counted yet.
        """
        self._take_counted()
        if self._master is None:
            return self._told_by_job_server
        name = f"{self._name or task.stream_id}-{task.attempt.batch_id}-{task.attempt.nonce}"
        self._options.view_as(GoogleCloudOptions).job_name = name
        job = FlinkJob(self._master, name)
        return lambda result: self._told_by_flink(WaitingForEnd(result), job)

    def _told_by_job_server(self, result: PipelineResult) -> CommitCounts:
        result.wait_until_finish()
        return self._counted(result)

    def _told_by_flink(self, waiting: WaitingForEnd, job: FlinkJob) -> CommitCounts:
        poll_s = POLL_S
        while not self._clock.wait(waiting.ended, poll_s):
            try:
                has_ended_well, poll_s = job.has_ended_well(), POLL_S
            except RestUnreachable as error:
                self._warn(error)
                has_ended_well, poll_s = False, UNREACHABLE_POLL_S
            except RuntimeError:
                self._late.append(waiting)
                raise
            if has_ended_well:
                self._late.append(waiting)
                return CommitCounts()
        if waiting.error is not None:
            raise waiting.error
        return self._counted(waiting.result)

    def _warn(self, error: RestUnreachable) -> None:
        if not self._has_warned:
            self._has_warned = True
            _LOGGER.warning(
                "Flink does not answer at --flink_master=%s (%s): as long as it does not, the job server tells when a batch has "
                "ended, up to two seconds later.",
                self._master,
                error,
            )

    def _counted(self, result: PipelineResult) -> CommitCounts:
        return counted(result, self._metrics)

    def _take_counted(self) -> None:
        for waiting in [one for one in self._late if one.ended.is_set()]:
            self._late.remove(waiting)
            if waiting.error is None:
                with contextlib.suppress(Exception):  # they are for people to look at, and the batch is committed
                    self._counted(waiting.result)

    @contextlib.contextmanager
    def all_counted(self) -> Iterator[None]:
        """Behind the block, the job server has told of all jobs, unless it takes too long: metrics are those of all."""
        try:
            yield
        finally:
            until_s = self._clock.monotonic_s() + LATE_S
            for waiting in self._late:
                self._clock.wait(waiting.ended, max(0.0, until_s - self._clock.monotonic_s()))
            self._take_counted()


class WaitingForEnd:
    """For a job server that tells of an end."""

    def __init__(self, result: PipelineResult) -> None:
        self.result = result
        self.ended = threading.Event()
        self.error: BaseException | None = None
        threading.Thread(target=self._wait, name="end of a job", daemon=True).start()

    def _wait(self) -> None:
        try:
            self.result.wait_until_finish()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()


def rest_address(runner: PipelineRunner, options: PipelineOptions) -> str | None:
    """Where Flink itself can be asked, if there is such a place."""
    master = options.view_as(FlinkRunnerOptions).flink_master
    if not isinstance(runner, FlinkRunner) or master in MAGIC_HOST_NAMES:
        return None
    address: str = FlinkRunner.add_http_scheme(master)
    return address.rstrip("/")


def counted(result: PipelineResult, metrics: StreamMetrics) -> CommitCounts:
    """What a run's commit counted; the metrics of the user's steps are added to ``metrics``."""
    found = result.metrics().query()
    metrics.add(found)
    return CommitCounts.read(found[MetricResults.COUNTERS])
