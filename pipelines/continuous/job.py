"""One submission of the unbounded pipeline, and the runner that it is submitted to."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, PortableOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.continuous.flink_jobs import StreamJobs
from beam_exactly_once.pipelines.continuous.flink_options import BOUNDS, options_of_job, refuse_flinks_recovery
from beam_exactly_once.pipelines.continuous.job_bounds import JobBounds
from beam_exactly_once.pipelines.runners.job_ends import JobEnds, WaitingForEnd, rest_address
from beam_exactly_once.pipelines.runners.job_server import one_job_server
from beam_exactly_once.pipelines.runners.loopback_workers import loopback_workers
from beam_exactly_once.pipelines.runners.repeated_run import (
    Done,
    RunTask,
    TranslatedGraphs,
    chosen_runner,
    only_pardo,
    put_into,
    with_task,
)
from beam_exactly_once.pipelines.runners.stream_metrics import StreamMetrics
from beam_exactly_once.pipelines.runners.watched_run import lost_runner, watched_run
from beam_exactly_once.pipelines.runners.whole_elements import refuse_timed_flushes
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.commit_counts import CommitCounts
from beam_exactly_once.transforms.continuous.plan_batches import ContinuousJob, PlanBatches

PLAN_LABEL = "BatchTask/PlanBatches"
"""Where the full label of the one ParDo begins whose payload is the job."""
CANCEL_TIMEOUT_S = 5.0
"""How long a job may take to end that is cancelled and ends with its runner at the latest, and a worker in this process."""


class JobEnd(Protocol):
    """What a driver sees of the job that it has submitted."""

    ended: threading.Event
    error: BaseException | None
    """What it ended with; None if it ended well."""


@dataclass(frozen=True, slots=True)
class OpenRunner:
    """A runner that is up, for one submission."""

    run_task: RunTask
    """Publishes a marker again, as a job that ends."""
    submit: Callable[[ContinuousJob], JobEnd]
    """Starts the unbounded pipeline; nothing of it is left when the runner is closed."""
    bounds: JobBounds
    """How long the runner bears one job."""


OpenRunners: TypeAlias = Callable[[], AbstractContextManager[OpenRunner]]


@dataclass(frozen=True, slots=True)
class ContinuousRun:
    """What a runner does with a stream's graph, once it is translated."""

    drive: Callable[[OpenRunners], None]
    """Called once, when the pipeline runs."""
    publishing: Callable[[], beam.Pipeline]
    """Makes the graph that publishes a marker again."""
    batch_timeout_s: float | None


def continuous_runner(
    runner: str | PipelineRunner | None, options: PipelineOptions, run: ContinuousRun
) -> PipelineRunner:
    """A runner that translates a pipeline once and hands it to ``run.drive``, to be submitted again and again.

    Raises:
        ConfigurationError: another runner than Prism or Flink is asked for, or one that cannot be watched.
    """
    chosen = chosen_runner(runner, options)
    endpoint = options.view_as(PortableOptions).job_endpoint
    if isinstance(chosen, FlinkRunner):
        refuse_flinks_recovery(options)
        way: type[_ContinuousRunner] = _ContinuousOnCluster
        if rest_address(chosen, options) is None:
            raise ConfigurationError(
                "trigger=Continuous(…) on FlinkRunner watches and ends its job by Flink's REST interface: say where it is, by "
                "--flink_master=HOST:PORT. A Flink inside the job server has none: use trigger=ProcessingTime(…) there."
            )
    elif isinstance(chosen, PrismRunner):
        way = _ContinuousOnItsOwn
        if endpoint:
            raise ConfigurationError(
                "trigger=Continuous(…) starts a Prism of its own, which must end with the stream: leave --job_endpoint out."
            )
    else:
        raise ConfigurationError(
            f"trigger=Continuous(…) needs runner='PrismRunner' or 'FlinkRunner': {type(chosen).__name__}, which DirectRunner "
            "means, runs each step to its end before the next one, and this pipeline has none. Use trigger=ProcessingTime(…) "
            "there."
        )
    continuous = copy.copy(chosen)
    continuous.__class__ = type(way.__name__, (way, type(chosen)), {})
    continuous.continuous = run
    return continuous


