"""Timers of one step and of several, on FnApiRunner: each fires once, in order of time, for its own step alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import apache_beam as beam
import pytest

from beam_exactly_once.pipelines.runners import stage_timers
from graphs.known_streams import Build, NumberStream, number_stream
from graphs.steps import Deferring, ungrouped
from graphs.timed_steps import Alarms, FirstOfTwo, NotForOddOnes, Renewed, SumAtTheEnd, own_key, same_key

pytestmark = pytest.mark.runs_on("DirectRunner", storage="memory")

Numbers = beam.PCollection[int]


@pytest.fixture(params=["in_process", "two_workers", "threads"])
def stream(request: pytest.FixtureRequest) -> Iterator[NumberStream]:
    with number_stream(request.param) as stream:
        yield stream


def own_keys(numbers: Numbers) -> beam.PCollection[tuple[int, int]]:
    return numbers | "Keyed" >> beam.Map(own_key).with_output_types(tuple[int, int])


def by(step: beam.DoFn) -> Build:
    return lambda numbers, to: to.write(own_keys(numbers) | beam.ParDo(step))


def in_batches(numbers: Numbers, size: int, name: str) -> Numbers:
    keyed = numbers | f"Keyed{name}" >> beam.Map(same_key).with_output_types(tuple[int, int])
    groups = keyed | f"Batches{name}" >> beam.GroupIntoBatches(size)
    return groups | f"Ungroup{name}" >> beam.FlatMap(ungrouped).with_output_types(int)


def test_two_steps_in_a_row_whose_timers_have_one_name(stream: NumberStream) -> None:
    """Both hold what is left of a group until their timer fires, and Beam makes one stage of them."""
    stream.send(range(7))

    stream.start(lambda numbers, to: to.write(in_batches(in_batches(numbers, 2, "Two"), 4, "Four")), a_batch=5)

    assert stream.published() == [[0, 1, 2, 3, 4], [5, 6]]


def test_two_steps_side_by_side_whose_timers_have_one_name(stream: NumberStream) -> None:
    def build(numbers: Numbers, to: NumberStream) -> None:
        to.write(in_batches(numbers, 3, "Three"), "first")
        to.write(in_batches(numbers, 2, "Two"), "second")

    stream.send(range(5))

    stream.start(build)

    assert stream.published("first") == stream.published("second") == [[0, 1, 2, 3, 4]]


def test_a_step_gets_all_of_what_the_timers_above_it_make_before_its_own_fire(stream: NumberStream) -> None:
    """It has some of its input, and a timer, before the step above it has fired any of its own."""

    def build(numbers: Numbers, to: NumberStream) -> None:
        twice = numbers | beam.Reshuffle() | beam.ParDo(Deferring())
        together = in_batches(twice, 3, "Three") | "Together" >> beam.Map(same_key).with_output_types(tuple[int, int])
        to.write(together | beam.ParDo(SumAtTheEnd()))

    stream.send([1, 10, 100])

    stream.start(build, a_batch=2, allow_per_batch=True)

    assert stream.published() == [[1 + 2 + 10 + 11], [100 + 101]]


@pytest.mark.parametrize(
    ("step", "fired"),
    [
        (Alarms(), [12, 12]),
        (Renewed(4), [4, 4]),
        (FirstOfTwo(), [1, 1]),
        (NotForOddOnes(), [2]),
        (SumAtTheEnd(), [2, 3]),
    ],
)
def test_timers_of_a_key_fire_one_after_the_other(stream: NumberStream, step: beam.DoFn, fired: list[int]) -> None:
    stream.send([2, 3])

    stream.start(by(step), allow_per_batch=True)

    assert stream.published() == [fired]


def test_a_batch_that_goes_on_and_on_for_its_timers_says_so(caplog: pytest.LogCaptureFixture) -> None:
    rounds = stage_timers.ROUNDS_TO_WARN
    with number_stream() as stream, caplog.at_level(logging.WARNING, stage_timers.__name__):
        stream.send([5])
        stream.start(by(Renewed(rounds - 1)), allow_per_batch=True)
        assert caplog.messages == []
        stream.send([6])

        stream.start(by(Renewed(rounds)), allow_per_batch=True)

        assert [f"{rounds} times" in message and "Renewed" in message for message in caplog.messages] == [True]
        assert stream.published() == [[rounds - 1], [rounds]]
