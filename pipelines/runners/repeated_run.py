"""Running one translated graph many times, each time with another task in it.

Building and translating a graph costs more than running a small batch. So a stream's graph is translated once, and
for each batch only the payload of one ParDo, the task, is replaced. The seams are ``run_via_runner_api`` of
FnApiRunner and ``run_portable_pipeline`` of portable runners: behind them Beam still handles options, environments
and worker counts.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from apache_beam.internal import pickler
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners import create_runner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState
from apache_beam.utils import proto_utils

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka.kept_clients import keeping_clients
from beam_exactly_once.pipelines.runners.job_server import one_job_server
from beam_exactly_once.pipelines.runners.loopback_workers import loopback_workers
from beam_exactly_once.pipelines.runners.watched_run import watched_run
from beam_exactly_once.transforms.batch_task import BatchTask, EmitTask
from beam_exactly_once.transforms.commit_batch import METRICS

TASK_LABEL = "BatchTask/EmitTask"
"""Where the full label of the one ParDo begins whose payload is the task."""

Counts: TypeAlias = Mapping[str, int]
RunTask: TypeAlias = Callable[[BatchTask], Counts]
"""Runs the graph with a task to its end; returns what its commit counted. Raises what the graph raised."""
Drive: TypeAlias = Callable[[RunTask], None]


def repeating_runner(
    runner: str | PipelineRunner | None, options: PipelineOptions, drive: Drive, batch_timeout_s: float | None = None
) -> PipelineRunner:
    """A runner that translates a pipeline once and hands :data:`RunTask` to ``drive``.

    The choice is made here, once: ``DirectRunner`` means FnApiRunner, without trying to download another runner in
    each batch.

    Args:
        runner: name or instance; None takes the options' runner.
        options: of the pipeline.
        drive: called once when the pipeline runs.
        batch_timeout_s: how long a portable runner may take for one run.

    Raises:
        ConfigurationError: the runner cannot run a translated graph again.
    """
    if isinstance(runner, FnApiRunner | PortableRunner):
        return _repeating(runner, drive, batch_timeout_s)
    name = runner or options.view_as(StandardOptions).runner or StandardOptions.DEFAULT_RUNNER
    if not isinstance(name, str):
        raise ConfigurationError(
            f"runner {type(name).__name__} is not supported; use DirectRunner, FlinkRunner or PrismRunner."
        )
    if name.rpartition(".")[2] in ("DirectRunner", "SwitchingDirectRunner", "FnApiRunner"):
        return _repeating(FnApiRunner(), drive, None)
    created = create_runner(name)
    if not isinstance(created, PortableRunner):
        raise ConfigurationError(f"runner {name} is not supported; use DirectRunner, FlinkRunner or PrismRunner.")
    return _repeating(created, drive, batch_timeout_s)


def _repeating(runner: PipelineRunner, drive: Drive, batch_timeout_s: float | None) -> PipelineRunner:
    """``runner`` itself, with the method at its seam replaced by one that hands the proto to ``drive``."""
    seam = "run_via_runner_api" if isinstance(runner, FnApiRunner) else "run_portable_pipeline"
    run_once = getattr(runner, seam)
    portable = isinstance(runner, PortableRunner)

    def run_repeatedly(proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> PipelineResult:
        def run_task(task: BatchTask) -> Counts:
            watched = watched_run(batch_timeout_s) if portable else contextlib.nullcontext(lambda result: None)
            with watched as watch:
                result = run_once(with_task(proto, task), options)
                watch(result)
                result.wait_until_finish()
                return counts_of(result)

        with contextlib.ExitStack() as opened:
            if isinstance(runner, PortableRunner):
                opened.enter_context(loopback_workers(runner, proto, options))
                opened.enter_context(one_job_server(runner, options, batch_timeout_s))
            else:
                opened.enter_context(keeping_clients())
            drive(run_task)
        return _Done()

    setattr(runner, seam, run_repeatedly)
    return runner


def with_task(proto: beam_runner_api_pb2.Pipeline, task: BatchTask) -> beam_runner_api_pb2.Pipeline:
    """A copy of the graph that will run ``task``."""
    # A copy, since portable runners change environments of the graph in place.
    copied = copy.deepcopy(proto)
    (transform,) = (
        candidate
        for candidate in copied.components.transforms.values()
        if candidate.unique_name.startswith(TASK_LABEL) and candidate.spec.urn == common_urns.primitives.PAR_DO.urn
    )
    payload = proto_utils.parse_Bytes(transform.spec.payload, beam_runner_api_pb2.ParDoPayload)
    payload.do_fn.payload = pickler.dumps((EmitTask(task.to_json()), (), {}, None, None))
    transform.spec.payload = payload.SerializeToString()
    return copied


def counts_of(result: PipelineResult) -> Counts:
    """The counters that the commit of a run set; empty where a runner reports none."""
    found = result.metrics().query(MetricsFilter().with_namespace(METRICS))["counters"]
    # Portable runners report no attempted value, and Beam then takes a committed 0 for none.
    return {counter.key.metric.name: int(counter.result or 0) for counter in found}


class _Done(PipelineResult):
    """A stream is over when ``run()`` returns."""

    def __init__(self) -> None:
        super().__init__(PipelineState.DONE)

    def wait_until_finish(self, duration: int | None = None) -> str:
        return str(self._state)

    def metrics(self) -> Any:
        raise NotImplementedError("a stream reports by its progress listeners")
