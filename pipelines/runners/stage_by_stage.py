"""FnApiRunner that runs a bounded graph stage by stage: each begins when all stages above it have ended.

Beam's own loop asks watermarks when a stage may begin, and Beam 2.77 counts calls there where it means consumers: a stage that
runs twice (for its timers, or for what it deferred) counts for another one that has not run at all, and what stands below
both begins too early. A batch is bounded, so it needs no watermark: stages run in the order of the graph, each until
nothing of it is left, and only then do others see what it made.
"""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from apache_beam.metrics import monitoring_infos
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_utils import merge_common_environments, merge_superset_dep_environments
from apache_beam.runners.portability.fn_api_runner import (
    FnApiRunner,
    execution,
    fn_runner,
    translations,
)
from apache_beam.runners.runner import PipelineState
from apache_beam.runners.worker import bundle_processor
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline
from beam_exactly_once.pipelines.runners.stage_timers import Family, StageTimers
from beam_exactly_once.pipelines.runners.whole_elements import WholeElementWorkers, refuse_timed_flushes

Buffers: TypeAlias = Mapping[str, Any]
"""Encoded elements for each input of a stage, by the name of the transform that reads them."""
Due: TypeAlias = Mapping[Family, Sequence[bytes]]
"""Encoded timers that are to fire."""


