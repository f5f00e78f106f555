"""What a batch asks of the operators with state: up to where each closes, and whether one asks for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from beam_exactly_once.checkpoint import Marker, Plan, SourcePlan
from beam_exactly_once.checkpoint.source_times import SourceTimes
from beam_exactly_once.planning.event_time import EventTime
from beam_exactly_once.state.event_bounds import OperatorTimes, TimeInputs, event_bounds, late_bounds
from beam_exactly_once.state.shard_seed import OperatorTask
from beam_exactly_once.state.state_list import StateList, state_lists
from beam_exactly_once.state.timers import bound_of, is_batch_due


@dataclass(frozen=True, slots=True)
class LiveOperator:
    """Where the state of an operator goes on."""

    generation: int
    hash_seed: str
    """Of the hash of its keys: 32 hexadecimal digits, which no log shows."""


@dataclass(frozen=True, slots=True)
class OperatorsOfBatches:
    """The operators of a stream as plain data: all that planning a batch asks of them."""

    event_times: Mapping[str, EventTime | None] = field(default_factory=dict)
    """Of every source."""
    times: Mapping[str, OperatorTimes] = field(default_factory=dict)
    """Of every operator, those before another one first."""
    live: Mapping[str, LiveOperator] = field(default_factory=dict)
    """Where each goes on."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Names of today, by those of before."""

    def state_in(self, marker: Marker | None) -> dict[str, StateList]:
        """What ``marker`` remembers of operators, that of renamed ones under the names of today."""
        state = state_lists(marker)
        for old, name in self.renamed.items():
            if old in state and name not in state:
                state[name] = replace(state.pop(old), generation=self.live[name].generation)
        return state

    def tasks(
        self, plan: Plan, state: Mapping[str, StateList], times: Mapping[str, SourceTimes]
    ) -> dict[str, OperatorTask]:
        """What the workers of each operator need. A replay has the same: it is made of the plan, and of the marker before it.

        Args:
            plan: of the batch.
            state: what they remember of the batch before.
            times: what is remembered of sources behind it.
        """
        inputs, closed_ms = self._time_inputs(), _closed(state)
        watermarks_ms = {name: one.watermark_ms for name, one in times.items()}
        bounds = self._event_bounds(plan.sources, state)
        event_times = [one for one in self.event_times.values() if one is not None]
        latest_ms = max((one.latest_ms(plan.planned_at_ms) for one in event_times), default=plan.planned_at_ms)
        # What windows give as they close may lie ahead of all clocks where time ends.
        planned_ms = [one.watermark_ms for one in plan.sources.values() if one.watermark_ms is not None]
        latest_ms = max([latest_ms, *planned_ms])
        tasks = {}
        for name, operator in self.times.items():
            base = state.get(name) or StateList.empty(self.live[name].generation)
            fires_to_ms = bounds[name] if name in bounds else bound_of(plan.planned_at_ms, base.fired_ms)
            now_ms = plan.planned_at_ms if name in bounds else bound_of(plan.planned_at_ms, base.fired_ms)
            late_ms = late_bounds(name, operator.sides, inputs, watermarks_ms, closed_ms)
            tasks[name] = OperatorTask(self.live[name].hash_seed, base, fires_to_ms, now_ms, latest_ms, late_ms)
        return tasks

    def ask_for_batch(
        self, sources: Mapping[str, SourcePlan], state: Mapping[str, StateList], now_ms: int, until_ms: int | None
    ) -> bool:
        """Whether an operator has something to do in a batch that reads nothing.

        Args:
            sources: what the batch would plan.
            state: in the newest marker.
            now_ms: when the batch would be planned.
            until_ms: no timer of the clock that is due later asks for a batch; None: there is no end.
        """
        bounds = self._event_bounds(sources, state)
        by_clock = [one for name, one in state.items() if name in self.times and name not in bounds]
        return is_batch_due(by_clock, now_ms, until_ms) or any(
            closes_to_ms is not None and name in state and state[name].is_due(closes_to_ms)
            for name, closes_to_ms in bounds.items()
        )

    def are_those_of(self, state: Mapping[str, StateList]) -> bool:
        """Whether a marker with ``state`` was decided by a pipeline with these operators."""
        return {name: one.generation for name, one in state.items()} == {
            name: live.generation for name, live in self.live.items()
        }

    def _event_bounds(self, sources: Mapping[str, SourcePlan], state: Mapping[str, StateList]) -> dict[str, int | None]:
        watermarks_ms = {name: sources[name].watermark_ms if name in sources else None for name in self.event_times}
        return event_bounds(self._time_inputs(), watermarks_ms, _closed(state))

    def _time_inputs(self) -> dict[str, TimeInputs]:
        return {name: one.times for name, one in self.times.items() if one.times is not None}


def _closed(state: Mapping[str, StateList]) -> dict[str, int | None]:
    return {name: one.fired_ms for name, one in state.items()}
