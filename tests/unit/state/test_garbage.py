"""The collector is as it was, whatever happens in between."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from beam_exactly_once.state.bundle import StateBundle
from beam_exactly_once.state.garbage import no_collection
from beam_exactly_once.state.shard import OpenSlice
from beam_exactly_once.state.types import JsonState
from beam_exactly_once.state.updates import UpdateEach
from support.simulation.operator_batches import OperatorBatches, pairs


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


def test_it_is_on_again_after_two_threads_that_overlap() -> None:
    """One begins while the other is inside, and ends after it."""
    first_is_inside, second_is_inside, first_has_left = (threading.Event() for _ in range(3))

    def first() -> None:
        with no_collection():
            first_is_inside.set()
            second_is_inside.wait(60)
        first_has_left.set()

    other = threading.Thread(target=first)
    other.start()
    first_is_inside.wait(60)
    with no_collection():
        second_is_inside.set()
        assert first_has_left.wait(60)
        assert not gc.isenabled()
    other.join()
    assert gc.isenabled()


def test_what_a_bundle_had_in_memory_goes_with_it() -> None:
    """Without a search for garbage, which comes seldom: the rows of many batches would stay until then."""
    one = OperatorBatches(UpdateEach(lambda values, state: len(values), JsonState(int), None))
    gc.collect()
    gc.disable()
    one.run(pairs(range(20), str))
    one.run(pairs(range(20), str))
    assert [found for found in gc.get_objects() if type(found) in (StateBundle, OpenSlice)] == []
