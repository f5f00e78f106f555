"""Each pair is given once, and each row alone once, in random histories of a join; and each rule left out is found.

SIMULATION_SEEDS=10000 pytest tests/simulation/test_join_histories.py     # more histories
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from beam_exactly_once import EventTime, TopicPartition
from beam_exactly_once.state.event_bounds import TimeInputs
from beam_exactly_once.state.joins import bundle
from beam_exactly_once.state.joins.bundle import JoinBundle, Joined
from beam_exactly_once.state.run import NEVER, Run
from beam_exactly_once.state.shard import OpenSlice
from support.simulation.caught import assert_caught
from support.simulation.join_history import SOURCES, JoinHistory, JoinPlan

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "12"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))


class OftenAbandoned(JoinHistory):
    """Where one of the mutants fails that are rare."""

    abandoned = 0.5


@pytest.mark.parametrize("histories", [JoinHistory, OftenAbandoned], ids=lambda one: one.__name__)
def test_each_pair_and_each_row_without_a_match_is_given_once(histories: type[JoinHistory]) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        assert histories(seed).run() == [], f"seed {seed}"


# -- each rule left out ----------------------------------------------------------------------------------------------


class TheFastestPartition(JoinHistory):
    """Its time is taken for that of all: spark#15702."""

    def watermark_ms(self, name: str, stops: Mapping[TopicPartition, int], event_time: EventTime) -> int | None:
        found = [one.max_ms for one in self.times[name].partitions.values() if one.max_ms is not None]
        return max(found) - int(event_time.out_of_order_s * 1000) if found else None


class IdleWithABacklog(JoinHistory):
    """A partition that nothing was read of for a while is not waited for, though it has records."""

    def may_be_idle(self, one: TopicPartition, stops: Mapping[TopicPartition, int]) -> bool:
        return True

    def watermark_ms(self, name: str, stops: Mapping[TopicPartition, int], event_time: EventTime) -> int | None:
        before = set(self.were_idle)
        found = super().watermark_ms(name, stops, event_time)
        self.were_idle = before | {
            one for one in self.were_idle if super(IdleWithABacklog, self).may_be_idle(one, stops)
        }
        return found


class TheFasterSide(JoinHistory):
    """What nothing can match any more is decided by one side."""

    def closes_ms(
        self, inputs: Mapping[str, TimeInputs], plan: JoinPlan, closed_ms: Mapping[str, int | None]
    ) -> int | None:
        return max(
            (one for one in [*plan.watermarks_ms.values(), *closed_ms.values()] if one is not None), default=None
        )


class MayFall(JoinHistory):
    """More disorder is allowed, and the bound goes back."""

    def watermark_ms(self, name: str, stops: Mapping[TopicPartition, int], event_time: EventTime) -> int | None:
        kept = self.times[name]
        self.times[name] = replace(kept, watermark_ms=None)
        found = super().watermark_ms(name, stops, event_time)
        self.times[name] = kept
        return found

    def closes_ms(
        self, inputs: Mapping[str, TimeInputs], plan: JoinPlan, closed_ms: Mapping[str, int | None]
    ) -> int | None:
        return super().closes_ms(inputs, plan, {})


class ClosesWhatIsPassed(JoinHistory):
    """The bound of a batch that was skipped or abandoned is taken for closed."""

    def passed(self, plan: JoinPlan) -> None:
        super().passed(plan)
        bound_ms = self.closes_ms({"join": TimeInputs(SOURCES)}, plan, {"join": self.memory.state.fired_ms})
        self.memory.state = replace(self.memory.state, fired_ms=bound_ms)


class NotesWhatIsAbandoned(OftenAbandoned):
    """The times of a batch that was passed count, though its records may come again."""

    def passed(self, plan: JoinPlan) -> None:
        super().passed(plan)
        self.note(plan)


class TakesLateRows(JoinHistory):
    """Some of what they match is forgotten."""

    def late_ms(self, bounds_ms: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (None, None)


class LetsGoFirst(JoinBundle):
    """SPARK-49829: rows are given alone before those of the batch are matched."""

    def _matched(self, one: OpenSlice, arrived: Run) -> Iterator[list[Joined]]:
        one.delta = None
        yield from self._left_alone(one)
        one.delta = arrived
        yield from super()._matched(one, arrived)


class ForgetsMatches(JoinBundle):
    """SPARK-26154: that a row of before had a match is not written down."""

    def _matched(self, one: OpenSlice, arrived: Run) -> Iterator[list[Joined]]:
        yield from super()._matched(one, arrived)
        assert one.delta is not None
        of_batch = one.delta.subkeys.to_pylist()
        known = {subkey for run in one.runs for subkey in run.subkeys.to_pylist()}
        one.delta = one.delta.rows_at([row for row, subkey in enumerate(of_batch) if subkey not in known])


class OneOrigin(JoinBundle):
    """Equal rows of two batches have one place."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._origin = bytes(8)


def with_bundle(mutant: type[JoinBundle]) -> type[JoinHistory]:
    return type(mutant.__name__, (JoinHistory,), {"bundle": mutant})


@pytest.mark.parametrize(
    "mutant",
    [
        TheFastestPartition,
        IdleWithABacklog,
        TheFasterSide,
        MayFall,
        ClosesWhatIsPassed,
        NotesWhatIsAbandoned,
        TakesLateRows,
        with_bundle(LetsGoFirst),
        with_bundle(ForgetsMatches),
        with_bundle(OneOrigin),
    ],
    ids=lambda mutant: mutant.__name__,
)
def test_a_rule_left_out_is_caught(mutant: type[JoinHistory]) -> None:
    assert_caught(mutant, lambda seed: mutant(seed).run())


def test_rows_that_were_given_before_a_newer_version_of_them_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that had its first match is in two sections; the older one must not be looked at."""
    monkeypatch.setattr(bundle, "superseded", lambda run, rows, newer: rows == NEVER)
    assert_caught(JoinHistory, lambda seed: JoinHistory(seed).run())
