"""The sources and sinks that a checkpoint knows, beside those of the graph."""

from __future__ import annotations

from collections.abc import Collection

from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.checkpoint.layout import SINKS, SOURCES
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import PipelineChanged
from beam_exactly_once.pipelines.known_operators import KnownOperators, refuse_missing
from beam_exactly_once.transforms.stream_graph import StreamGraph


class KnownGraph:
    """What ``checkpoint`` knows of ``graph``: read once, and what this driver has recorded since.

    ``without`` names operators that the graph no longer has on purpose.
    """

    def __init__(self, checkpoint: Checkpoint, graph: StreamGraph, without: Collection[str]) -> None:
        self._checkpoint = checkpoint
        self._graph = graph
        self._sources = checkpoint.definitions(SOURCES)
        self._sinks = checkpoint.definitions(SINKS)
        self.operators = KnownOperators(checkpoint, graph.operators, without)

    def refuse_changes(self) -> None:
        """
        Raises:
            PipelineChanged: the graph lost a source, sink or operator that the checkpoint knows, or has it otherwise.
        """
        way_out = "start a new checkpoint_location with continue_from=CheckpointAt(…)"
        refuse_missing(self._checkpoint.store.uri, "a source", self._sources, self._graph.sources, way_out)
        refuse_missing(self._checkpoint.store.uri, "a sink", self._sinks, self._graph.sinks, way_out)
        self.operators.refuse_changes()
        for name, source in self._graph.sources.items():
            recorded = self._sources.get(name, source.definition)  # where it began stands there, too
            self._refuse_changed(
                "source", name, source.definition, {key: recorded.get(key) for key in source.definition}
            )
        for name, sink in self._graph.sinks.items():
            self._refuse_changed("sink", name, sink.definition, self._sinks.get(name, sink.definition))

    def check_places(self) -> None:
        """Prove that every sink's place answers and can be written; only of one that no start has proved, that it is fit.

        Raises:
            BeamExactlyOnceError: see :class:`~beam_exactly_once.sinks.contract.DriverSide`.
        """
        for name, sink in self._graph.sinks.items():
            if name in self._sinks:  # with the same definition, so at the same place
                sink.driver_side.check_known_place()
            else:
                sink.driver_side.check_place()

    def check_sinks(self, next_batch_id: int) -> None:
        """Prove that every sink can take the next batch; then record those that are new.

        Raises:
            PipelineChanged: another driver recorded a sink otherwise.
            BeamExactlyOnceError: see :class:`~beam_exactly_once.sinks.contract.Publisher`.
        """
        for name, sink in self._graph.sinks.items():
            if name not in self._sinks:
                sink.driver_side.prepare(self._checkpoint.stream_id)
            # A direct sink may hold the next batch, if a driver died before it was committed.
            sink.driver_side.check_start(self._checkpoint.stream_id, next_batch_id + sink.publisher.is_direct)
        for name, sink in self._graph.sinks.items():
            self._sinks[name] = self._checkpoint.create_definition(SINKS, name, sink.definition)
            self._refuse_changed("sink", name, sink.definition, self._sinks[name])

    def _refuse_changed(self, role: str, name: str, definition: Json, recorded: Json) -> None:
        changed = sorted(key for key in {*definition, *recorded} if recorded.get(key) != definition.get(key))
        if changed:
            raise PipelineChanged(
                f"{role} {name!r} had "
                + ", ".join(f"{key}={recorded.get(key)!r}, now {definition.get(key)!r}" for key in changed)
                + f" in {self._checkpoint.store.uri}. Change it back, or give the new {role} another name= in a new "
                "checkpoint_location with continue_from=CheckpointAt(…)."
            )
