"""Graphs of the smallest form that ask something of a runner or a stream that is easily got wrong: by value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.pvalue import AsDict, AsIter, AsList, AsMultiMap, AsSideInput, AsSingleton, EmptySideInput
from apache_beam.transforms.window import FixedWindows, GlobalWindows, TimestampedValue

from beam_exactly_once.errors import UnsupportedPipeline
from graphs.known_streams import Build, NumberStream, number_stream
from graphs.steps import Deferring, TotalAtTheEnd, pair, ungrouped

pytestmark = pytest.mark.runs_on("DirectRunner", storage="memory")

Numbers = beam.PCollection[int]


@pytest.fixture
def stream() -> Iterator[NumberStream]:
    with number_stream() as stream:
        yield stream


def plus(value: int, other: int) -> int:
    return value + other


def total(numbers: Numbers, name: str = "Total") -> Numbers:
    return numbers | name >> beam.CombineGlobally(sum)


def regrouped(numbers: Numbers, size: int = 2) -> Numbers:
    """The same numbers, through a step with timers."""
    keyed = numbers | "Keyed" >> beam.Map(lambda value: (0, value))
    return keyed | beam.GroupIntoBatches(size) | "Ungroup" >> beam.FlatMap(ungrouped)


class Regrouped(beam.PTransform):
    """The same as a transform, which may be applied twice."""

    def expand(self, numbers: Numbers) -> Numbers:
        return regrouped(numbers)


def deferred(numbers: Numbers) -> Numbers:
    """Each number and the next one, by a step that is called again for the second."""
    return numbers | beam.ParDo(Deferring())


# -- the commit waits for every branch ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "through", [regrouped, deferred, lambda numbers: numbers], ids=["timers", "deferring", "plain"]
)
def test_a_branch_that_is_ready_late_is_in_the_commit_of_its_batch(
    stream: NumberStream, through: Callable[[Numbers], Numbers]
) -> None:
    """Two branches of one shuffle. The stage of the first runs twice; the second waits for a total of a total."""

    def build(numbers: Numbers, to: NumberStream) -> None:
        shuffled = numbers | beam.Reshuffle()
        soon = total(shuffled)
        late = total(soon | "Same" >> beam.Map(lambda value: value), "TotalOfTotal")
        to.write(through(shuffled | "PlusSoon" >> beam.Map(plus, AsSingleton(soon))), "first")
        to.write(shuffled | "PlusLate" >> beam.Map(plus, AsSingleton(late)), "second")

    stream.send(range(12))

    stream.start(build, a_batch=4)

    summed = [[value + sum(batch) for value in batch] for batch in (range(4), range(4, 8), range(8, 12))]
    assert stream.published("second") == summed
    more = [[value + 1 for value in batch] for batch in summed] if through is deferred else [[]] * 3
    assert stream.published("first") == [sorted(batch + further) for batch, further in zip(summed, more, strict=True)]


# -- steps with timers, one behind the other -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("between", ["nothing", "shuffle"])
def test_two_steps_with_timers_in_a_row(stream: NumberStream, between: str, count: int) -> None:
    """The runner makes one stage of both, and their timers have one name."""

    def build(numbers: Numbers, to: NumberStream) -> None:
        first = numbers | "Batches" >> Regrouped()
        second = first | beam.Reshuffle() if between == "shuffle" else first
        to.write(second | "BatchesOfBatches" >> Regrouped())

    stream.send(range(count))

    stream.start(build)

    assert stream.published() == [list(range(count))]


@pytest.mark.parametrize("count", [1, 3])
def test_two_steps_with_timers_of_a_user_in_a_row(stream: NumberStream, count: int) -> None:
    def build(numbers: Numbers, to: NumberStream) -> None:
        totals = numbers | "Pairs" >> beam.Map(pair) | "Totals" >> beam.ParDo(TotalAtTheEnd())
        to.write(totals | "PairsOfTotals" >> beam.Map(pair) | "TotalsOfTotals" >> beam.ParDo(TotalAtTheEnd()))

    stream.send(range(5, 5 + count))

    stream.start(build, allow_per_batch=True)

    assert stream.published() == [[sum(range(5, 5 + count))]]


# -- side inputs hold every element once -------------------------------------------------------------------------


def from_iterable(_: int, side: Any) -> list[int]:
    return list(side)


def from_dict(_: int, side: Any) -> list[int]:
    return [value for values in side.values() for value in values]


def from_multimap(_: int, side: Any) -> list[int]:
    return [value for key in range(5) for value in side[key]]


def keyed(value: int) -> tuple[int, int]:
    return value % 5, value


def grouped_dict(numbers: Numbers) -> AsSideInput:
    return AsDict(numbers | "ToKey" >> beam.Map(keyed) | beam.GroupByKey() | beam.MapTuple(lambda k, vs: (k, list(vs))))


VIEWS: dict[str, tuple[Callable[[Numbers], AsSideInput], Callable[[int, Any], list[int]]]] = {
    "AsList": (AsList, from_iterable),
    "AsIter": (AsIter, from_iterable),
    "AsMultiMap": (lambda numbers: AsMultiMap(numbers | "ToKey" >> beam.Map(keyed)), from_multimap),
    "AsDict": (grouped_dict, from_dict),
    "AsSingleton": (lambda numbers: AsSingleton(numbers | beam.combiners.ToList()), from_iterable),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("through", [regrouped, deferred])
def test_a_side_input_behind_a_step_that_runs_twice(
    stream: NumberStream, through: Callable[[Numbers], Numbers], view: str
) -> None:
    """With timers, or with a rest that was deferred: the runner runs its stage once more in the same batch."""
    as_view, read = VIEWS[view]

    def build(numbers: Numbers, to: NumberStream) -> None:
        one = numbers | beam.combiners.Count.Globally()
        to.write(one | beam.FlatMap(read, as_view(through(numbers))))

    stream.send([10, 20, 30, 40, 50])

    stream.start(build, a_batch=3)

    if through is deferred:
        assert stream.published() == [[10, 11, 20, 21, 30, 31], [40, 41, 50, 51]]
    else:
        assert stream.published() == [[10, 20, 30], [40, 50]]


@pytest.mark.parametrize("view", ["AsList", "AsIter", "AsMultiMap"])
def test_a_side_input_made_by_the_step_itself_that_runs_twice(stream: NumberStream, view: str) -> None:
    """Without anything behind the step that could take doubles away again."""
    as_view = {"AsList": AsList, "AsIter": AsIter, "AsMultiMap": AsMultiMap}[view]
    read = (lambda _, side: side[0]) if view == "AsMultiMap" else (lambda _, side: [group for _, group in side])

    def build(numbers: Numbers, to: NumberStream) -> None:
        groups = numbers | "Keyed" >> beam.Map(lambda value: (0, value)) | beam.GroupIntoBatches(2)
        one = numbers | beam.combiners.Count.Globally()
        to.write(one | beam.FlatMap(read, as_view(groups)) | beam.FlatMap(list))

    stream.send([1, 2, 3])

    stream.start(build)

    assert stream.published() == [[1, 2, 3]]


def test_a_single_value_behind_a_step_with_timers_is_one(stream: NumberStream) -> None:
    def build(numbers: Numbers, to: NumberStream) -> None:
        to.write(numbers | beam.Map(plus, AsSingleton(regrouped(total(numbers)))))

    stream.send([1, 2, 3])

    stream.start(build)

    assert stream.published() == [[7, 8, 9]]


# -- event time that a step gives ----------------------------------------------------------------------------------


def test_windows_by_any_event_time_are_complete(stream: NumberStream) -> None:
    """From the start of 1970 on, before and long after any number that a batch or a start may have: nothing is late."""

    def build(numbers: Numbers, to: NumberStream) -> None:
        timed = numbers | "Time" >> beam.Map(lambda value: TimestampedValue((0, value), value))
        windows = timed | "Windows" >> beam.WindowInto(FixedWindows(10))
        sums = windows | beam.GroupByKey() | beam.MapTuple(lambda _, values: sum(values))
        to.write(sums | "Back" >> beam.WindowInto(GlobalWindows()))

    stream.send([0, 7, 8, 12, 1_800_000_000, 1_800_000_003, 15])

    stream.start(build, a_batch=4, allow_per_batch=True)

    assert stream.published() == [[12, 15], [15, 3_600_000_003]]


# -- every start works, also of steps that cannot do with nothing ------------------------------------------------


def greatest(numbers: Numbers, to: NumberStream) -> None:
    """The head of a list that is empty without records."""
    to.write(numbers | beam.combiners.Top.Largest(1) | beam.Map(lambda top: top[0]))


def share_of_count(numbers: Numbers, to: NumberStream) -> None:
    to.write(numbers | beam.combiners.Count.Globally() | beam.Map(lambda count: 100 // count))


def constants_by_total(numbers: Numbers, to: NumberStream) -> None:
    divided = (
        numbers.pipeline | beam.Create([600, 1200]) | beam.Map(lambda one, by: one // by, AsSingleton(total(numbers)))
    )
    to.write(divided)


def total_without_default(numbers: Numbers, to: NumberStream) -> None:
    of_all = numbers | "Total" >> beam.CombineGlobally(sum).without_defaults()
    to.write(numbers.pipeline | beam.Create([1]) | beam.Map(plus_present, AsSingleton(of_all)))


def plus_present(value: int, other: Any) -> int:
    if isinstance(other, EmptySideInput):
        raise TypeError("there is no total")
    return int(value + other)


@pytest.mark.parametrize(
    ("build", "batches"),
    [
        (greatest, [[3], [5], [6]]),
        (share_of_count, [[50], [50], [100]]),
        (constants_by_total, [[150, 300], [66, 133], [100, 200]]),
        (total_without_default, [[5], [10], [7]]),
    ],
)
def test_a_step_that_fails_without_records_lets_every_start_go_on(
    stream: NumberStream, build: Build, batches: list[list[int]]
) -> None:
    """Every batch has records, so the step is right."""
    for given in ([1, 3], [4, 5], [6]):
        stream.send(given)
        stream.start(build)

    assert stream.published() == batches


_CALLS: list[int] = []


def noted(value: int) -> int:
    _CALLS.append(value)
    return value


def test_a_start_that_has_nothing_to_read_runs_no_step(stream: NumberStream) -> None:
    """It publishes the newest batch again; that needs none of the user's steps, not even those that need no records."""

    def build(numbers: Numbers, to: NumberStream) -> None:
        constants = numbers.pipeline | beam.Create([7])
        counted = numbers | beam.combiners.Count.Globally()
        to.write((constants, counted, numbers) | beam.Flatten() | beam.Map(noted))

    stream.send([1, 2])
    stream.start(build)
    assert stream.published() == [[1, 2, 2, 7]]
    _CALLS.clear()

    stream.start(build)

    assert _CALLS == []
    assert stream.published() == [[1, 2, 2, 7]]


