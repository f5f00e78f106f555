"""Up to when a batch closes what goes by event time: for each operator, from the watermarks of its sources. Pure.

The bound of an operator is the least watermark of what its rows come from, less the lateness that it allows. It never falls. A
row is late by the bound of the batch before, and the batch itself closes up to its own: so what a batch brings is in what it
closes, and what one operator gives when it closes a window is not late for the next. The watermark of what it gives is its bound.

The idea of two bounds is that of Spark's chained operators (SPARK-40925).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeInputs:
    """What an operator's rows come from, as far as their times go."""

    sources: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    """Operators before it that close windows."""
    allowed_lateness_ms: int = 0


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
        before = [watermarks_ms[one] for one in of_operator.sources] + [bounds[one] for one in of_operator.operators]
        known = [one for one in before if one is not None]
        new = min(known) - of_operator.allowed_lateness_ms if before and len(known) == len(before) else None
        bounds[name] = max((one for one in (closed_ms.get(name), new) if one is not None), default=None)
    return bounds
