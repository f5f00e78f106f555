"""What ``tests/soak/run.py`` says of an output, where something is wrong with it."""

from __future__ import annotations

import numpy as np
import pytest

from soak.published import faults, pauses


@pytest.mark.parametrize(
    ("found", "orphans", "said"),
    [
        ([2, 0, 1], [], []),
        ([0, 1], [], ["1 lost, such as 2"]),
        ([0, 1, 2, 1], [], ["1 more than once, such as 1"]),
        ([0, 1, 2, 3], [], ["1 never sent, such as 3"]),
        ([], [], ["3 lost, such as 0"]),
        ([0, 1, 2], ["part-1"], ["1 files that no manifest names, such as part-1"]),
    ],
)
def test_an_output_that_is_not_as_was_sent_is_found_out(found: list[int], orphans: list[str], said: list[str]) -> None:
    assert faults(3, np.array(found, np.int64), orphans) == said


@pytest.mark.parametrize(
    ("published_s", "told"),
    [
        ([9.0, 12.0, 13.0], (2.0, 2.0)),
        ([10.5, 18.0, 18.5], (0.5, 7.5)),
    ],
    ids=["no batch was on its way", "one was, and came before the pause"],
)
def test_a_pause_is_counted_where_it_lies(published_s: list[float], told: tuple[float, float]) -> None:
    assert pauses(published_s, 10.0) == told
