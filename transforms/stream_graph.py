"""What a stream and its transforms know of each other.

``ExactlyOnceStream`` owns a :class:`StreamGraph`; sources and sinks register with it when they are applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.typehints.native_type_compatibility import convert_to_beam_type

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.layout import checked_name
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline
from beam_exactly_once.object_store.store_location import StoreLocation, kind_of_store
from beam_exactly_once.planning import LogSource
from beam_exactly_once.sinks.contract import DriverSide, Publisher
from beam_exactly_once.state.definition import TimeDomain
from beam_exactly_once.state.event_bounds import OperatorTimes
from beam_exactly_once.state.near.cache import StateCache
from beam_exactly_once.state.updates import Operator
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.rejecting import RejectingStep
from beam_exactly_once.transforms.reports import Gathered
from beam_exactly_once.transforms.stateful.operators_of_batch import LiveOperator, OperatorsOfBatches


def refuse_two_attempts(of_bundle: Attempt, attempt: Attempt) -> None:
    """A bundle that stages is of one attempt: what it stages has one owner.

    Raises:
        AssertionError: it is not, by a fault of the graph.
    """
    if of_bundle != attempt:
        raise AssertionError(f"two attempts in one bundle: {of_bundle} and {attempt}")


def typed(elements: Any, hint: Any) -> Any:
    """``elements`` with the type of its elements said, where a step with several outputs cannot say it."""
    elements.element_type = convert_to_beam_type(hint)
    return elements


@dataclass(frozen=True, slots=True)
class SourceSpec(LogSource):
    """A source, as the driver plans it, and what its readers report."""

    pieces: beam.PCollection[Gathered]
    """What the readers finished."""


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """A sink: its staged output in the graph, how to publish it, and what the driver does before."""

    name: str
    definition: Json
    """What must not change while the checkpoint lives; ``kind`` first."""
    publisher: Publisher
    committables: beam.PCollection[Gathered]
    """What was staged."""
    driver_side: DriverSide


@dataclass(frozen=True, slots=True)
class OperatorSpec(OperatorTimes):
    """An operator with state: what it is, and what its workers report."""

    name: str
    update: Operator
    reports: Sequence[beam.PCollection[Gathered]]
    emitted: beam.PCollection[Any]
    """What it gives to the steps behind it."""
    renamed_from: str | None = None
    """The name that it had before, if it says one."""
    window: Json | None = None
    """Its windows, as a definition holds them."""
    late: beam.PCollection[Any] | None = None
    """Rows that came too late, if they are given out."""

    @property
    def time_domain(self) -> TimeDomain:
        """What its timers and its times to live go by."""
        return "processing_time" if self.times is None else "event_time"


@dataclass
class StreamGraph:
    """Registry of one stream's sources and sinks.

    Attributes:
        tasks: one element a batch.
        attempts: one element a batch; a sink takes it as singleton side input.
        seeds: the same as tasks, for the commit to gather: an empty batch has one, too.
        checkpoint: the stream's checkpoint location, where sinks may stage.
        storage_options: of the stream, for every location of the same kind of store that gives none.
        state_cache: where workers keep state near.
        allow_per_batch: the user wants state, timers and windows within one batch.
    """

    tasks: beam.PCollection[BatchTask]
    attempts: beam.PCollection[Attempt]
    seeds: beam.PCollection[Gathered]
    checkpoint: StoreLocation
    storage_options: Mapping[str, Any] | None = None
    state_cache: StateCache = field(default_factory=StateCache)
    allow_per_batch: bool = False
    sources: dict[str, SourceSpec] = field(default_factory=dict)
    sinks: dict[str, SinkSpec] = field(default_factory=dict)
    operators: dict[str, OperatorSpec] = field(default_factory=dict)
    """Those with state, by name."""
    rejecting: dict[str, RejectingStep] = field(default_factory=dict)
    """Steps that reject, sinks among them, by name."""
    times_noted: list[beam.PCollection[Gathered]] = field(default_factory=list)
    """When records of sources happened, from steps that note it and reject nothing."""

    @property
    def is_continuous(self) -> bool:
        """Whether one pipeline runs all batches, each in a window of its own."""
        return not isinstance(self.tasks.windowing.windowfn, GlobalWindows)

    def operators_of_batches(self, live: Mapping[str, LiveOperator]) -> OperatorsOfBatches:
        """The operators as plain data; ``live`` says where each goes on."""
        event_times = {name: source.event_time for name, source in self.sources.items()}
        times = {name: OperatorTimes(times=one.times, sides=one.sides) for name, one in self.operators.items()}
        renamed = {one.renamed_from: name for name, one in self.operators.items() if one.renamed_from is not None}
        return OperatorsOfBatches(event_times, times, live, renamed)

    def located(self, location: str, options: Mapping[str, Any] | None) -> StoreLocation:
        """A location with its options: its own, or else the stream's if its checkpoint is on the same kind of store."""
        if options is None and kind_of_store(location) == kind_of_store(self.checkpoint.uri):
            options = self.storage_options
        return StoreLocation(location, options)

    def output(self, location: str, options: Mapping[str, Any] | None) -> StoreLocation:
        """Where a sink writes, apart from the checkpoint.

        Raises:
            ConfigurationError: one is in the other: readers of the output would find objects of the checkpoint, and who
                empties the one would empty the other.
        """
        output, checkpoint = self.located(location, options).canonical(), self.checkpoint.canonical()
        places = _real(output.uri), _real(checkpoint.uri)
        shorter, longer = sorted((f"{place}/" for place in places), key=len)
        if longer.startswith(shorter):
            links = "" if places == (output.uri, checkpoint.uri) else f" (links lead to {places[0]} and {places[1]})"
            raise ConfigurationError(
                f"the output {output.uri} and the checkpoint_location {checkpoint.uri} are one place, or one is in the "
                f"other{links}. Give each a folder of its own, side by side."
            )
        return output

    def source_name(self, name: str | None, kind: str) -> str:
        """The name that a new source gets. It may be left out for one source of a kind.

        Raises:
            ConfigurationError: the name is taken, or is not a name.
        """
        return _free_name("source", name, kind, self.sources)

    def sink_name(self, name: str | None, kind: str) -> str:
        """The name that a new sink gets. It may be left out for one sink of a kind.

        Raises:
            ConfigurationError: the name is taken, or is not a name.
        """
        return _free_name("sink", name, kind, self.sinks)

    def operator_name(self, name: str | None, kind: str) -> str:
        """The name that a new operator with state gets. It may be left out for one operator of a kind.

        Raises:
            ConfigurationError: the name is taken, or is not a name.
        """
        return _free_name("operator", name, kind, self.operators)

    def rejecting_name(self, name: str | None, default: str) -> str:
        """The name that a new rejecting step gets. It may be left out for one step of a kind.

        Raises:
            ConfigurationError: the name is taken, or is not a name.
        """
        return _free_name("rejecting step", name, default, self.rejecting)


