"""Running one translated graph many times, each time with another task in it.

Building and translating a graph costs more than running a small batch. So a stream's graph is translated once. On FnApiRunner
its steps stay set up from batch to batch, and the task comes as the element of an Impulse; on portable runners, the payload of
one ParDo, the task, is replaced for each batch. The seams are ``run_via_runner_api`` of FnApiRunner and
``run_portable_pipeline`` of portable runners: behind them Beam still handles options, environments and worker counts.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import apache_beam as beam
from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners import create_runner
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState
from apache_beam.transforms.environments import Environment
from apache_beam.utils import proto_utils

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka.kept_clients import keeping_clients
from beam_exactly_once.pipelines.runners.job_ends import JobEnds, counted, rest_address
from beam_exactly_once.pipelines.runners.job_server import one_job_server
from beam_exactly_once.pipelines.runners.loopback_workers import loopback_workers
from beam_exactly_once.pipelines.runners.open_stages import KeptStages
from beam_exactly_once.pipelines.runners.stage_by_stage import StageByStage
from beam_exactly_once.pipelines.runners.stream_metrics import StreamMetrics
from beam_exactly_once.pipelines.runners.watched_run import watched_run
from beam_exactly_once.pipelines.runners.whole_elements import refuse_timed_flushes
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.commit_counts import CommitCounts
from beam_exactly_once.transforms.emit_task import EmitTask, encoded_task

TASK_ROOT = "BatchTask/Impulse"
"""The full label of the Impulse whose element can be the task."""
TASK_LABEL = "BatchTask/EmitTask"
"""Where the full label of the one ParDo begins whose payload can be the task."""

RunTask: TypeAlias = Callable[[BatchTask], CommitCounts]
"""Runs the graph with a task to its end; returns what its commit counted. Raises what the graph raised."""


@dataclass(frozen=True, slots=True)
class RepeatedRun:
    """What a runner does with a stream's graph, once it is translated."""

    drive: Callable[[RunTask], None]
    """Called once, when the pipeline runs."""
    publishing: Callable[[], beam.Pipeline]
    """Makes the graph for a task without a plan: it publishes a marker again, and runs no step of the user's."""
    batch_timeout_s: float | None = None
    """How long a portable runner may take for one run."""


def repeating_runner(
    runner: str | PipelineRunner | None, options: PipelineOptions, repeated: RepeatedRun
) -> PipelineRunner:
    """A runner that translates a pipeline once and hands :data:`RunTask` to ``repeated.drive``.

    The choice is made here, once: ``DirectRunner`` means FnApiRunner, without trying to download another runner in
    each batch. A runner that is given as an instance stays as it is: the result is a copy, so that several streams may
    be given the same one.

    Args:
        runner: name or instance; None takes the options' runner.
        options: of the pipeline.
        repeated: what to do.

    Raises:
        ConfigurationError: the runner cannot run a translated graph again.
    """
    chosen = chosen_runner(runner, options)
    repeating = copy.copy(chosen)
    way = _RepeatingFnApiRunner if isinstance(chosen, FnApiRunner) else _RepeatingPortableRunner
    repeating.__class__ = type(way.__name__, (way, type(chosen)), {})
    repeating.repeated = repeated
    return repeating


def chosen_runner(runner: str | PipelineRunner | None, options: PipelineOptions) -> PipelineRunner:
    """The runner that is named, or given, or the options' one.

    Raises:
        ConfigurationError: it cannot run a stream.
    """
    wanted = runner or options.view_as(StandardOptions).runner or StandardOptions.DEFAULT_RUNNER
    try:
        created = create_runner(wanted) if isinstance(wanted, str) else wanted
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"runner {wanted} is not known ({error}); use DirectRunner, FlinkRunner or PrismRunner."
        ) from None
    if isinstance(created, SwitchingDirectRunner):
        created = FnApiRunner()
    if not isinstance(created, FnApiRunner | PortableRunner):
        name = wanted if isinstance(wanted, str) else type(wanted).__name__
        raise ConfigurationError(f"runner {name} is not supported; use DirectRunner, FlinkRunner or PrismRunner.")
    return created


