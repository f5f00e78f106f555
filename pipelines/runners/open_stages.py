"""The stages of a translated graph, open for runs: workers, and what the steps have set up, stay from one run to the next.

To translate a graph, to start its workers and to unpickle its steps costs several times as much as to run a small batch. What
one run leaves behind must not reach the next one: buffers, timers, side inputs and state are new for each, and the tokens by
which workers know what they have cached are never the same twice.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from apache_beam.coders.coder_impl import create_OutputStream
from apache_beam.metrics import monitoring_infos
from apache_beam.runners.portability.fn_api_runner import execution, fn_runner, translations
from apache_beam.runners.runner import PipelineState
from apache_beam.runners.worker import bundle_processor
from apache_beam.transforms.window import GlobalWindows

from beam_exactly_once.pipelines.runners.stage_timers import Family, StageTimers
from beam_exactly_once.pipelines.runners.whole_elements import END_TIMEOUT_S, WholeElementWorkers

FAILED_TIMEOUT_S = 5.0
"""How long workers may take to end behind a run that has failed: others may be in the middle of a long one."""

Buffers: TypeAlias = Mapping[str, Any]
"""Encoded elements for each input of a stage, by the name of the transform that reads them."""
Due: TypeAlias = Mapping[Family, Sequence[bytes]]
"""Encoded timers that are to fire."""


class OpenStages:
    """Stages with their workers, to be run as often as one likes, one run after the other, and closed at the end.

    A run that fails leaves workers in the middle of something: close these stages, and open others.

    Args:
        runner: an FnApiRunner.
        stage_context: what Beam knows of the graph; it is changed.
        stages: in an order in which they can run one after the other; they are changed.
    """

    def __init__(self, runner: Any, stage_context: Any, stages: Sequence[Any]) -> None:
        self._runner = runner
        self._stages = stages
        self._workers = WholeElementWorkers(
            stage_context.components.environments, runner._provision_info, runner._num_workers
        )
        self._context = execution.FnApiRunnerExecutionContext(
            stages,
            self._workers,
            stage_context.components,
            stage_context.safe_coders,
            stage_context.data_channel_coders,
            runner._num_workers,
            split_managers=runner._split_managers,
        )
        # A token names a worker's cached state: two bundles with one token would let a worker read what another has changed.
        self._tokens = runner.get_cache_token_generator(static=False)
        try:
            self._impulses = _Impulses(self._context)
            for stage in stages:
                _ = self._context.bundle_manager_for(stage).worker_handlers  # starts them
        except BaseException:
            self.close(FAILED_TIMEOUT_S)
            raise

    def close(self, timeout_s: float = END_TIMEOUT_S) -> None:
        """End the workers. What a ``teardown`` of a step raises is logged.

        Args:
            timeout_s: how long they may take to end by themselves.
        """
        self._workers.close_all(timeout_s)

    def run(self, impulses: Mapping[str, bytes]) -> Any:
        """Run each stage until nothing of it is left, once everything above it has ended.

        Args:
            impulses: what roots of the graph are given, by their full labels; all others get no bytes, as Beam has it.

        Raises:
            RunnerUnavailable: a worker is gone.
        """
        self._workers.check()
        with self._runner.maybe_profile():
            inputs = _Inputs(self._context, self._impulses.of(impulses))
            infos = {stage.name: self._run_stage(stage, inputs) for stage in self._stages}
        # Now, not before the next run: nobody needs it while a stream waits.
        self._context.pcoll_buffers, self._context.timer_buffers = {}, {}
        self._workers.forget_state()
        return fn_runner.RunnerResult(PipelineState.DONE, infos)

    def _run_stage(self, stage: Any, inputs: _Inputs) -> list[Any]:
        """Run one stage until nothing of it is left; returns what it reports."""
        context = self._context
        manager = context.bundle_manager_for(stage)
        self._workers.register_process_bundle_descriptor(manager.process_bundle_descriptor)
        timers = StageTimers(context, manager)
        infos: list[Any] = []
        data = inputs.of(stage)
        due: Due = {}
        nothing = {name: execution.ListBuffer(None) for name in data}
        while data or due:
            results = self._run_bundles(manager, data or nothing, due, timers.outputs)
            infos += itertools.chain.from_iterable(result.process_bundle.monitoring_infos for _, result, _ in results)
            timers.take_written()
            data = self._deferred(manager, results)
            due = {} if data else timers.take_due()
        context.commit_side_inputs_to_state(context.side_input_descriptors_by_stage.get(stage.name, {}))
        inputs.forget(stage, manager.stage_data_outputs.values())
        return list(monitoring_infos.consolidate(infos))

    def _run_bundles(self, manager: Any, data: Buffers, due: Due, timer_outputs: Any) -> list[tuple[Buffers, Any, Any]]:
        """One bundle a worker; keys and their state belong to one. Returns each one's input, result and splits."""
        runner, outputs = self._runner, manager.stage_data_outputs

        def bundle(worker: int) -> Any:
            # Beam deals workers out by a count of the whole process: beside other pipelines, two parts could have one.
            of_worker = copy.copy(manager)
            of_worker._worker_handlers = [manager.worker_handlers[worker]]
            return fn_runner.BundleManager(of_worker, runner._progress_frequency, cache_token_generator=self._tokens)

        def run(worker: int, part: Buffers) -> tuple[Buffers, Any, Any]:
            return part, *bundle(worker).process_bundle(part, outputs, due, timer_outputs)

        def run_for_testing(worker: int, part: Buffers) -> None:
            runner._run_bundle_multiple_times_for_testing(
                self._context, bundle(worker), part, outputs, due, timer_outputs
            )

        parts = [data] if manager.num_workers == 1 or manager.stage.is_stateful() else _parts(data, manager.num_workers)
        workers = self._workers
        for worker, part in enumerate(parts):  # one after the other: each run puts all state back
            workers.results([workers.call(worker, functools.partial(run_for_testing, worker, part))])
        return workers.results(
            [workers.call(worker, functools.partial(run, worker, part)) for worker, part in enumerate(parts)]
        )

    def _deferred(self, manager: Any, results: Sequence[tuple[Buffers, Any, Any]]) -> Buffers:
        """What all bundles left for later: rests of splittable DoFns, and what a split took from them."""
        deferred: dict[str, Any] = {}
        for part, result, splits in results:
            self._runner._add_sdk_delayed_applications_to_deferred_inputs(manager, result, deferred)
            self._runner._add_residuals_and_channel_splits_to_deferred_inputs(splits, manager, part, deferred)
        if not deferred:
            return {}
        part, _, _ = results[0]
        return {**{name: execution.ListBuffer(None) for name in part}, **deferred}


