"""How a driver takes a stream over: what it asks and tries first, since from its claim on an older driver stops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from beam_exactly_once.checkpoint import Checkpoint, StreamWriter, this_process
from beam_exactly_once.clock import Clock, now_ms
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.pipelines.clock_check import refuse_clock_ahead
from beam_exactly_once.pipelines.known_graph import KnownGraph
from beam_exactly_once.pipelines.progress import ProgressListener, log_lines
from beam_exactly_once.pipelines.triggers import AvailableNow, Trigger
from beam_exactly_once.planning.continuing import CheckpointAt
from beam_exactly_once.planning.source_planner import SourcePlanner
from beam_exactly_once.transforms.stream_graph import StreamGraph


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What a driver needs besides the graph."""

    trigger: Trigger
    max_batches: int | None
    continue_from: tuple[CheckpointAt, StoreLocation] | None
    """Where a new checkpoint goes on from, and that checkpoint's location, as this stream reaches it."""
    listeners: tuple[ProgressListener, ...]
    retain_batches: int
    without: tuple[str, ...]
    """Names of operators that the graph no longer has on purpose."""


def claim_newest(checkpoint: Checkpoint, claimed_at_ms: int) -> StreamWriter:
    """Claim the stream, whoever has it."""
    return StreamWriter.claim(checkpoint, owner=this_process(), claimed_at_ms=claimed_at_ms)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a driver has of a stream that it has claimed."""

    planners: Mapping[str, SourcePlanner]
    known: KnownGraph
    writer: StreamWriter


@contextlib.contextmanager
def claimed_stream(
    settings: StreamSettings, graph: StreamGraph, clock: Clock, claim: Callable[[Checkpoint, int], StreamWriter]
) -> Iterator[Claimed]:
    """Ask the logs, try the outputs, compare the clock, and only then claim; ``claim`` is given the checkpoint and the time."""
    with contextlib.ExitStack() as open_logs:
        may_wait = not isinstance(settings.trigger, AvailableNow)
        planners = {name: SourcePlanner(spec, clock, may_wait=may_wait) for name, spec in graph.sources.items()}
        for planner in planners.values():
            open_logs.callback(planner.close)
        checkpoint = Checkpoint.open(graph.checkpoint.store, clock=clock)
        known = KnownGraph(checkpoint, graph, settings.without)
        known.refuse_changes()
        known.check_places()
        if graph.operators:
            refuse_clock_ahead(checkpoint.store, clock)
        writer = claim(checkpoint, now_ms(clock))
        log_lines.log_claim(writer)
        yield Claimed(planners, known, writer)
