"""The one loop that tries again."""

from __future__ import annotations

import random

import pytest

from beam_exactly_once.patience import Patience
from support.faulty_store import ManualClock


def failed(patience: Patience, clock: ManualClock, request_s: float = 0.0) -> list[float]:
    """When the tries of one request began that fails each time."""
    began_s = []
    while True:
        began_s.append(round(clock.now_s, 3))
        clock.now_s += request_s
        if patience.is_over:
            return began_s
        patience.wait()


def test_pauses_grow_to_their_limit_until_time_is_up() -> None:
    clock = ManualClock()
    patience = Patience(clock, timeout_s=10, first_pause_s=0.5, max_pause_s=3)
    assert failed(patience, clock) == [0, 0.5, 1.5, 3.5, 6.5, 9.5]


def test_pauses_are_alike_without_a_limit_of_their_own() -> None:
    clock = ManualClock()
    assert failed(Patience(clock, timeout_s=1, first_pause_s=0.25), clock) == [0, 0.25, 0.5, 0.75, 1]


def test_slow_requests_use_up_the_time() -> None:
    clock = ManualClock()
    patience = Patience(clock, timeout_s=10, first_pause_s=1)
    assert failed(patience, clock, request_s=4) == [0, 5, 10]
    assert patience.left_s == -4


@pytest.mark.parametrize("max_tries", [1, 2, 5])
def test_tries_are_counted(max_tries: int) -> None:
    clock = ManualClock()
    assert len(failed(Patience(clock, max_tries=max_tries, first_pause_s=1), clock)) == max_tries


def test_who_failed_together_comes_back_apart() -> None:
    clock = ManualClock()
    patience = Patience(clock, max_tries=200, first_pause_s=2, random_=random.Random(0))
    failed(patience, clock)
    assert all(1 <= pause_s <= 2 for pause_s in clock.waits_s)
    assert len(set(clock.waits_s)) == 199
