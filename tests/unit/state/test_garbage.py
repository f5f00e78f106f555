"""The collector is as it was, whatever happens in between."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from beam_exactly_once.state.garbage import no_collection


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    yield
    gc.enable()


def test_the_collector_is_on_again_also_after_an_error() -> None:
    def fails() -> None:
        with no_collection():
            assert not gc.isenabled()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert gc.isenabled()


def test_a_collector_that_somebody_switched_off_stays_off() -> None:
    gc.disable()
    with no_collection(), no_collection():
        pass
    assert not gc.isenabled()
