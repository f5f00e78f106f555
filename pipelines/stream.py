"""``ExactlyOnceStream``: a ``beam.Pipeline`` that runs as a stream of micro-batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from beam_exactly_once.arguments import location_of, names, options_of, seconds, true_or_false, whole_number
from beam_exactly_once.checkpoint.layout import OPERATORS, SINKS, SOURCES, checked_name
from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import BeamExactlyOnceError, ConfigurationError
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.pipelines.claiming import StreamSettings
from beam_exactly_once.pipelines.continuous.job import ContinuousRun, OpenRunners, continuous_runner
from beam_exactly_once.pipelines.continuous.refusals import refuse_leaving_batches, refuse_unproved
from beam_exactly_once.pipelines.continuous.supervision import run_continuously
from beam_exactly_once.pipelines.graph_checks import (
    refuse_companions_of_direct_sinks,
    refuse_dropped,
    refuse_renamed,
    refuse_unsupported,
    unconsumed,
)
from beam_exactly_once.pipelines.graph_warnings import warn_of_batches
from beam_exactly_once.pipelines.micro_batches import run_micro_batches
from beam_exactly_once.pipelines.progress import ProgressListener
from beam_exactly_once.pipelines.runners.repeated_run import RepeatedRun, RunTask, repeating_runner
from beam_exactly_once.pipelines.runners.seen_options import SeenOptions
from beam_exactly_once.pipelines.stopping import stop_on_signals
from beam_exactly_once.pipelines.triggers import AvailableNow, Continuous, ProcessingTime, Trigger
from beam_exactly_once.planning.continuing import CheckpointAt
from beam_exactly_once.sinks.contract import Publisher
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.transforms.commit_batch import CommitBatch
from beam_exactly_once.transforms.continuous.batch_windows import keep_to_windows
from beam_exactly_once.transforms.continuous.bundles_of_batches import cut_bundles
from beam_exactly_once.transforms.continuous.plan_batches import ContinuousTasks
from beam_exactly_once.transforms.emit_task import ATTEMPT, SEED, TASK, BatchTasks
from beam_exactly_once.transforms.in_lists.steps import hand_on_in_lists
from beam_exactly_once.transforms.named import NamedTransform
from beam_exactly_once.transforms.stream_graph import StreamGraph

_LOGGER = logging.getLogger(__name__)

RETAIN_BATCHES = 100
BATCH_TIMEOUT_S = 3600.0
STATE_CACHE = StateCache()


class ExactlyOnceStream(beam.Pipeline):
    """A pipeline whose sources are read in planned batches and whose sinks get every record exactly once.

    Use it as a context manager, as any ``beam.Pipeline``; the stream runs when the block ends. Sources
    (``ReadFromKafka``) and sinks (``WriteToFiles``) register when they are applied. Each batch is one bounded run of the
    same graph: a GroupByKey groups one batch. Every other step runs at least once a batch.

    Guarantee: exactly-once from Kafka to every sink of this library, across crashes, restarts and concurrent drivers,
    while the checkpoint location is strongly consistent and retention outlasts any stop. ``docs/guarantees.md``
    has the conditions.

    Args:
        checkpoint_location: URI (local path, ``s3://``, ``gs://``) of this stream's checkpoint; one stream each.
        trigger: :class:`AvailableNow` (default), :class:`ProcessingTime` or :class:`Continuous`.
        max_batches: stop after that many batches; None means no limit.
        continue_from: where the sources of a new checkpoint begin, all together, instead of at their own ``start``.
        runner: name or instance, instead of the options' one.
        options: Beam's; the runner is taken from them.
        storage_options: of the checkpoint's object store, and of every location on the same kind of store that gives none.
        listeners: called with one :class:`~beam_exactly_once.BatchProgress` a batch; one of them, or a list.
        retain_batches: how many plans and markers to keep, at least 2.
        batch_timeout_s: how long Flink or Prism may take for one batch before it is cancelled; None, for ever.
        state_cache: where each machine keeps the state of operators near.
        without: what the pipeline no longer has on purpose, as the checkpoint knows it: ``["operators/counts"]``. From the next
            batch on, what that operator remembers is gone. Only operators with state can be dropped.
        allow_per_batch: let Beam state, timers and windows through, which then mean "within one batch".

    Raises:
        ConfigurationError: an argument is not possible.

    Raises (when the block ends):
        every error of :mod:`beam_exactly_once.errors`; what was not committed runs again at the next start.
    """

    def __init__(
        self,
        checkpoint_location: str,
        *,
        trigger: Trigger = AvailableNow(),
        max_batches: int | None = None,
        continue_from: CheckpointAt | None = None,
        runner: str | PipelineRunner | None = None,
        options: PipelineOptions | None = None,
        storage_options: Mapping[str, Any] | None = None,
        listeners: Sequence[ProgressListener] | ProgressListener = (),
        retain_batches: int = RETAIN_BATCHES,
        batch_timeout_s: float | None = BATCH_TIMEOUT_S,
        state_cache: StateCache = STATE_CACHE,
        without: Sequence[str] = (),
        allow_per_batch: bool = False,
    ) -> None:
        location_of("checkpoint_location", checkpoint_location, "this stream's checkpoint")
        storage_options = options_of("storage_options", storage_options)
        true_or_false("allow_per_batch", allow_per_batch)
        seconds("batch_timeout_s", batch_timeout_s, none="no limit")
        checkpoint = StoreLocation(checkpoint_location, storage_options).canonical()
        self._settings = replace(
            _settings(trigger, max_batches, listeners, retain_batches), without=_operators_in("without", without)
        )
        self._clock: Clock = SYSTEM_CLOCK
        self._ran = False
        options = PipelineOptions([]) if options is None else options
        self._options_class = type(options)
        options = options.view_as(SeenOptions)
        is_continuous = isinstance(trigger, Continuous)
        if is_continuous:
            continuous = ContinuousRun(self._supervise, self._publishing_graph, batch_timeout_s)
            running = continuous_runner(runner, options, continuous)
        else:
            repeated = RepeatedRun(self._drive, self._publishing_graph, batch_timeout_s)
            running = repeating_runner(runner, options, repeated)
        self._batch_timeout_s = batch_timeout_s
        super().__init__(runner=running, options=options)
        emitted = self | "BatchTask" >> (ContinuousTasks() if is_continuous else BatchTasks())
        if not isinstance(state_cache, StateCache):
            raise ConfigurationError(f"state_cache={state_cache!r} must be a StateCache: StateCache('/mnt/local').")
        self.stream_graph = StreamGraph(
            emitted[TASK], emitted[ATTEMPT], emitted[SEED], checkpoint, storage_options, state_cache, allow_per_batch
        )
        if continue_from is not None:
            self._settings = self._continuing(continue_from)

    @property
    def options(self) -> PipelineOptions:
        """As they were given: of the same class."""
        return self._options.view_as(self._options_class)

    def apply(self, transform: Any, pvalueish: Any = None, label: str | None = None) -> Any:
        """As of ``beam.Pipeline``. Two transforms of a class must have names: they would be one in the checkpoint, too."""
        if label is None and isinstance(transform, NamedTransform):
            # As Beam makes a full label; by its own error the user would add a label, and then need a name.
            full_label = "/".join(filter(None, (self._current_transform().full_label, transform.label)))
            if full_label in self.applied_labels:
                raise ConfigurationError(
                    f"this stream has a {transform.label} already. Give each its own name=, and keep it: the checkpoint and "
                    "progress know them by it."
                )
        return super().apply(transform, pvalueish, label)

    def run(self, test_runner_api: bool | str = "AUTO") -> PipelineResult:
        """Run the stream to the end of its trigger. Called once, by leaving the ``with`` block.

        ``metrics()`` of the result has the counters of your steps, summed over all batches.
        """
        if self._ran:
            raise ConfigurationError(
                "this stream ran already. Leave the `with` block to run it, and make a new ExactlyOnceStream to run again."
            )
        self._ran = True
        self._finish_graph()
        try:
            return super().run(False)
        except BeamExactlyOnceError as error:
            _LOGGER.debug("where the error was raised", exc_info=True)
            # Its one line says it all, and is to be found: without the frames of Beam and of the driver.
            raise error.with_traceback(None)  # noqa: B904 (it has its cause)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        # An explicit run() inside the block was the run.
        if self._ran and exc_type is None:
            return
        super().__exit__(exc_type, exc_val, exc_tb)

    def _continuing(self, continue_from: CheckpointAt) -> StreamSettings:
        if not isinstance(continue_from, CheckpointAt):
            raise ConfigurationError(
                f"continue_from={continue_from!r} must be a CheckpointAt: continue_from=CheckpointAt({str(continue_from)!r})."
            )
        graph = self.stream_graph
        elsewhere = graph.located(continue_from.location, continue_from.storage_options).canonical()
        if elsewhere.uri == graph.checkpoint.uri:
            raise ConfigurationError(
                f"continue_from names this stream's own checkpoint_location, {elsewhere.uri}. Leave it out to go on where it "
                "stands, or give a new checkpoint_location."
            )
        return replace(self._settings, continue_from=(continue_from, elsewhere))

    def _finish_graph(self) -> None:
        graph = self.stream_graph
        if not graph.sources:
            raise ConfigurationError("the stream has no source: apply ReadFromKafka to it.")
        refuse_unsupported(self, allow_per_batch=graph.allow_per_batch, is_continuous=graph.is_continuous)
        if graph.is_continuous:
            refuse_unproved(graph)
            refuse_leaving_batches(self)
        if not graph.allow_per_batch:
            warn_of_batches(self)
        refuse_companions_of_direct_sinks(graph)
        refuse_dropped(graph, self._settings.without)
        refuse_renamed(graph, self._settings.without)
        pieces = [source.pieces for source in graph.sources.values()]
        committables = [sink.committables for sink in graph.sinks.values()]
        counts = [step.counts for step in graph.rejecting.values()]
        changes = [reports for operator in graph.operators.values() for reports in operator.reports]
        gathered = [*pieces, *committables, *counts, *changes, *graph.times_noted]
        leaves = unconsumed(self)
        for name, step in graph.rejecting.items():
            if step.rejected in leaves:
                raise ConfigurationError(
                    f"step {name!r} rejects records, and nothing in the stream consumes them: they would be dropped in "
                    "silence. Write what it returns as rejected to a sink of its own: rejected | "
                    'WriteToFiles(…, name="rejected").'
                )
        for name, operator in graph.operators.items():
            if operator.late in leaves:
                raise ConfigurationError(
                    f"operator {name!r} gives out rows that came too late, and nothing in the stream consumes them: they would "
                    'be dropped in silence. Write them to a sink of their own, or pass on_late="drop".'
                )
        _ = graph.seeds | "CommitBatch" >> CommitBatch(
            graph.checkpoint,
            self._publishers(),
            gathered=gathered,
            leaves=[leaf for leaf in leaves if leaf not in {graph.seeds, *gathered}],
            notes_published=graph.is_continuous,
        )
        if graph.is_continuous:
            cut_bundles(self)
            keep_to_windows(self)
        else:
            hand_on_in_lists(self)

    def _publishing_graph(self) -> beam.Pipeline:
        """The graph that publishes a marker again: without sources, and without any step of the user's."""
        publishing = beam.Pipeline(runner=FnApiRunner(), options=self._options)  # only to be translated
        emitted = publishing | "BatchTask" >> BatchTasks()
        _ = emitted[SEED] | "CommitBatch" >> CommitBatch(self.stream_graph.checkpoint, self._publishers())
        return publishing

    def _publishers(self) -> dict[str, Publisher]:
        return {name: sink.publisher for name, sink in self.stream_graph.sinks.items()}

    def _drive(self, run_task: RunTask) -> None:
        with stop_on_signals() as stop:
            run_micro_batches(self._settings, self.stream_graph, run_task, self._clock, stop)

    def _supervise(self, opened_runner: OpenRunners) -> None:
        with stop_on_signals() as stop:
            run_continuously(self._settings, self.stream_graph, opened_runner, self._clock, stop, self._batch_timeout_s)


def _settings(
    trigger: Trigger,
    max_batches: int | None,
    listeners: Sequence[ProgressListener] | ProgressListener,
    retain_batches: int,
) -> StreamSettings:
    """The driver's settings, checked.

    Raises:
        ConfigurationError: one is not possible.
    """
    if not isinstance(trigger, AvailableNow | ProcessingTime | Continuous):
        raise ConfigurationError(
            f"trigger={trigger!r} is not known; use AvailableNow(), ProcessingTime(10) or Continuous(1)."
        )
    if callable(listeners):
        listeners = [listeners]
    if not isinstance(listeners, Sequence) or not all(callable(listener) for listener in listeners):
        raise ConfigurationError(
            f"listeners={listeners!r} must be a function of a BatchProgress, or a list of such: listeners=[…]."
        )
    whole_number("max_batches", max_batches, none="no limit")
    whole_number("retain_batches", retain_batches, least=2)  # a start needs the newest, and what it followed
    return StreamSettings(trigger, max_batches, None, tuple(listeners), retain_batches, ())


def _operators_in(argument: str, paths: Sequence[str]) -> tuple[str, ...]:
    """The names of the operators that ``paths`` name as a checkpoint has them.

    Raises:
        ConfigurationError: one is something else.
    """
    found = []
    for path in names(argument, paths, of="operators"):
        role, _, name = path.partition("/")
        if f"{role}/" in (SINKS, SOURCES):
            raise ConfigurationError(
                f"{argument} names {path!r}: only operators with state can be dropped. To go on without a source or sink, start "
                "a new checkpoint_location with continue_from=CheckpointAt(…)."
            )
        if f"{role}/" != OPERATORS or not name:
            raise ConfigurationError(
                f"{argument} names {path!r}. Name operators as the checkpoint does: {argument}=['{OPERATORS}{name or path}']."
            )
        found.append(checked_name(name))
    return tuple(found)
