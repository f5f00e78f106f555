"""Graphs whose result depends on when a runner lets go of windows and timers: by value, on runners that are other programs."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import pytest
from apache_beam.transforms.window import (
    FixedWindows,
    GlobalWindows,
    Sessions,
    SlidingWindows,
    TimestampedValue,
    WindowFn,
)

from graphs import test_known_timers as timers
from graphs.known_streams import NumberStream, number_stream
from graphs.runners import prism
from support.split_requests import SlowAndStateful, split_requests

pytestmark = [
    pytest.mark.runs_on("PrismRunner", storage="memory"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

MAX_TRIES = 5
LONG_AGO_S, NOW_S, ONE_DAY_S = 0, 1_760_000_000, 86_400


@pytest.fixture
def stream(prism_location: str) -> Iterator[NumberStream]:
    with number_stream(prism(prism_location)) as stream:
        yield stream


@pytest.mark.parametrize("first_s", [LONG_AGO_S, NOW_S - NOW_S % ONE_DAY_S])
@pytest.mark.parametrize(
    ("windows", "sums"),
    [
        (FixedWindows(4), [[0 + 1 + 2 + 3], [4 + 5 + 6]]),
        (SlidingWindows(4, 2), [[0 + 1, 0 + 1 + 2 + 3, 2 + 3], [4 + 5, 4 + 5 + 6, 6]]),
        (Sessions(2), [[0 + 1 + 2 + 3], [4 + 5 + 6]]),
    ],
)
def test_event_time_of_the_users_is_late_for_no_window(
    stream: NumberStream, windows: WindowFn, sums: list[list[int]], first_s: int
) -> None:
    def build(numbers: beam.PCollection[int], to: NumberStream) -> None:
        timed = numbers | "Timed" >> beam.Map(lambda value: TimestampedValue((0, value), first_s + value))
        summed = timed | "Windows" >> beam.WindowInto(windows) | beam.CombinePerKey(sum) | beam.Values()
        to.write(summed | "Global" >> beam.WindowInto(GlobalWindows()))

    stream.send(range(7))

    stream.start(build, a_batch=4, allow_per_batch=True)

    assert stream.published() == [sorted(batch) for batch in sums]


def test_a_slow_bundle_with_state_is_not_split(stream: NumberStream) -> None:
    """Prism asks for a part of it, and has then lost elements."""

    def build(numbers: beam.PCollection[int], to: NumberStream) -> None:
        keyed = numbers | beam.Map(lambda value: (value % 2, value)).with_output_types(tuple[int, int])
        to.write(keyed | beam.ParDo(SlowAndStateful()))

    batches = 0
    with split_requests() as (asked, split):
        while not asked.is_set() and batches < MAX_TRIES:  # a request that comes before its bundle does is not repeated
            stream.send(range(12))
            stream.start(build, allow_per_batch=True)
            batches += 1

    assert asked.is_set()
    assert split == []
    assert stream.published() == [list(range(12))] * batches


def test_two_steps_side_by_side_whose_timers_have_one_name(stream: NumberStream) -> None:
    timers.test_two_steps_side_by_side_whose_timers_have_one_name(stream)


def test_a_step_gets_all_of_what_the_timers_above_it_make_before_its_own_fire(stream: NumberStream) -> None:
    timers.test_a_step_gets_all_of_what_the_timers_above_it_make_before_its_own_fire(stream)
