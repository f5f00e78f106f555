"""A driver whose operator is called once a batch for a key, may set its timer again, and is given batches for timers alone."""

from __future__ import annotations

from beam_exactly_once.checkpoint import Piece, Plan, SourcePlan
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.timers import bound_of, is_batch_due
from support.simulation.stateful_driver import StatefulDriver, Task, alive_in
from support.simulation.tables import Entry, Table


class TimedDriver(StatefulDriver):
    """One life, of a stream with ``AvailableNow``. Mutants replace its parts."""

    def run_batches(self) -> None:
        self.until_ms = self.now_ms()
        while True:
            planned = self.ranges()
            self.asked_ms = self.now_ms()
            if planned is None:
                if not self.is_batch_due():
                    break
                planned = SourcePlan((), (), self.next_offsets)
            self.run_planned(self.decide_plan(self.batch_id, planned))
        self.assert_nothing_is_due()

    def is_batch_due(self) -> bool:
        return is_batch_due(map(StateList.from_json, self.state.values()), self.asked_ms, self.until_ms)

    def assert_nothing_is_due(self) -> None:
        """Whoever ends leaves no timer that was due when it began, and is due by the clock that it ends with."""
        stored = self.base()
        if stored.object_keys <= self.scene.checkpoint_store.objects.keys():  # else a newer driver has swept them
            bound_ms = min(self.until_ms, bound_of(self.asked_ms, stored.fired_ms))
            late = sorted(key for key, one in alive_in(self.scene, stored).items() if _is_due(one, bound_ms))
            assert not late, f"{self.name} ends behind batch {self.batch_id - 1}, and timers of {late} are due"

    def read(self, plan: Plan) -> list[Piece]:
        return super().read(plan) if any(source.ranges for source in plan.sources.values()) else []

    def task_of(self, plan: Plan) -> Task:
        base = self.base()
        return Task(base, bound_of(plan.planned_at_ms, base.fired_ms))

    def due_after(self, task: Task) -> int:
        return self.not_before(super().due_after(task), task)

    def left_at_timeout(self, task: Task, entry: Entry) -> Entry:
        """Often set again; sometimes in the past."""
        if self.scene.random.random() < 0.4:
            return Entry(entry.offsets, self.due_after(task))
        return Entry()

    def not_before(self, due_ms: int, task: Task) -> int:
        """A key is called once a batch: what is due already is due in the next one."""
        return max(due_ms, task.fires_to_ms + 1)

    def due(self, task: Task, known: Table, delta: Table) -> list[str]:
        """Due since the batch before, and not called in this one."""
        lower_ms = self.lower_ms(task)
        return [
            key
            for key, entry in sorted(known.items())
            if entry.due_ms is not None and lower_ms < entry.due_ms <= task.fires_to_ms and key not in delta
        ]

    def lower_ms(self, task: Task) -> int:
        return task.base.fired_ms or 0


def _is_due(entry: Entry, bound_ms: int) -> bool:
    return entry.due_ms is not None and entry.due_ms <= bound_ms
