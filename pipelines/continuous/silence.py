"""Whether a pipeline that publishes nothing has nothing to do, works, or is stuck."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from beam_exactly_once.checkpoint import Checkpoint, SourcePlan
from beam_exactly_once.clock import Clock, now_ms
from beam_exactly_once.errors import RunnerUnavailable
from beam_exactly_once.planning.source_planner import SourcePlanner

CHECK_S = 1.0
"""How often a silent pipeline is looked at."""
NO_PLAN_S = 60.0
"""How long a pipeline may take to plan what there is to read; a cold start is among it."""


class Silence:
    """Counts how long there was work and no publish.

    Only time counts that this process has seen pass: one that was frozen, or waited for its store, has seen nothing.

    Args:
        clock: of the counting.
        checkpoint: where the pipeline plans.
        planners: know what there is to read, by source.
        is_due: whether an operator asks for a batch with these plans, which read nothing, at this time in milliseconds.
        batch_timeout_s: how long a planned batch may take; None, for ever.
        no_plan_s: how long the pipeline may take to plan what there is to read; its start is among it.
    """

    def __init__(
        self,
        clock: Clock,
        checkpoint: Checkpoint,
        planners: Mapping[str, SourcePlanner],
        is_due: Callable[[Mapping[str, SourcePlan], int], bool],
        batch_timeout_s: float | None,
        no_plan_s: float = NO_PLAN_S,
    ) -> None:
        self._clock = clock
        self._checkpoint = checkpoint
        self._planners = planners
        self._is_due = is_due
        self._batch_timeout_s = batch_timeout_s
        self._no_plan_s = no_plan_s
        self._seen_s = clock.monotonic_s()
        self._unchecked_s = 0.0
        self.is_idle = False
        """Whether there was nothing to do at the last check."""
        self.ends()

    def ends(self) -> None:
        """A batch is published."""
        self._unplanned_s = self._planned_s = 0.0

    def is_checked_now(self) -> bool:
        """Whether it is time for :meth:`check`. To be asked at every poll."""
        now_s = self._clock.monotonic_s()
        self._unchecked_s += min(now_s - self._seen_s, CHECK_S)
        self._seen_s = now_s
        return self._unchecked_s >= CHECK_S

    def check(self, batch_id: int) -> None:
        """Count the time since the last check as what it was.

        Args:
            batch_id: the first one that is not published.

        Raises:
            RunnerUnavailable: it was too long.
        """
        passed_s, self._unchecked_s = min(self._unchecked_s, 2 * CHECK_S), 0.0
        self.is_idle = False
        if self._checkpoint.read_plan(batch_id) is not None:
            self._planned_s += passed_s
            if self._batch_timeout_s is not None and self._planned_s > self._batch_timeout_s:
                raise RunnerUnavailable(
                    f"the pipeline did not publish batch {batch_id} in batch_timeout_s={self._batch_timeout_s:g} s. Either a "
                    "worker never came, or a step does not return, or the batch needs longer."
                )
        elif self._is_work():
            self._unplanned_s += passed_s
            if self._unplanned_s > self._no_plan_s:
                raise RunnerUnavailable(
                    f"the pipeline planned nothing in {self._no_plan_s:g} s, and there was something to do for batch {batch_id}."
                )
        else:
            self._unplanned_s = 0.0
            self.is_idle = True

    def _is_work(self) -> bool:
        at_ms = now_ms(self._clock)
        plans = {}
        for name, planner in self._planners.items():
            planner.refresh()
            plans[name] = plan = planner.plan(at_ms)
            if plan.ranges or plan.lost or plan.replaced:
                return True
        return self._is_due(plans, at_ms)
