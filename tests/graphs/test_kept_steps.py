"""Steps are set up once a stream, and nothing of one batch reaches the next: by value, over several batches of one start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.options.value_provider import RuntimeValueProvider
from apache_beam.pvalue import AsDict, AsIter, AsList, AsMultiMap, AsSingleton
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.userstate import BagStateSpec

from beam_exactly_once.errors import StepFailed
from beam_exactly_once.pipelines.runners import whole_elements
from graphs.known_streams import Build, NumberStream, number_stream
from graphs.timed_steps import own_key, same_key

pytestmark = pytest.mark.runs_on("DirectRunner", storage="memory")

Numbers = beam.PCollection[int]
CALLS: list[tuple[str, str]] = []
"""What happened to a :class:`Noting`, and in which thread."""


@pytest.fixture
def stream() -> Iterator[NumberStream]:
    CALLS.clear()
    with number_stream() as stream:
        yield stream


def note(what: str) -> None:
    CALLS.append((what, threading.current_thread().name))


class Noting(beam.DoFn):
    """Notes when it is set up, begins, and is torn down; fails at one number."""

    def __init__(self, fails_at: int | None = None) -> None:
        self._fails_at = fails_at

    def setup(self) -> None:
        note("setup")

    def start_bundle(self) -> None:
        note("bundle")

    def process(self, number: int) -> list[int]:
        if number == self._fails_at:
            raise ArithmeticError("this one")
        return [number]

    def teardown(self) -> None:
        note("teardown")


def noting(fails_at: int | None = None) -> Build:
    return lambda numbers, to: to.write(numbers | beam.ParDo(Noting(fails_at)))


def test_a_step_is_set_up_once_a_stream(stream: NumberStream) -> None:
    stream.send(range(6))

    stream.start(noting(), a_batch=2)

    assert stream.published() == [[0, 1], [2, 3], [4, 5]]
    here = threading.current_thread().name
    assert [what for what, _ in CALLS] == ["setup", "bundle", "bundle", "bundle", "teardown"]
    assert {thread for _, thread in CALLS} == {here}


def test_a_step_of_a_batch_that_failed_is_torn_down_and_the_next_start_has_a_new_one(stream: NumberStream) -> None:
    stream.send(range(4))
    with pytest.raises(StepFailed, match="ArithmeticError"):
        stream.start(noting(fails_at=3), a_batch=2)
    assert [what for what, _ in CALLS] == ["setup", "bundle", "bundle", "teardown"]

    stream.start(noting(), a_batch=2)

    assert stream.published() == [[0, 1], [2, 3]]
    assert [what for what, _ in CALLS[4:]] == ["setup", "bundle", "teardown"]


def test_nobody_tears_down_a_step_that_waits_for_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beam has a thread for it, which ends steps that were idle for a minute."""
    threads: list[threading.Thread] = []
    get_worker_handlers = whole_elements.worker_handlers.WorkerHandlerManager.get_worker_handlers

    def watched(self: Any, *arguments: Any) -> Any:
        handlers = get_worker_handlers(self, *arguments)
        threads.extend(handler.bundle_processor_cache.periodic_shutdown for handler in handlers)
        return handlers

    monkeypatch.setattr(whole_elements.worker_handlers.WorkerHandlerManager, "get_worker_handlers", watched)

    def during(numbers: Numbers, to: NumberStream) -> None:
        to.write(numbers | beam.Map(ended))

    def ended(number: int) -> int:
        for thread in threads:
            thread.join(10)
        return 1 - any(thread.is_alive() for thread in threads)

    with number_stream() as stream:
        stream.send([7])
        stream.start(during)
        assert threads
        assert stream.published() == [[1]]


class Seen(beam.DoFn):
    """The sum of a key so far, by Beam's own state."""

    SEEN = BagStateSpec("seen", VarIntCoder())

    def process(self, pair: tuple[int, int], seen: Any = beam.DoFn.StateParam(SEEN)) -> list[int]:  # noqa: B008
        seen.add(pair[1])
        return [sum(seen.read())]