class _RepeatingFnApiRunner(StageByStage):
    """Runs every batch in this process, or in workers that it starts."""

    repeated: RepeatedRun

    def run_via_runner_api(self, proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> PipelineResult:
        self.refuse_unsupported(proto, options)
        graphs, metrics = TranslatedGraphs(proto, self.repeated.publishing), StreamMetrics()
        with keeping_clients(), contextlib.closing(KeptStages(lambda: self.open(proto, options))) as kept:

            def run_task(task: BatchTask) -> CommitCounts:
                task = dataclasses.replace(task, workers=self._num_workers)
                impulses = {TASK_ROOT: encoded_task(task)}
                if self.keeps_workers and task.plan is not None:
                    return counted(kept.run(impulses), metrics)
                with contextlib.closing(KeptStages(lambda: self.open(graphs.of(task), options))) as once:
                    return counted(once.run(impulses), metrics)

            self.repeated.drive(run_task)
        return Done(metrics)


class _RepeatingPortableRunner(PortableRunner):
    """Submits every batch as a job to one job server."""

    repeated: RepeatedRun

    def run_portable_pipeline(self, proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> PipelineResult:
        refuse_timed_flushes(options)
        timeout_s, metrics = self.repeated.batch_timeout_s, StreamMetrics()
        options = copy.deepcopy(options)  # what jobs need is not written into the user's
        ends = JobEnds(rest_address(self, options), options, metrics)
        with loopback_workers(proto, options), one_job_server(self, options, timeout_s), ends.all_counted():
            graphs = TranslatedGraphs(proto, self.repeated.publishing)

            def run_task(task: BatchTask) -> CommitCounts:
                graph, until_end = with_task(graphs.of(task), task), ends.name_next(task)
                with watched_run(timeout_s) as watch:
                    result = super(_RepeatingPortableRunner, self).run_portable_pipeline(graph, options)
                    watch(result)
                    return until_end(result)

            self.repeated.drive(run_task)
        return Done(metrics)


class TranslatedGraphs:
    """The translated graphs of a stream: the whole one, and, made when it is needed, the one that publishes a marker again."""

    def __init__(self, whole: beam_runner_api_pb2.Pipeline, publishing: Callable[[], beam.Pipeline]) -> None:
        self._whole = whole
        self._make_publishing = publishing

    def of(self, task: BatchTask) -> beam_runner_api_pb2.Pipeline:
        """The graph that is to run ``task``."""
        return self._publishing if task.plan is None else self._whole

    @functools.cached_property
    def _publishing(self) -> beam_runner_api_pb2.Pipeline:
        # What the workers are, and what they must load, is that of the whole graph.
        of_task = self._whole.components.environments[_task_transform(self._whole).environment_id]
        environment = Environment.from_runner_api(of_task, PipelineContext())
        return self._make_publishing().to_runner_api(default_environment=environment)


def with_task(proto: beam_runner_api_pb2.Pipeline, task: BatchTask) -> beam_runner_api_pb2.Pipeline:
    """A copy of the graph that will run ``task``."""
    # A copy, since portable runners change environments of the graph in place.
    copied = copy.deepcopy(proto)
    put_into(_task_transform(copied), EmitTask(task))
    return copied


def put_into(transform: beam_runner_api_pb2.PTransform, fn: beam.DoFn) -> None:
    """Give a ParDo of a translated graph another DoFn of its kind."""
    payload = proto_utils.parse_Bytes(transform.spec.payload, beam_runner_api_pb2.ParDoPayload)
    payload.do_fn.payload = pickler.dumps((fn, (), {}, None, None))
    transform.spec.payload = payload.SerializeToString()


def _task_transform(proto: beam_runner_api_pb2.Pipeline) -> beam_runner_api_pb2.PTransform:
    return only_pardo(proto, TASK_LABEL)


def only_pardo(proto: beam_runner_api_pb2.Pipeline, label: str) -> beam_runner_api_pb2.PTransform:
    """The one ParDo of a translated graph whose full label begins so."""
    (transform,) = (
        candidate
        for candidate in proto.components.transforms.values()
        if candidate.unique_name.startswith(label) and candidate.spec.urn == common_urns.primitives.PAR_DO.urn
    )
    return transform


class Done(PipelineResult):
    """A stream is over when ``run()`` returns."""

    def __init__(self, metrics: StreamMetrics) -> None:
        super().__init__(PipelineState.DONE)
        self._metrics = metrics

    def wait_until_finish(self, duration: int | None = None) -> str:
        """At once."""
        return str(self._state)

    def metrics(self) -> StreamMetrics:
        """Those of the user's steps."""
        return self._metrics
