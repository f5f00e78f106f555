"""One submission of the unbounded pipeline: on a Prism of its own, which ends with it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.runners.job_ends import WaitingForEnd
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
from beam_exactly_once.pipelines.runners.watched_run import watched_run
from beam_exactly_once.pipelines.runners.whole_elements import refuse_timed_flushes
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.commit_counts import CommitCounts
from beam_exactly_once.transforms.continuous.plan_batches import ContinuousJob, PlanBatches

PLAN_LABEL = "BatchTask/PlanBatches"
"""Where the full label of the one ParDo begins whose payload is the job."""
CANCEL_TIMEOUT_S = 5.0
"""How long a job may take to end that is cancelled."""


@dataclass(frozen=True, slots=True)
class OpenRunner:
    """A runner that is up."""

    run_task: RunTask
    """Publishes a marker again, as a job that ends."""
    submit: Callable[[ContinuousJob], WaitingForEnd]
    """Starts the unbounded pipeline; it ends with the runner at the latest."""


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
    """A Prism that translates a pipeline once and hands it to ``run.drive``, to be submitted again and again.

    Raises:
        ConfigurationError: another runner is asked for, or a job server that others may use.
    """
    chosen = chosen_runner(runner, options)
    if isinstance(chosen, FlinkRunner):
        raise ConfigurationError(
            "trigger=Continuous(…) is not proved on FlinkRunner yet: use trigger=ProcessingTime(1), which takes about a second a "
            "batch there, or runner='PrismRunner'."
        )
    if not isinstance(chosen, PrismRunner):
        raise ConfigurationError(
            f"trigger=Continuous(…) needs runner='PrismRunner': {type(chosen).__name__}, which DirectRunner means, runs each "
            "step to its end before the next one, and this pipeline has none. Use trigger=ProcessingTime(…) there."
        )
    if options.view_as(PortableOptions).job_endpoint:
        raise ConfigurationError(
            "trigger=Continuous(…) starts a Prism of its own, which must end with the stream: leave --job_endpoint out."
        )
    continuous = copy.copy(chosen)
    continuous.__class__ = type(_ContinuousPrism.__name__, (_ContinuousPrism, type(chosen)), {})
    continuous.continuous = run
    return continuous


class _ContinuousPrism(PrismRunner):
    """Runs a stream's graph as one job; a job that is given up ends with its Prism, so nothing of it is left."""

    continuous: ContinuousRun

    def run_portable_pipeline(self, proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> PipelineResult:
        refuse_timed_flushes(options)
        options = copy.deepcopy(options)  # what jobs need is not written into the user's
        timeout_s = self.continuous.batch_timeout_s
        with loopback_workers(proto, options) as wait_ended:
            graphs = TranslatedGraphs(proto, self.continuous.publishing)

            def submitted(graph: beam_runner_api_pb2.Pipeline) -> PipelineResult:
                return super(_ContinuousPrism, self).run_portable_pipeline(graph, options)

            def run_task(task: BatchTask) -> CommitCounts:
                with watched_run(timeout_s) as watch:
                    result = submitted(with_task(graphs.of(task), task))
                    watch(result)
                    result.wait_until_finish()
                return CommitCounts()

            @contextlib.contextmanager
            def opened() -> Iterator[OpenRunner]:
                with contextlib.ExitStack() as ending:
                    ending.enter_context(one_job_server(self, options))

                    def submit(job: ContinuousJob) -> WaitingForEnd:
                        graph = copy.deepcopy(proto)
                        put_into(only_pardo(graph, PLAN_LABEL), PlanBatches(job))
                        result = submitted(graph)
                        waiting = WaitingForEnd(result)
                        ending.callback(_cancel, result, waiting, wait_ended)
                        return waiting

                    yield OpenRunner(run_task, submit)

            self.continuous.drive(opened)
        return Done(StreamMetrics())


def _cancel(result: PipelineResult, waiting: WaitingForEnd, wait_ended: Callable[[float], None]) -> None:
    """Let the job, and the worker of it in this process, end in order. Its Prism is ended whatever it says."""
    if not waiting.ended.is_set():
        with contextlib.suppress(Exception):
            result.cancel()
        waiting.ended.wait(CANCEL_TIMEOUT_S)
    wait_ended(CANCEL_TIMEOUT_S)
