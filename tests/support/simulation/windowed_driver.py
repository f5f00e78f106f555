"""A driver whose operator collects the offsets of each key by window of event time, and hands them on when the window closes.

Watermarks, bounds, and what markers remember of times are the real ones. Most records of a partition are out of order by less
than the source allows: none of these may ever be late. Each window is to close once, with all of its rows that are not late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from beam_exactly_once import EventTime
from beam_exactly_once.checkpoint import Attempt, Marker, Piece, Plan, SourcePlan
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.checkpoint.source_times import END_OF_TIME_MS, NotedTimes, SourceTimes
from beam_exactly_once.planning.watermarks import next_watermark
from beam_exactly_once.state.event_bounds import TimeInputs, event_bounds
from support.simulation.driver import PARTITIONS, SINK, SOURCE, Scene
from support.simulation.stateful_driver import OPERATOR, StatefulDriver, Task
from support.simulation.tables import Offsets

SIZE_MS = 40
OUT_OF_ORDER = EventTime(out_of_order_s=0.024, idle_s=None)
LATE = "late"
STEPS_MS = (10, 4)
"""From record to record of each partition: one is slower."""


def happened_ms(row: list[int]) -> int:
    """Out of order by less than 24 ms; one in nine by up to 150."""
    partition, offset = row
    mixed = offset * 7919 + partition * 31
    return 1_000 + STEPS_MS[partition] * offset - (mixed % 150 if mixed % 9 == 0 else mixed % 24)


def is_in_order(row: list[int]) -> bool:
    """Whether no record of its partition before it happened more than 24 ms later."""
    before = [happened_ms([row[0], offset]) for offset in range(row[1])]
    return not before or happened_ms(row) >= max(before) - 24


@dataclass
class WindowsTask(Task):
    """What travels to the worker of one attempt."""

    times: SourceTimes = field(default_factory=SourceTimes)
    """What is remembered of the source before the batch."""


class WindowedDriver(StatefulDriver):
    """One life; how late rows may be is another matter in each. Mutants replace its parts."""

    drained = 0.0
    """In how many of the lives the stream is drained."""

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene, name)
        self.drains = self.drained > 0 and scene.random.random() < self.drained
        self.lateness_ms = scene.random.choice((0, 30, 100))
        self.times = SourceTimes()

    # -- the driver ------------------------------------------------------------------------------------------------

    def position(self, newest: Marker | None) -> Any:
        self.times = SourceTimes() if newest is None else self.times_in(newest)
        return super().position(newest)

    def stand_after(self, plan: Plan, won: Marker) -> Any:
        self.times = self.times_in(won)
        return super().stand_after(plan, won)

    def times_in(self, marker: Marker) -> SourceTimes:
        return marker.sources[SOURCE].event_time or SourceTimes()  # of a first batch that was passed, it says nothing

    def run_batches(self) -> None:
        while True:
            planned = self.ranges()
            planned = SourcePlan((), (), self.next_offsets) if planned is None else planned
            planned = replace(planned, watermark_ms=self.watermark_ms())
            if not planned.ranges and not self.base().is_due(self.bound_ms(planned)):
                planned = replace(planned, watermark_ms=END_OF_TIME_MS)
                if not self.drains or not self.base().is_due(self.bound_ms(planned)):
                    break
            self.run_planned(self.decide_plan(self.batch_id, planned))

    def watermark_ms(self) -> int | None:
        return next_watermark(self.times, PARTITIONS, (), OUT_OF_ORDER).at_ms

    def bound_ms(self, planned: SourcePlan) -> int:
        inputs = {OPERATOR: TimeInputs((SOURCE,), (), self.lateness_ms)}
        return event_bounds(inputs, {SOURCE: planned.watermark_ms}, {OPERATOR: self.base().fired_ms})[OPERATOR] or 0

    def task_of(self, plan: Plan) -> Task:
        return WindowsTask(self.base(), self.bound_ms(plan.sources[SOURCE]), self.times)

    # -- the workers -----------------------------------------------------------------------------------------------

    def read(self, plan: Plan) -> list[Piece]:
        return super().read(plan) if plan.sources[SOURCE].ranges else []

    def marker_behind(self, plan: Plan, attempt: Attempt, pieces: list[Piece]) -> Marker:
        task = self.tasks[attempt.nonce]
        assert isinstance(task, WindowsTask)
        noted = {
            one.topic_partition: NotedTimes(max(happened_ms([one.partition, at]) for at in range(one.start, one.stop)))
            for one in plan.sources[SOURCE].ranges
        }
        return type(self).marker_of(plan, attempt, pieces, {}, 0, times={SOURCE: task.times}, noted={SOURCE: noted})

    def sent(self, task: Task, rows: Offsets) -> Offsets:
        self.late = [row for row in rows if self.is_late(row, task)]
        return [row for row in rows if row not in self.late]

    def is_late(self, row: list[int], task: Task) -> bool:
        return self.end_ms(row) <= (task.base.fired_ms or 0)

    def stage_output(self, attempt: Attempt, rows: Offsets, fired: dict[str, Offsets]) -> Json:
        return super().stage_output(attempt, rows, {**fired, LATE: self.late} if self.late else fired)

    def key_of(self, row: list[int]) -> str:
        return f"{super().key_of(row)}@{self.end_ms(row)}"

    def due_of(self, row: list[int], task: Task) -> int:
        return self.end_ms(row)

    def end_ms(self, row: list[int]) -> int:
        at_ms = happened_ms(row)
        return at_ms - at_ms % SIZE_MS + SIZE_MS


def window_faults(scene: Scene, markers: Mapping[int, Marker]) -> list[str]:
    """Windows that closed twice, and rows that were taken for late."""
    closed: Counter[str] = Counter()
    faults = []
    has_ended = False  # then every row is late
    for _, marker in sorted(markers.items()):
        for committable in marker.committables.get(SINK, ()):
            body = scene.output.objects.get(committable["final_key"])
            fired = {} if body is None else orjson.loads(body)["fired"]
            late = fired.pop(LATE, ())
            faults += [f"{row} was taken for late" for row in late if not has_ended and is_in_order(row)]
            closed.update(fired.keys())
        times = marker.sources[SOURCE].event_time
        if times is not None and times.have_ended and not has_ended:
            has_ended = True
            if marker.outcome != "committed" or marker.records_read:
                faults.append(f"time has ended with batch {marker.batch_id}, which drains nothing")
    return faults + [f"window {window} closed {times} times" for window, times in sorted(closed.items()) if times > 1]
