"""One seed, one history of a join of two sources: what is read when, how far time comes, and what becomes of each batch.

Watermarks, bounds, what markers remember of times, and the bundles of the join are the real ones. Partitions pause and come back,
lag behind, and are out of order by less than their source allows, but for one record in nine; the disorder that is allowed is
another one in each batch. Attempts are lost and their plans replayed with other workers; batches are skipped and abandoned.

The oracle is a look at all records together: it knows no batch, no state and no time but that of the records.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from beam_exactly_once import EventTime, TopicPartition
from beam_exactly_once.checkpoint.source_times import END_OF_TIME_MS, NotedTimes, SourceTimes
from beam_exactly_once.planning.watermarks import next_watermark, quiet_partitions
from beam_exactly_once.state.event_bounds import TimeInputs, event_bounds, late_bounds
from beam_exactly_once.state.joins.bundle import JoinBundle
from beam_exactly_once.state.joins.interval import Interval
from beam_exactly_once.state.joins.operator import JoinEach
from support.timers.joins_in_memory import NAME, Batch, Bounds, JoinsInMemory

SOURCES = ("left", "right")
DISORDER_MS = 20
IDLE_MS = 50
"""Batches are 10 ms apart."""

Row = tuple[str, tuple[int, int]]
"""A key; when the record happened, and its number."""


def at_ms(value: tuple[int, int]) -> int:
    return value[0]


@dataclass(frozen=True)
class JoinPlan:
    """What a batch reads, and how far the time of each source has come."""

    planned_at_ms: int
    stops: Mapping[TopicPartition, int]
    watermarks_ms: Mapping[str, int | None]


class JoinHistory:
    """Mutants replace its parts."""

    bundle: type[JoinBundle] = JoinBundle
    abandoned = 0.1
    """How often a batch is."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.how = chance.choice(("inner", "left", "right", "full"))
        self.interval = Interval(chance.choice((0, 15, 40)), chance.choice((0, 15, 40)))
        operator = JoinEach(self.interval, self.how, (at_ms, at_ms))  # type: ignore[arg-type]
        self.memory = JoinsInMemory(operator, slices=chance.choice((1, 3)), bundle=self.bundle)
        self.logs: dict[TopicPartition, list[Row]] = {TopicPartition(one, at): [] for one in SOURCES for at in (0, 1)}
        self.reached_ms = {one: 1000 + chance.randrange(60) for one in self.logs}
        self.next_offsets = dict.fromkeys(self.logs, 0)
        self.times = dict.fromkeys(SOURCES, SourceTimes())
        self.now_ms = 0
        self.were_idle: set[TopicPartition] = set()
        self.skipped: set[int] = set()
        self.given: list[Any] = []
        self.late: list[Row] = []
        self.faults: list[str] = []

    def run(self) -> list[str]:
        """All of it; what was wrong."""
        paused = {one: self.chance.randrange(12) for one in self.logs if self.chance.random() < 0.3}
        for number in range(12):
            self.now_ms += 10
            for one in self.logs:
                if not 0 <= number - paused.get(one, 99) < 7:
                    self.happen(one)
            self.run_batch(self.plan())
        while any(self.next_offsets[one] < len(log) for one, log in self.logs.items()):
            self.now_ms += 10
            self.commit(self.plan())
        self.commit(replace(self.plan(), watermarks_ms=dict.fromkeys(SOURCES, END_OF_TIME_MS)))
        return self.faults + self.wrong()

    def happen(self, one: TopicPartition) -> None:
        for _ in range(self.chance.randrange(4)):
            self.reached_ms[one] += 5 * self.chance.randrange(4)
            behind_ms = 5 * self.chance.randrange(30 if self.chance.random() < 0.1 else DISORDER_MS // 5)
            number = sum(map(len, self.logs.values()))
            self.logs[one].append((self.chance.choice("ab"), (self.reached_ms[one] - behind_ms, number)))

    # -- the driver ------------------------------------------------------------------------------------------------------

    def plan(self) -> JoinPlan:
        stops = {
            one: min(len(log), self.next_offsets[one] + self.chance.randrange(5)) for one, log in self.logs.items()
        }
        event_time = EventTime(out_of_order_s=self.chance.choice((20, 20, 60)) / 1000, idle_s=IDLE_MS / 1000)
        watermarks_ms = {name: self.watermark_ms(name, stops, event_time) for name in SOURCES}
        return JoinPlan(self.now_ms, stops, watermarks_ms)

    def watermark_ms(self, name: str, stops: Mapping[TopicPartition, int], event_time: EventTime) -> int | None:
        partitions = self.partitions(name)
        quiet = quiet_partitions(self.times[name], partitions, event_time, self.now_ms)
        idle = [one for one in quiet if self.may_be_idle(one, stops)]
        self.were_idle |= set(idle)
        return next_watermark(self.times[name], partitions, idle, event_time).at_ms

    def may_be_idle(self, one: TopicPartition, stops: Mapping[TopicPartition, int]) -> bool:
        return self.next_offsets[one] == stops[one] == len(self.logs[one])

    def partitions(self, name: str) -> list[TopicPartition]:
        return [one for one in self.logs if one.topic == name]

    def run_batch(self, plan: JoinPlan) -> None:
        chance = self.chance.random()
        if chance < 0.1:
            self.skipped |= {row[1][1] for name in SOURCES for row in self.rows_of(plan, name)}
            self.next_offsets |= plan.stops
            self.passed(plan)
        elif chance < 0.1 + self.abandoned:
            self.passed(plan)
        else:
            lost = self.attempt(plan) if self.chance.random() < 0.2 else None
            batch = self.commit(plan)
            if lost is not None and sorted(map(repr, lost.rows)) != sorted(map(repr, batch.rows)):
                self.faults.append(f"a replay of batch {self.memory.batch_id - 1} gave other rows")

    def passed(self, plan: JoinPlan) -> None:
        """Somebody skipped or abandoned the batch."""
        self.memory.batch_id += 1

    def attempt(self, plan: JoinPlan) -> Batch:
        """Run it with so many workers; decides nothing."""
        rows = [self.rows_of(plan, name) for name in SOURCES]
        inputs, closed_ms = {NAME: TimeInputs(SOURCES)}, {NAME: self.memory.state.fired_ms}
        sides = [TimeInputs((name,)) for name in SOURCES]
        before_ms = {name: self.times[name].watermark_ms for name in SOURCES}
        self.memory.bounds = Bounds(*self.late_ms(late_bounds(NAME, sides, inputs, before_ms, closed_ms)))
        closes_ms = self.closes_ms(inputs, plan, closed_ms)
        return self.memory.attempt(*rows, Bounds(closes_ms, closes_ms), shards=self.chance.choice((1, 2, 3)))

    def late_ms(self, bounds_ms: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return bounds_ms

    def closes_ms(
        self, inputs: Mapping[str, TimeInputs], plan: JoinPlan, closed_ms: Mapping[str, int | None]
    ) -> int | None:
        return event_bounds(inputs, plan.watermarks_ms, closed_ms)[NAME]

    def commit(self, plan: JoinPlan) -> Batch:
        batch = self.attempt(plan)
        self.memory.state = batch.state
        self.memory.batch_id += 1
        self.note(plan)
        self.next_offsets |= plan.stops
        self.given += batch.rows
        self.late += batch.late
        return batch

    def note(self, plan: JoinPlan) -> None:
        """What the marker remembers of times."""
        for name in SOURCES:
            partitions = self.partitions(name)
            read = {one: self.logs[one][self.next_offsets[one] : plan.stops[one]] for one in partitions}
            noted = {one: NotedTimes(max(row[1][0] for row in rows)) for one, rows in read.items() if rows}
            offsets = {one: plan.stops[one] for one in partitions}
            self.times[name] = self.times[name].behind(offsets, (), plan.planned_at_ms, plan.watermarks_ms[name], noted)

    def rows_of(self, plan: JoinPlan, name: str) -> list[Row]:
        return [
            row for one in self.partitions(name) for row in self.logs[one][self.next_offsets[one] : plan.stops[one]]
        ]

    # -- the oracle ------------------------------------------------------------------------------------------------------

    def wrong(self) -> list[str]:
        late = {value[1] for _, value in self.late}
        for one, log in self.logs.items():
            greatest_ms = 0
            for key, (happened_ms, number) in log:
                if number in late and happened_ms >= greatest_ms - DISORDER_MS and one not in self.were_idle:
                    self.faults.append(f"{key} of {happened_ms} in {one} was taken for late")
                greatest_ms = max(greatest_ms, happened_ms)
        left, right = (
            [row for one in self.partitions(name) for row in self.logs[one] if row[1][1] not in late | self.skipped]
            for name in SOURCES
        )
        pairs = [(one[0], (one[1], two[1])) for one in left for two in right if self.match(one, two)]
        had_match = {value[1] for _, pair in pairs for value in pair}
        alone = [(key, (value, None)) for key, value in left if self.how in ("left", "full")]
        alone += [(key, (None, value)) for key, value in right if self.how in ("right", "full")]  # type: ignore[misc]
        expected = pairs + [one for one in alone if (one[1][0] or one[1][1])[1] not in had_match]  # type: ignore[index, list-item]
        found, wanted = Counter(map(repr, self.given)), Counter(map(repr, expected))
        return [
            *(f"{one} is given {times} times too often" for one, times in (found - wanted).items()),
            *(f"{one} is given {times} times too seldom" for one, times in (wanted - found).items()),
        ]

    def match(self, left: Row, right: Row) -> bool:
        apart_ms = right[1][0] - left[1][0]
        return left[0] == right[0] and -self.interval.before_ms <= apart_ms <= self.interval.after_ms
