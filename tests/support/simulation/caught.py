"""Rules left out, which some random history must show."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

MAX_SEEDS = int(os.environ.get("SIMULATION_MUTANT_SEEDS", "3000"))
"""A mutant that survives so many histories counts as not caught."""

LAST_CAUGHT = {
    "AbandonedBatchTakenForRead": 731,
    "BeginsAtTheFloor": 15,
    "ClaimsDeleted": 24,
    "EpochTakenWhoeverCreatedIt": 168,
    "ExpiresWithLateness": 26,
    "ForgetsTotals": 7,
    "LoserOfAClaimGoesOn": 122,
    "NoClaim": 10,
    "NoSecondLook": 10,
    "NoSuccessorCheckInRecovery": 213,
    "OwnListTaken": 34,
    "ShardsNotTiled": 33,
    "TakenPlanNotAdopted": 277,
    "Unchecked": 466,
    "UnclearIsFailed": 6,
    "UnclearPlanTakenForFailed": 161,
}
"""Where those were caught when this was written that are rare, or whose histories take long. They are sought
first there, and then everywhere."""


def assert_caught(mutant: type, faults_of: Callable[[int], list[str]]) -> None:
    """A history is wrong without the rule.

    Args:
        mutant: what leaves it out.
        faults_of: what is wrong in the history of a seed.
    """
    for seed in (LAST_CAUGHT.get(mutant.__name__, 0), *range(MAX_SEEDS)):
        faults = faults_of(seed)
        if faults:
            print(f"seed {seed}: {faults[0][:300]}")
            return
    pytest.fail(f"{mutant.__name__} survived {MAX_SEEDS} seeds")
