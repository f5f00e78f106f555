"""How much a batch may read, and must."""

from __future__ import annotations

from typing import Any

import pytest

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.planning import BatchLimits


@pytest.mark.parametrize("name", ["max_batch_offsets", "max_batch_bytes", "min_batch_offsets"])
@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "10"])
def test_a_limit_that_is_not_a_positive_integer_is_refused(name: str, limit: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=f"{name}={limit!r} must be a whole number of at least 1, or None for no"
    ):
        BatchLimits(**{name: limit})


@pytest.mark.parametrize("delay_s", [0, -1.0, float("inf"), float("nan"), "10"])
def test_a_delay_without_end_or_length_is_refused(delay_s: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"max_batch_delay_s=.* must be a number of seconds above 0"):
        BatchLimits(min_batch_offsets=10, max_batch_delay_s=delay_s)


def test_a_minimum_and_its_delay_need_each_other() -> None:
    with pytest.raises(ConfigurationError, match="need each other"):
        BatchLimits(min_batch_offsets=10)
    with pytest.raises(ConfigurationError, match="need each other"):
        BatchLimits(max_batch_delay_s=10)
    assert BatchLimits(min_batch_offsets=10, max_batch_delay_s=10).min_batch_offsets == 10


def test_a_minimum_above_the_maximum_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="min_batch_offsets=11 is above max_batch_offsets=10"):
        BatchLimits(min_batch_offsets=11, max_batch_offsets=10, max_batch_delay_s=1)
    assert BatchLimits(min_batch_offsets=10, max_batch_offsets=10, max_batch_delay_s=1).max_batch_offsets == 10
