"""The write-ahead log in random histories: every answered record is there once, and every stream reads exactly what is there.

SIMULATION_SEEDS=20000 pytest tests/simulation/test_wal_histories.py     # more histories
SIMULATION_FIRST_SEED=371 SIMULATION_SEEDS=1 pytest …                    # one of them again
"""

from __future__ import annotations

import os
from collections import Counter

from support.simulation.wal_histories import WalHistory, protocol

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "20"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))


def test_every_answered_record_once_and_every_stream_reads_what_is_there() -> None:
    seen: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        history = WalHistory(seed, protocol())
        history.assert_sound()
        created = Counter(key.partition("/")[0] for key, _ in history.scene.store.created)
        seen["answered"] += sum(one.is_answered for one in history.scene.sent)
        seen["never answered"] += sum(not one.is_answered for one in history.scene.sent)
        seen["sent again"] += sum(one.tries > 1 for one in history.scene.sent)
        seen["crashes"] += sum(actor.crashed for actor in history.world.actors)
        seen["fenced"] += sum(type(actor.error).__name__ == "Fenced" for actor in history.world.actors)
        seen["floors"] += created["floors"]
        seen["id pages"] += created["ids"]
        seen["delayed requests"] += sum(what == "delayed" for _, what, _ in history.world.trace)
    print(dict(seen))
    if SEEDS >= 20:  # were histories tame, passing would mean nothing
        assert all(times >= 10 for times in seen.values()), seen


def test_a_seed_is_one_history() -> None:
    first, second = WalHistory(11, protocol()), WalHistory(11, protocol())
    assert (first.faults(), second.faults()) == ([], [])
    assert first.world.trace == second.world.trace
