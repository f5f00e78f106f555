"""The real protocol in random histories: whatever pauses, crashes and gets lost, every record is published once.

SIMULATION_SEEDS=100000 pytest tests/simulation/test_random_histories.py     # more histories
SIMULATION_FIRST_SEED=3716 SIMULATION_SEEDS=1 pytest …                        # one of them again
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from beam_exactly_once.checkpoint import layout, location
from support.simulation.histories import Simulation

WILD_SEEDS = 200
"""The first of all, which are looked at more closely."""
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "600"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", f"{WILD_SEEDS}"))
PARTS = min(4, SEEDS)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_record_once(part: int) -> None:
    for seed in range(FIRST_SEED + part, FIRST_SEED + SEEDS, PARTS):
        Simulation(seed).assert_sound()


def test_every_record_once_when_markers_name_their_committables_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "MAX_MARKER_BYTES", 300)
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS // 10):
        Simulation(seed).assert_sound()


def test_a_seed_is_one_history() -> None:
    """Word for word, so that a fault can be looked at again."""
    first, second = Simulation(11), Simulation(11)
    assert (first.faults(), second.faults()) == ([], [])
    assert first.world.trace == second.world.trace


def test_the_histories_are_wild() -> None:
    """They hold what the protocol must survive; were they tame, passing would mean nothing."""
    seen: Counter[str] = Counter()
    for seed in range(WILD_SEEDS):
        simulation = Simulation(seed)
        assert simulation.faults() == []
        created = Counter(key for key, _ in simulation.scene.checkpoint_store.created)
        seen["strays"] += sum(times > 1 for key, times in created.items() if key.startswith(layout.COMMITS))
        seen["batches"] += len(simulation.ledger.markers)
        seen["passed by an operator"] += sum(one.outcome != "committed" for one in simulation.ledger.markers.values())
        seen["crashes"] += sum(actor.crashed for actor in simulation.world.actors)
        seen["fenced"] += sum(type(actor.error).__name__ == "Fenced" for actor in simulation.world.actors)
        seen["late workers"] += sum("forgotten" in actor.name for actor in simulation.world.actors)
        seen["delayed requests"] += sum(what == "delayed" for _, what, _ in simulation.world.trace)
    print(dict(seen))
    assert {what for what, times in seen.items() if times >= 3} == {
        "strays",
        "batches",
        "passed by an operator",
        "crashes",
        "fenced",
        "late workers",
        "delayed requests",
    }
