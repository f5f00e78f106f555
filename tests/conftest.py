"""What holds for all tests."""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

import support.beam.done_once  # noqa: F401

# A machine that is busy is not wrong.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """What is imported stays; a search for garbage that goes through it would be a tenth of each start of a stream."""
    gc.collect()
    gc.freeze()