# -- steps that wait for each other ------------------------------------------------------------------------------


def ring(size: int, *, mended: bool = False) -> Build:
    """As many sources as steps; each step has the next source as its side input."""

    def build(numbers: Numbers, to: NumberStream) -> None:
        sources = [
            numbers | f"Source{one}" >> beam.Reshuffle() | f"Plus{one}" >> beam.Map(plus, one) for one in range(size)
        ]
        for one, source in enumerate(sources):
            following = AsList(sources[(one + 1) % size])
            main = source | beam.Reshuffle() if mended and one == 0 else source
            to.write(main | f"Step{one}" >> beam.Map(lambda value, side: value + sum(side), following), f"sink{one}")

    return build


@pytest.mark.parametrize("size", [2, 3])
def test_steps_that_wait_for_each_other_are_refused_with_the_way_out(stream: NumberStream, size: int) -> None:
    """The runner would make one stage of each source and its step, and none of them could begin."""
    stream.send([1, 2])

    with pytest.raises(UnsupportedPipeline, match="Reshuffle") as refused:
        stream.start(ring(size))

    assert sum(f"Step{one}" in str(refused.value) for one in range(size)) >= 2
    assert stream.published("sink0") == []


@pytest.mark.parametrize("size", [2, 3])
def test_a_shuffle_before_one_of_them_lets_them_run(stream: NumberStream, size: int) -> None:
    stream.send([1, 2])

    stream.start(ring(size, mended=True))

    for one in range(size):
        following = (one + 1) % size
        assert stream.published(f"sink{one}") == [[value + one + 3 + 2 * following for value in (1, 2)]]
