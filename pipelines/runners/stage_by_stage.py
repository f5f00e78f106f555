"""FnApiRunner that runs a bounded graph stage by stage: each begins when all stages above it have ended.

Beam's own loop asks watermarks when a stage may begin, and Beam 2.77 counts calls there where it means consumers: a stage that
runs twice (for its timers, or for what it deferred) counts for another one that has not run at all, and what stands below
both begins too early. A batch is bounded, so it needs no watermark: stages run in the order of the graph, each until
nothing of it is left, and only then do others see what it made.
"""

from __future__ import annotations

import functools
import graphlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.runners.pipeline_utils import merge_common_environments, merge_superset_dep_environments
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, translations
from apache_beam.runners.worker import bundle_processor
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline
from beam_exactly_once.pipelines.runners.kept_workers import in_kept_worker, is_kept, missing_name
from beam_exactly_once.pipelines.runners.open_stages import OpenStages
from beam_exactly_once.pipelines.runners.whole_elements import refuse_timed_flushes

_LOGGER = logging.getLogger(__name__)


class StageByStage(FnApiRunner):
    """Runs each stage once everything above it has ended.

    Beside the order it mends what Beam's loop does to stages that run in several bundles: their side inputs are complete when
    they are first read, and nothing that one of several workers deferred is lost.
    """

    def open(self, proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> OpenStages:
        """A graph, translated, with its workers."""
        opened: OpenStages = super().run_via_runner_api(proto, options)  # whose last step is run_stages
        return opened

    @functools.cached_property
    def keeps_workers(self) -> bool:
        """Whether workers may stay from run to run: of others nobody would see that they have died while nothing ran."""
        if self._is_in_this_process:
            return True
        environment = self._default_environment.to_runner_api(PipelineContext())
        missing = missing_name()
        if missing is not None:
            _LOGGER.warning(
                "workers are started anew for each batch: there is no %s, by which they could stay", missing
            )
        return missing is None and is_kept(in_kept_worker(environment))

    @property
    def _is_in_this_process(self) -> bool:
        return isinstance(self._default_environment, EmbeddedPythonEnvironment)

    def refuse_unsupported(self, proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> None:
        """Refuse a graph that has no order, and options that would cut elements or lose them.

        Raises:
            UnsupportedPipeline: steps wait for each other.
            ConfigurationError: data is to be flushed by time, or bundles are to be split where they cannot be.
        """
        refuse_timed_flushes(options, self._default_environment)
        if options.view_as(DirectOptions).direct_test_splits and self._is_in_this_process:
            raise ConfigurationError(
                "direct_test_splits needs workers of their own: Beam runs a bundle to its end here before it sends the input. "
                "Leave it out, or add --direct_running_mode=multi_threading."
            )
        merged = merge_common_environments(self.resolve_any_environments(merge_superset_dep_environments(proto)))
        self.create_stages(merged)

    def create_stages(self, proto: beam_runner_api_pb2.Pipeline) -> tuple[Any, list[Any]]:
        """The stages that Beam makes of the graph, in an order in which they can run one after the other."""
        context, stages = super().create_stages(proto)
        return context, in_order(stages)

    def run_stages(self, stage_context: Any, stages: list[Any]) -> OpenStages:
        """The last step of Beam's way from a graph to its result: ``stages`` are in order, and may be run more than once."""
        return OpenStages(self, stage_context, stages)


def in_order(stages: Sequence[Any]) -> list[Any]:
    """``stages`` so that each stands behind all whose output or side input it reads. Pure.

    Raises:
        UnsupportedPipeline: some wait for each other.
    """
    by_name = {stage.name: stage for stage in stages}
    writers: dict[bytes, set[str]] = {}
    for stage in stages:
        for transform in stage.transforms:
            if transform.spec.urn == bundle_processor.DATA_OUTPUT_URN:
                writers.setdefault(transform.spec.payload, set()).add(stage.name)
    above = {
        stage.name: set().union(*(writers.get(buffer_id, ()) for buffer_id in _waited_for(stage))) for stage in stages
    }
    try:
        return [by_name[name] for name in graphlib.TopologicalSorter(above).static_order()]
    except graphlib.CycleError as error:
        raise _ring([by_name[name] for name in error.args[1][1:]], writers) from error


def _waited_for(stage: Any) -> Iterator[bytes]:
    for transform in stage.transforms:
        if transform.spec.urn == bundle_processor.DATA_INPUT_URN:
            yield transform.spec.payload
    yield from map(translations.create_buffer_id, stage.side_inputs())


def _ring(ring: Sequence[Any], writers: Mapping[bytes, set[str]]) -> UnsupportedPipeline:
    """The error of stages that wait for each other. Legal graphs have no ring: Beam makes one by what it fuses."""
    names = {stage.name for stage in ring}
    steps = sorted(
        transform.unique_name
        for stage in ring
        for transform in stage.transforms
        for side_input in translations.side_inputs(transform).values()
        if writers.get(translations.create_buffer_id(side_input), set()) & names
    )
    return UnsupportedPipeline(
        f"steps {', '.join(map(repr, dict.fromkeys(steps)))} wait for each other: Beam runs each of them together with what "
        "makes its input, and the other one reads that as a side input. Put beam.Reshuffle() right before one of them, on its "
        f"own branch: collection | beam.Reshuffle() | {steps[0]!r} >> …"
    )