class StageByStage(FnApiRunner):
    """Runs each stage once everything above it has ended.

    Beside the order it mends what Beam's loop does to stages that run in several bundles: their side inputs are complete when
    they are first read, and nothing that one of several workers deferred is lost.
    """

    def refuse_unsupported(self, proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> None:
        """Refuse a graph that has no order, and options that would cut elements or lose them.

        Raises:
            UnsupportedPipeline: steps wait for each other.
            ConfigurationError: data is to be flushed by time, or bundles are to be split where they cannot be.
        """
        refuse_timed_flushes(options, self._default_environment)
        in_this_thread = isinstance(self._default_environment, EmbeddedPythonEnvironment)
        if options.view_as(DirectOptions).direct_test_splits and in_this_thread:
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

    def run_stages(self, stage_context: Any, stages: list[Any]) -> Any:
        """Run ``stages``, which are in order."""
        workers = WholeElementWorkers(stage_context.components.environments, self._provision_info)
        context = execution.FnApiRunnerExecutionContext(
            stages,
            workers,
            stage_context.components,
            stage_context.safe_coders,
            stage_context.data_channel_coders,
            self._num_workers,
            split_managers=self._split_managers,
        )
        try:
            with self.maybe_profile():
                inputs = _Inputs(context)
                infos = {stage.name: self._run_stage(context, stage, inputs) for stage in stages}
        finally:
            workers.close_all()
        return fn_runner.RunnerResult(PipelineState.DONE, infos)

    def _run_stage(self, context: Any, stage: Any, inputs: _Inputs) -> list[Any]:
        """Run one stage until nothing of it is left; returns what it reports."""
        manager = context.bundle_manager_for(stage)
        context.worker_handler_manager.register_process_bundle_descriptor(manager.process_bundle_descriptor)
        # A token names a worker's cached state: two bundles with one token would let a worker read what another has changed.
        tokens = self.get_cache_token_generator(static=False)
        timers = StageTimers(context, manager)
        infos: list[Any] = []
        data = inputs.of(stage)
        due: Due = {}
        nothing = {name: execution.ListBuffer(None) for name in data}
        while data or due:
            results = self._run_bundles(context, manager, tokens, data or nothing, due, timers.outputs)
            infos += itertools.chain.from_iterable(result.process_bundle.monitoring_infos for _, result, _ in results)
            timers.take_written()
            data = self._deferred(manager, results)
            due = {} if data else timers.take_due()
        context.commit_side_inputs_to_state(context.side_input_descriptors_by_stage.get(stage.name, {}))
        inputs.forget(stage, manager.stage_data_outputs.values())
        return list(monitoring_infos.consolidate(infos))

    def _run_bundles(
        self, context: Any, manager: Any, tokens: Iterator[Any], data: Buffers, due: Due, timer_outputs: Any
    ) -> list[tuple[Buffers, Any, Any]]:
        """One bundle a worker; keys and their state belong to one. Returns each one's input, result and splits."""
        outputs = manager.stage_data_outputs

        def bundle() -> Any:
            return fn_runner.BundleManager(manager, self._progress_frequency, cache_token_generator=tokens)

        def run(part: Buffers) -> tuple[Buffers, Any, Any]:
            return part, *bundle().process_bundle(part, outputs, due, timer_outputs)

        parts = [data] if manager.num_workers == 1 or manager.stage.is_stateful() else _parts(data, manager.num_workers)
        for part in parts:  # one after the other: each run puts all state back
            self._run_bundle_multiple_times_for_testing(context, bundle(), part, outputs, due, timer_outputs)
        if len(parts) == 1:
            return [run(data)]
        with ThreadPoolExecutor(len(parts)) as pool:
            return list(pool.map(run, parts))

    def _deferred(self, manager: Any, results: Sequence[tuple[Buffers, Any, Any]]) -> Buffers:
        """What all bundles left for later: rests of splittable DoFns, and what a split took from them."""
        deferred: dict[str, Any] = {}
        for part, result, splits in results:
            self._add_sdk_delayed_applications_to_deferred_inputs(manager, result, deferred)
            self._add_residuals_and_channel_splits_to_deferred_inputs(splits, manager, part, deferred)
        if not deferred:
            return {}
        part, _, _ = results[0]
        return {**{name: execution.ListBuffer(None) for name in part}, **deferred}


def _parts(data: Buffers, workers: int) -> list[Buffers]:
    """What each of several workers gets of the input of a stage."""
    partitioned = {name: buffer.partition(workers) for name, buffer in data.items()}
    return [{name: of_name[worker] for name, of_name in partitioned.items()} for worker in range(workers)]


class _Inputs:
    """What stages read: what those above them have written. A buffer goes when its last reader has run."""

    def __init__(self, context: Any) -> None:
        self._buffers = context.pcoll_buffers
        self._buffer_ids: Mapping[str, bytes] = context.input_transform_to_buffer_id
        self._readers = {
            buffer_id: len({stage for stage, _ in readers})
            for buffer_id, readers in context.buffer_id_to_consumer_pairs.items()
        }
        context.setup()
        queues = context.queues
        self._impulses: dict[str, Buffers] = {}
        for queue in (queues.ready_inputs, queues.watermark_pending_inputs):
            while queue:
                key, impulses = queue.deque()
                self._impulses[key if isinstance(key, str) else key[0]] = impulses.data

    def of(self, stage: Any) -> Buffers:
        """The whole input of a stage; an empty buffer where nothing was written."""
        read = {name: self._buffers.get(buffer_id) for name, buffer_id in self._read_by(stage)}
        whole = {name: execution.ListBuffer(None) if found is None else found for name, found in read.items()}
        return {**whole, **self._impulses.get(stage.name, {})}

    def forget(self, stage: Any, written: Iterable[bytes]) -> None:
        """Let go of what nobody will read any more: of what a stage has read, or written for side inputs alone."""
        read = {buffer_id for _, buffer_id in self._read_by(stage)}
        for buffer_id in read:
            self._readers[buffer_id] -= 1
        for buffer_id in {*read, *written}:
            if not self._readers.get(buffer_id):
                self._buffers.pop(buffer_id, None)

    def _read_by(self, stage: Any) -> Iterator[tuple[str, bytes]]:
        for transform in stage.transforms:
            if transform.spec.urn == bundle_processor.DATA_INPUT_URN:
                buffer_id = self._buffer_ids[transform.unique_name]
                if buffer_id != translations.IMPULSE_BUFFER:
                    yield transform.unique_name, buffer_id


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
