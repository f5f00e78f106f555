"""What a batch asks of the operators with state: up to where each closes, and whether one asks for a batch."""

from __future__ import annotations

from collections.abc import Mapping

from beam_exactly_once.checkpoint import Plan, SourcePlan
from beam_exactly_once.checkpoint.source_times import SourceTimes
from beam_exactly_once.pipelines.known_operators import LiveOperator
from beam_exactly_once.state.event_bounds import TimeInputs, event_bounds, late_bounds
from beam_exactly_once.state.shard_seed import OperatorTask
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.timers import bound_of, is_batch_due
from beam_exactly_once.transforms.stream_graph import StreamGraph


def tasks_of(
    plan: Plan,
    graph: StreamGraph,
    live: Mapping[str, LiveOperator],
    state: Mapping[str, StateList],
    times: Mapping[str, SourceTimes],
) -> dict[str, OperatorTask]:
    """What the workers of each operator need. A replay has the same: it is made of the plan, and of the marker before it.

    Args:
        plan: of the batch.
        graph: of the stream.
        live: where each operator goes on.
        state: what they remember of the batch before.
        times: what is remembered of sources behind it.
    """
    inputs, closed_ms = _time_inputs(graph), _closed(state)
    watermarks_ms = {name: one.watermark_ms for name, one in times.items()}
    bounds = _event_bounds(plan.sources, graph, state)
    event_times = [source.event_time for source in graph.sources.values() if source.event_time is not None]
    latest_ms = max((one.latest_ms(plan.planned_at_ms) for one in event_times), default=plan.planned_at_ms)
    # What windows give as they close may lie ahead of all clocks where time ends.
    latest_ms = max([latest_ms, *(one.watermark_ms for one in plan.sources.values() if one.watermark_ms is not None)])
    tasks = {}
    for name, operator in graph.operators.items():
        base = state.get(name) or StateList.empty(live[name].generation)
        fires_to_ms = bounds[name] if name in bounds else bound_of(plan.planned_at_ms, base.fired_ms)
        now_ms = plan.planned_at_ms if name in bounds else bound_of(plan.planned_at_ms, base.fired_ms)
        late_ms = late_bounds(name, operator.sides, inputs, watermarks_ms, closed_ms)
        tasks[name] = OperatorTask(live[name].hash_seed, base, fires_to_ms, now_ms, latest_ms, late_ms)
    return tasks


def ask_for_batch(
    sources: Mapping[str, SourcePlan],
    graph: StreamGraph,
    state: Mapping[str, StateList],
    now_ms: int,
    until_ms: int | None,
) -> bool:
    """Whether an operator has something to do in a batch that reads nothing.

    Args:
        sources: what the batch would plan.
        graph: of the stream.
        state: in the newest marker.
        now_ms: when the batch would be planned.
        until_ms: no timer of the clock that is due later asks for a batch; None: there is no end.
    """
    bounds = _event_bounds(sources, graph, state)
    by_clock = [one for name, one in state.items() if name in graph.operators and name not in bounds]
    return is_batch_due(by_clock, now_ms, until_ms) or any(
        closes_to_ms is not None and name in state and state[name].is_due(closes_to_ms)
        for name, closes_to_ms in bounds.items()
    )


def _event_bounds(
    sources: Mapping[str, SourcePlan], graph: StreamGraph, state: Mapping[str, StateList]
) -> dict[str, int | None]:
    watermarks_ms = {name: sources[name].watermark_ms if name in sources else None for name in graph.sources}
    return event_bounds(_time_inputs(graph), watermarks_ms, _closed(state))


def _time_inputs(graph: StreamGraph) -> dict[str, TimeInputs]:
    return {name: one.times for name, one in graph.operators.items() if one.times is not None}


def _closed(state: Mapping[str, StateList]) -> dict[str, int | None]:
    return {name: one.fired_ms for name, one in state.items()}