@pytest.mark.parametrize("runner", ["in_process", "threads", "one_thread"])
def test_state_of_beam_is_that_of_one_batch(runner: str) -> None:
    with number_stream(runner) as stream:
        in_three_batches_state_is_that_of_each(stream)


def in_three_batches_state_is_that_of_each(stream: NumberStream) -> None:
    def build(numbers: Numbers, to: NumberStream) -> None:
        keyed = numbers | beam.Map(same_key).with_output_types(tuple[int, int])
        to.write(keyed | beam.ParDo(Seen()))

    stream.send([1] * 6)

    stream.start(build, a_batch=2, allow_per_batch=True)

    assert stream.published() == [[1, 2]] * 3


def plus_value(number: int, side: int) -> int:
    return 100 * number + side


def plus_all(number: int, side: Any) -> int:
    return 100 * number + sum(side)


def plus_values(number: int, side: dict[int, int]) -> int:
    return 100 * number + sum(side.values())


def plus_own(number: int, side: Any) -> int:
    return 100 * number + sum(side[number])


SIDE_INPUTS: list[tuple[Any, Any, Callable[[int, Any], int], list[list[int]]]] = [
    (AsSingleton, beam.CombineGlobally(sum), plus_value, [[1, 101], [205, 305], [409, 509]]),
    (AsIter, beam.Map(int), plus_all, [[1, 101], [205, 305], [409, 509]]),
    (AsList, beam.Map(int), plus_all, [[1, 101], [205, 305], [409, 509]]),
    (AsDict, beam.Map(own_key), plus_values, [[1, 101], [205, 305], [409, 509]]),
    (AsMultiMap, beam.Map(own_key), plus_own, [[0, 101], [202, 303], [404, 505]]),
]


@pytest.mark.parametrize(("view", "of", "plus", "expected"), SIDE_INPUTS)
def test_a_side_input_is_that_of_its_own_batch(
    stream: NumberStream, view: Any, of: Any, plus: Callable[[int, Any], int], expected: list[list[int]]
) -> None:
    def build(numbers: Numbers, to: NumberStream) -> None:
        side = numbers | "Side" >> of
        to.write(numbers | beam.Reshuffle() | beam.Map(plus, view(side)))

    stream.send(range(6))

    stream.start(build, a_batch=2)

    assert stream.published() == expected


def test_another_pipeline_beside_it_changes_no_side_input(stream: NumberStream) -> None:
    """Every pipeline that is run turns off what makes steps ask for their side inputs again: here, while the steps are made."""

    def build(numbers: Numbers, to: NumberStream) -> None:
        total = numbers | beam.CombineGlobally(sum)
        beside = numbers | "Beside" >> beam.ParDo(RunningAnother())
        to.write(beside | beam.Reshuffle() | beam.Map(plus_value, AsSingleton(total)))

    stream.send(range(6))

    stream.start(build, a_batch=2)

    assert stream.published() == [[1, 101], [205, 305], [409, 509]]
    assert not RuntimeValueProvider.experiments


class RunningAnother(beam.DoFn):
    """Runs another pipeline in its first bundle."""

    def setup(self) -> None:
        with beam.Pipeline(runner=FnApiRunner()) as other:
            _ = other | beam.Create([1]) | beam.Map(str)

    def process(self, number: int) -> list[int]:
        return [number]


def test_roots_of_the_user_get_what_beam_gives_them(stream: NumberStream) -> None:
    def build(numbers: Numbers, to: NumberStream) -> None:
        impulses = numbers.pipeline | "My BatchTask" >> beam.Impulse() | "Length" >> beam.Map(len)
        created = numbers.pipeline | beam.Create([7, 8])
        to.write(numbers)
        to.write(impulses, "lengths")
        to.write(created, "created")

    stream.send(range(2))

    stream.start(build, a_batch=1)

    assert stream.published("lengths") == [[0], [0]]
    assert stream.published("created") == [[7, 8], [7, 8]]
