"""What a Flink job needs that is one unbounded pipeline."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.continuous.job_bounds import JobBounds
from beam_exactly_once.transforms.continuous.plan_batches import Rests

_OF_JOB: Mapping[str, int] = {
    "shutdown_sources_after_idle_ms": 1000 * 365 * 86_400_000,
    "max_bundle_time_mills": 51,
    "number_of_execution_retries": 0,
}
"""Options of Beam's runner in Java. Without the first one, and without Flink's checkpoints, the root runs in a loop and emits
nothing. A bundle that waits for more, as it does for a second, holds each step up. Restarts are the driver's."""
_CHECKPOINTS = "checkpointing_interval"

BOUNDS = JobBounds(max_batches=10_000, max_idle_s=86_400.0, rests=Rests(on_its_way_s=0.25, idle_s=30.0))
"""Each rest of the step that plans is a state in a task manager's heap, of about 1 KB, until the job ends."""


class _FlinkJobOptions(PipelineOptions):
    """Of the runner in Java; Python's own do not know them."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        for name in (*_OF_JOB, _CHECKPOINTS):
            parser.add_argument(f"--{name}", type=int)


def refuse_flinks_recovery(options: PipelineOptions) -> None:
    """Refuse checkpoints of Flink's own: nothing would use them, and a batch can then miss a part of what it read.

    Raises:
        ConfigurationError: they are asked for.
    """
    if (getattr(options.view_as(_FlinkJobOptions), _CHECKPOINTS) or 0) > 0:
        raise ConfigurationError(
            f"trigger=Continuous(…) goes on from checkpoint_location, and never from Flink's checkpoints: leave "
            f"--{_CHECKPOINTS} out."
        )


def options_of_job(options: PipelineOptions, name: str | None) -> PipelineOptions:
    """A copy for the unbounded pipeline.

    Args:
        options: of the stream.
        name: of the job in Flink; None leaves that to the job server.
    """
    of_job = copy.deepcopy(options)
    of_job.view_as(StandardOptions).streaming = True
    if name is not None:
        of_job.view_as(GoogleCloudOptions).job_name = name
    flink = of_job.view_as(FlinkRunnerOptions)
    if flink.parallelism > 0:
        # Each rest of the root is a state of Flink's, with a part for each key group.
        flink.max_parallelism = flink.parallelism
    # A worker that is kept leaves a thread in its task manager.
    of_job.view_as(PortableOptions).environment_cache_millis = 0
    for option, value in _OF_JOB.items():
        setattr(of_job.view_as(_FlinkJobOptions), option, value)
    return of_job