def _real(uri: str) -> str:
    """A canonical URI; of a local folder, the path that its links lead to on this machine."""
    if "://" in uri:
        return uri
    try:
        return str(Path(uri).resolve())
    except (OSError, RuntimeError):  # links that lead nowhere: the store says so
        return uri


def graph_of(pipeline: beam.Pipeline) -> StreamGraph | None:
    """The graph of the stream that ``pipeline`` is, or None for an ordinary pipeline."""
    graph = getattr(pipeline, "stream_graph", None)
    return graph if isinstance(graph, StreamGraph) else None


def sink_graph(input_collection: beam.PCollection[Any], transform: str) -> StreamGraph:
    """The graph of the stream that a sink is applied in.

    Raises:
        UnsupportedPipeline: the pipeline is an ordinary one, or the input is windowed.
    """
    graph = graph_of(input_collection.pipeline)
    if graph is None:
        raise UnsupportedPipeline(
            f"{transform} works only in an ExactlyOnceStream, since a plain beam.Pipeline has no checkpoint that could "
            "make it exactly-once. Use `with ExactlyOnceStream(checkpoint_location=…) as stream:` instead of "
            "`with beam.Pipeline() as pipeline:`, or one of Beam's own writers."
        )
    if not is_whole_batch(input_collection):
        if not graph.allow_per_batch:  # else they would be refused only when the stream runs
            raise windows_refused(_windowing_step(input_collection), input_collection)
        raise UnsupportedPipeline(
            f"the input of {transform} is in windows of {input_collection.windowing.windowfn}. A batch is committed as a "
            "whole: put `beam.WindowInto(beam.window.GlobalWindows())` before it, and carry the window in the rows."
        )
    return graph


def is_whole_batch(collection: beam.PCollection[Any]) -> bool:
    """Whether ``collection`` has a batch in one window: the global one, or that of a batch where a pipeline runs all of them."""
    graph = graph_of(collection.pipeline)
    whole = GlobalWindows() if graph is None else graph.tasks.windowing.windowfn
    return bool(collection.windowing.windowfn == whole)


def ancestors(collection: beam.PCollection[Any]) -> set[beam.PCollection[Any]]:
    """All collections that ``collection`` is made of, itself among them."""
    found: set[beam.PCollection[Any]] = set()
    waiting = [collection]
    while waiting:
        one = waiting.pop()
        if one in found or one.producer is None:
            continue
        found.add(one)
        waiting += [given for given in one.producer.inputs if isinstance(given, beam.PCollection)]
        waiting += [side_input.pvalue for side_input in one.producer.side_inputs]
    return found


def windows_refused(step: str, collection: beam.PCollection[Any]) -> UnsupportedPipeline:
    """The error of a step that puts elements into windows, or leaves that of the batch."""
    graph = graph_of(collection.pipeline)
    if graph is not None and graph.is_continuous:
        return UnsupportedPipeline(
            f"step {step!r} gives elements in {type(collection.windowing.windowfn).__name__}. With trigger=Continuous(…) a batch "
            "is a window, and a step must not leave it. Use AggregateByWindow for WindowInto, or group by a time column; give "
            "what does not come from a source to a step as a side input; or use trigger=ProcessingTime(…)."
        )
    return UnsupportedPipeline(
        f"step {step!r} puts elements into {type(collection.windowing.windowfn).__name__}, and a window would close at the end "
        "of each batch of a stream, with only that batch's elements in it. Group by a time column computed from "
        "record.timestamp_ms and merge in the sink, or pass allow_per_batch=True to ExactlyOnceStream if windows within one "
        "batch are what you mean."
    )


def _windowing_step(collection: beam.PCollection[Any]) -> str:
    """The first step above whose output is in these windows."""
    step = collection.producer
    windowfn = collection.windowing.windowfn
    while above := [
        one for one in step.inputs if isinstance(one, beam.PCollection) and one.windowing.windowfn == windowfn
    ]:
        step = above[0].producer
    return str(step.full_label)


def _free_name(role: str, name: str | None, default: str, taken: Mapping[str, object]) -> str:
    chosen = checked_name(default if name is None else name)
    if chosen in taken:
        raise ConfigurationError(
            f"two {role}s are named {chosen!r}. Give each its own name=, and keep it: the checkpoint and "
            f"progress know the {role} by it."
        )
    return chosen