class KeptStages:
    """Open stages that stay open from run to run, until one fails.

    Args:
        open_stages: opens them.
    """

    def __init__(self, open_stages: Callable[[], OpenStages]) -> None:
        self._open_stages = open_stages
        self._opened: OpenStages | None = None

    def run(self, impulses: Mapping[str, bytes]) -> Any:
        """See :meth:`OpenStages.run`. If it raises, the next run has steps of its own."""
        if self._opened is None:
            self._opened = self._open_stages()
        is_sound = False
        try:
            result = self._opened.run(impulses)
            is_sound = True
        finally:
            if not is_sound:
                self.close(FAILED_TIMEOUT_S)
        return result

    def close(self, timeout_s: float = END_TIMEOUT_S) -> None:
        """Close them, if they are open."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close(timeout_s)


def _parts(data: Buffers, workers: int) -> list[Buffers]:
    """What each of several workers gets of the input of a stage. Who would get nothing is not asked: a bundle costs what it
    costs. One bundle there is always."""
    partitioned = {name: buffer.partition(workers) for name, buffer in data.items()}
    parts: list[Buffers] = [
        {name: of_name[worker] for name, of_name in partitioned.items()} for worker in range(workers)
    ]
    # No element is empty as bytes; Beam's share of one that is dealt out may be.
    return [part for part in parts if any(map(any, part.values()))] or parts[:1]


class _Impulses:
    """What the roots of a graph are given: one element each."""

    def __init__(self, context: Any) -> None:
        context.setup()  # once: it changes the graph
        queues = context.queues
        self._coders: dict[str, dict[str, Any]] = {}
        for queue in (queues.ready_inputs, queues.watermark_pending_inputs):
            while queue:
                key, data_input = queue.deque()
                stage = key if isinstance(key, str) else key[0]
                self._coders[stage] = {root: buffer._coder_impl for root, buffer in data_input.data.items()}

    def of(self, impulses: Mapping[str, bytes]) -> Mapping[str, Buffers]:
        """By stage and root."""
        return {
            stage: {root: _one_element(coder, impulses.get(root, b"")) for root, coder in coders.items()}
            for stage, coders in self._coders.items()
        }


def _one_element(coder: Any, value: bytes) -> Any:
    stream = create_OutputStream()
    coder.encode_to_stream(GlobalWindows.windowed_value(value), stream, True)
    buffer = execution.ListBuffer(coder)
    buffer.append(stream.get())
    return buffer


class _Inputs:
    """What stages read: what those above them have written. A buffer goes when its last reader has run."""

    def __init__(self, context: Any, impulses: Mapping[str, Buffers]) -> None:
        self._buffers = context.pcoll_buffers
        self._buffer_ids: Mapping[str, bytes] = context.input_transform_to_buffer_id
        self._impulses = impulses
        self._readers = {
            buffer_id: len({stage for stage, _ in readers})
            for buffer_id, readers in context.buffer_id_to_consumer_pairs.items()
        }

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
