"""The end of event time: what ``AvailableNow(drain=True)`` plans when all is read, and what waits without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from beam_exactly_once.checkpoint import SourcePlan
from beam_exactly_once.checkpoint.source_times import END_OF_TIME_MS
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.transforms.stream_graph import StreamGraph

LAST_BATCHES = 2
"""The first closes all that is open. A function that it gave values to, as windows closed before it, is called at the timeouts
that it set in the second. There is no third: else one that sets its timeout again and again had no end."""


def at_the_end(sources: Mapping[str, SourcePlan], graph: StreamGraph) -> dict[str, SourcePlan]:
    """The same plans, by which the time of each source with event time ends; where it has ended already, it goes a step on."""
    return {
        name: replace(one, watermark_ms=max(END_OF_TIME_MS, (one.watermark_ms or 0) + 1), held_by=None)
        if graph.sources[name].event_time is not None
        else one
        for name, one in sources.items()
    }


def open_until_ms(graph: StreamGraph, state: Mapping[str, StateList]) -> dict[str, int]:
    """When the next window, row or timeout is due, of each operator that waits for the watermark with something to give."""
    by_event_time = [name for name, one in graph.operators.items() if one.times is not None and name in state]
    due_ms = {name: state[name].next_due_ms for name in by_event_time}
    return {name: at_ms for name, at_ms in due_ms.items() if at_ms is not None}
