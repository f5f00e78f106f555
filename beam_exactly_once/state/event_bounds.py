"""Up to when a batch closes what goes by event time: for each operator, from the watermarks of its sources. Pure.

The bound of an operator is the least watermark of what its rows come from, less the lateness that it allows. It never falls. A
row is late by the bound of the batch before, and the batch itself closes up to its own: so what a batch brings is in what it
closes, and what one operator gives when it closes a window is not late for the next. The watermark of what it gives is its bound.

The idea of two bounds is that of Spark's chained operators (SPARK-40925).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TimeInputs:
    """What an operator's rows come from, as far as their times go."""

    sources: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    """Operators before it that close windows."""
    allowed_lateness_ms: int = 0
    gives_before_ms: int = 0
    """What it gives may have happened so long before its bound."""


@dataclass(frozen=True, slots=True)
class OperatorTimes:
    """Which times an operator goes by."""

    times: TimeInputs | None = field(default=None, kw_only=True)
    """What its rows come from, if it goes by event time."""
    sides: tuple[TimeInputs, ...] = field(default=(), kw_only=True)
    """What each of its inputs comes from, if they have times of their own."""


def event_bounds(
    inputs: Mapping[str, TimeInputs],
    watermarks_ms: Mapping[str, int | None],
    closed_ms: Mapping[str, int | None],
) -> dict[str, int | None]:
    """Up to where a batch closes, for each operator; None where event time has not begun.

    Args:
        inputs: of each operator, those before another one first.
        watermarks_ms: of each source, in the batch's plan.
        closed_ms: of each operator: up to where the batch before has closed.
    """
    bounds: dict[str, int | None] = {}
    for name, of_operator in inputs.items():
        reached_ms = _reached(of_operator, inputs, watermarks_ms, bounds)
        new = None if reached_ms is None else reached_ms - of_operator.allowed_lateness_ms
        bounds[name] = _latest(closed_ms.get(name), new)
    return bounds


def late_bounds(
    name: str,
    sides: Iterable[TimeInputs],
    inputs: Mapping[str, TimeInputs],
    watermarks_ms: Mapping[str, int | None],
    closed_ms: Mapping[str, int | None],
) -> tuple[int | None, ...]:
    """Rows of each input of an operator that happened before are late; None where none is.

    Each input has a time of its own. The operator itself closes by the least of them, so none is late by less.

    Args:
        name: of the operator.
        sides: what each input comes from.
        inputs: of each operator.
        watermarks_ms: of each source, behind the batch before.
        closed_ms: of each operator, too.
    """
    return tuple(_latest(closed_ms.get(name), _reached(side, inputs, watermarks_ms, closed_ms)) for side in sides)


def _reached(
    of_input: TimeInputs,
    inputs: Mapping[str, TimeInputs],
    watermarks_ms: Mapping[str, int | None],
    bounds: Mapping[str, int | None],
) -> int | None:
    """How far the time of rows has come; None where it has not begun."""
    reached = [watermarks_ms.get(one) for one in of_input.sources]
    for one in of_input.operators:
        bound_ms = bounds.get(one)
        reached.append(None if bound_ms is None else bound_ms - inputs[one].gives_before_ms)
    known = [one for one in reached if one is not None]
    return min(known) if known and len(known) == len(reached) else None


def _latest(*times_ms: int | None) -> int | None:
    return max((one for one in times_ms if one is not None), default=None)
