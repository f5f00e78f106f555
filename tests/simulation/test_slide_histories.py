"""Windows that share slides give what a list of all rows says, in the random histories of the protocol, with and without inverse.

SIMULATION_SEEDS=3000 pytest tests/simulation/test_slide_histories.py     # more histories
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from beam_exactly_once.state.hashing import Numbers
from beam_exactly_once.state.run import Run
from beam_exactly_once.state.windows.slide_bundle import SlideBundle
from beam_exactly_once.state.windows.slides import Heads
from support.simulation.caught import assert_caught
from support.simulation.histories import LATE_WORKER_WITH_STATE, OPERATORS, Focus, Simulation
from support.simulation.sliding_driver import SlidingDriver, slide_faults

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "6"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))


class SlidingSimulation(Simulation):
    def __init__(
        self, seed: int, driver_class: type[SlidingDriver] = SlidingDriver, focus: Focus | None = None
    ) -> None:
        super().__init__(seed, driver_class, focus=focus)
        self.scene.weather.worker_kept = self.scene.random.choice((0.0, 0.0, 0.1))

    def faults(self) -> list[str]:
        return super().faults() + slide_faults(self.scene, self.ledger.markers)


class Draining(SlidingDriver):
    drained = 0.2


@pytest.mark.parametrize(
    ("driver_class", "focus"),
    [(SlidingDriver, None), (SlidingDriver, LATE_WORKER_WITH_STATE), (Draining, OPERATORS)],
    ids=["anything", "late workers", "passed batches and drains"],
)
def test_windows_give_the_rows_that_they_have(driver_class: type[SlidingDriver], focus: Focus | None) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        SlidingSimulation(seed, driver_class, focus).assert_sound()


# -- each rule left out ----------------------------------------------------------------------------------------------


class ForgetsTotals(SlideBundle):
    """A row of a slide that closed windows have already is put into the slide alone."""

    def _put_heads(self, *slides: Any) -> None:
        pass


class TakesOldTotals(SlideBundle):
    """A life without an inverse goes on with the totals of one that had it."""

    def _heads(self, run: Run, places: Numbers, count: int) -> Heads:
        return Heads.of(count, places, self._values(run), with_totals=True)


@pytest.mark.parametrize("mutant", [ForgetsTotals, TakesOldTotals], ids=lambda mutant: mutant.__name__)
def test_a_rule_left_out_is_caught(mutant: type[SlideBundle]) -> None:
    driver_class = type(mutant.__name__, (SlidingDriver,), {"bundle": mutant})
    assert_caught(mutant, lambda seed: SlidingSimulation(seed, driver_class).faults())