class _ContinuousRunner(PortableRunner):
    """Runs a stream's graph as one job, which is submitted again when it is given up."""

    continuous: ContinuousRun

    def run_portable_pipeline(self, proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> PipelineResult:
        refuse_timed_flushes(options)
        options = copy.deepcopy(options)  # what jobs need is not written into the user's
        with loopback_workers(proto, options) as wait_ended, self.opening(proto, options, wait_ended) as opened:
            self.continuous.drive(opened)
        return Done(StreamMetrics())

    def opening(
        self, proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions, wait_ended: Callable[[float], None]
    ) -> AbstractContextManager[OpenRunners]:
        """What opens the runner for one submission after the other."""
        raise NotImplementedError

    def submitted(self, graph: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> PipelineResult:
        """A job, as Beam submits it, with options of its own."""
        self.create_job_service(options).options = options  # of the job server that is open
        return super().run_portable_pipeline(graph, options)

    def run_to_end(
        self,
        graph: beam_runner_api_pb2.Pipeline,
        options: PipelineOptions,
        until_end: Callable[[PipelineResult], object],
    ) -> CommitCounts:
        """Run a job that ends."""
        with watched_run(self.continuous.batch_timeout_s) as watch:
            result = self.submitted(graph, options)
            watch(result)
            until_end(result)
        return CommitCounts()


class _ContinuousOnItsOwn(_ContinuousRunner):
    """Each submission has a runner of its own, a Prism; it ends with it, so nothing is left of a job."""

    @contextlib.contextmanager
    def opening(
        self, proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions, wait_ended: Callable[[float], None]
    ) -> Iterator[OpenRunners]:
        """A new one for each."""
        graphs = TranslatedGraphs(proto, self.continuous.publishing)

        def run_task(task: BatchTask) -> CommitCounts:
            graph = with_task(graphs.of(task), task)
            return self.run_to_end(graph, options, lambda result: result.wait_until_finish())

        @contextlib.contextmanager
        def opened() -> Iterator[OpenRunner]:
            with contextlib.ExitStack() as ending:
                ending.enter_context(one_job_server(self, options))

                def submit(job: ContinuousJob) -> JobEnd:
                    result = self.submitted(_with_job(proto, job), options)
                    waiting = WaitingForEnd(result)
                    ending.callback(_cancel, result, waiting, wait_ended)
                    return waiting

                yield OpenRunner(run_task, submit, JobBounds())

        yield opened


class _ContinuousOnCluster(_ContinuousRunner):
    """Submissions follow each other on a Flink cluster that others use; each is cancelled by its name."""

    @contextlib.contextmanager
    def opening(
        self, proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions, wait_ended: Callable[[float], None]
    ) -> Iterator[OpenRunners]:
        """One job server for all."""
        url = rest_address(self, options)
        assert url is not None
        prefix = options.view_as(GoogleCloudOptions).job_name or ""
        graphs = TranslatedGraphs(proto, self.continuous.publishing)
        ends = JobEnds(url, options, StreamMetrics())

        @contextlib.contextmanager
        def opened() -> Iterator[OpenRunner]:
            with contextlib.ExitStack() as ending:

                def run_task(task: BatchTask) -> CommitCounts:
                    StreamJobs(url, task.stream_id, task.attempt.writer_epoch).end_older()
                    graph, until_end = with_task(graphs.of(task), task), ends.name_next(task)
                    return self.run_to_end(graph, options, until_end)

                def submit(job: ContinuousJob) -> JobEnd:
                    jobs = StreamJobs(url, job.claim.stream_id, job.claim.writer_epoch, prefix)
                    jobs.end_older()
                    ending.callback(wait_ended, CANCEL_TIMEOUT_S)
                    ending.callback(jobs.end_this)
                    try:
                        result = self.submitted(_with_job(proto, job), options_of_job(options, jobs.name))
                    except grpc.RpcError as error:
                        raise lost_runner(error) or error from error
                    ending.callback(_tell_to_cancel, result)
                    return ending.enter_context(contextlib.closing(jobs.end_of_this(WaitingForEnd(result))))

                yield OpenRunner(run_task, submit, BOUNDS)

        with one_job_server(self, options), ends.all_counted():
            yield opened


def _with_job(proto: beam_runner_api_pb2.Pipeline, job: ContinuousJob) -> beam_runner_api_pb2.Pipeline:
    graph = copy.deepcopy(proto)
    put_into(only_pardo(graph, PLAN_LABEL), PlanBatches(job))
    return graph


def _tell_to_cancel(result: PipelineResult) -> None:
    """What has not come to Flink yet is known to the job server alone; who cannot be reached cannot be told."""
    with contextlib.suppress(Exception):
        result.cancel()


def _cancel(result: PipelineResult, waiting: WaitingForEnd, wait_ended: Callable[[float], None]) -> None:
    """Let the job, and the worker of it in this process, end in order. Its Prism is ended whatever it says."""
    if not waiting.ended.is_set():
        _tell_to_cancel(result)
        waiting.ended.wait(CANCEL_TIMEOUT_S)
    wait_ended(CANCEL_TIMEOUT_S)
