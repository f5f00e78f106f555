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
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, fn_runner
from apache_beam.runners.worker import statecache
from apache_beam.transforms.userstate import BagStateSpec
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.errors import StepFailed, UnsupportedPipeline
from beam_exactly_once.pipelines.runners import kept_steps, whole_elements
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
            thread.join(120)
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
        before = numbers | beam.Reshuffle() | "Before" >> beam.ParDo(RunningAnother())
        to.write(before | beam.Map(plus_value, AsSingleton(total)) | "Behind" >> beam.ParDo(RunningAnother()))

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


class Summed(beam.DoFn):
    """Emits the sum of a bundle at its end."""

    def start_bundle(self) -> None:
        self._sum = 0

    def process(self, number: int) -> None:
        self._sum += number

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield GlobalWindows.windowed_value(self._sum)


class InBatches(beam.DoFn):
    def process_batch(self, numbers: list[int]) -> Iterator[list[int]]:
        yield numbers

    def infer_output_type(self, input_type: Any) -> Any:
        return int


# Beam reads these types, and cannot from texts.
InBatches.process_batch.__annotations__.update({"numbers": list[int], "return": Iterator[list[int]]})


def test_what_beam_would_lose_or_give_to_the_next_batch_is_refused(stream: NumberStream) -> None:
    def build(numbers: Numbers, to: NumberStream) -> None:
        summed = numbers | beam.ParDo(Summed()).with_output_types(int)
        to.write((summed | "Apart" >> beam.Reshuffle() if apart else summed) | beam.ParDo(InBatches()))

    stream.send([1, 1, 10, 10])

    apart = False
    with pytest.raises(UnsupportedPipeline, match=r"process_batch.*Summed.*finish_bundle.*Reshuffle"):
        stream.start(build)

    apart = True
    stream.start(build, a_batch=2)
    assert stream.published() == [[2], [20]]


def test_each_of_two_workers_gets_a_part_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Beam's count of all bundles of the process, one worker could get both, and its channel is for one thread."""
    workers: set[int] = set()
    process_bundle = fn_runner.BundleManager.process_bundle

    def noting(self: Any, *arguments: Any, **more: Any) -> Any:
        (worker,) = self.bundle_context_manager.worker_handlers
        workers.add(id(worker))
        return process_bundle(self, *arguments, **more)

    monkeypatch.setattr(fn_runner.BundleManager, "process_bundle", noting)
    with number_stream("two_workers") as stream:
        stream.send(range(6))

        stream.start(lambda numbers, to: to.write(numbers | beam.Reshuffle()))

        assert stream.published() == [list(range(6))]
    assert len(workers) == 2


class Torn(beam.DoFn):
    """Notes its teardown; one raises."""

    def __init__(self, name: str) -> None:
        self._name = name

    def process(self, number: int) -> list[int]:
        return [number]

    def teardown(self) -> None:
        note(self._name)
        if self._name == "second":
            raise OSError("gone")


def test_a_teardown_that_raises_keeps_no_other_step_from_its_own(stream: NumberStream) -> None:
    def build(numbers: Numbers, to: NumberStream) -> None:
        for name in ("first", "second", "third"):
            numbers = numbers | f"Apart {name}" >> beam.Reshuffle() | name >> beam.ParDo(Torn(name))
        to.write(numbers)

    stream.send([7])

    stream.start(build)

    assert stream.published() == [[7]]
    assert sorted(what for what, _ in CALLS) == ["first", "second", "third"]


@pytest.mark.parametrize("value", [[], [2**70, 2.5**9], {str(2**70): [bytes(9)] * 3}, [(object(), [])]])
def test_what_is_kept_weighs_as_much_as_beam_says(value: Any) -> None:
    """Of it alone: Beam leaves out what modules refer to, and looks through all of them to know that."""
    assert kept_steps._weight_bytes(value) == statecache.get_deep_size(value)


def test_what_a_bundle_has_read_is_let_go(stream: NumberStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of state and side inputs, workers would keep a hundred megabytes that nobody can ask for."""
    caches: list[statecache.StateCache] = []
    keep = whole_elements.keep_steps

    def noting(steps: Any, state_cache: statecache.StateCache) -> None:
        caches.append(state_cache)
        keep(steps, state_cache)

    monkeypatch.setattr(whole_elements, "keep_steps", noting)

    def build(numbers: Numbers, to: NumberStream) -> None:
        to.write(numbers | beam.Reshuffle() | beam.Map(plus_all, AsIter(numbers | beam.Map(int))))

    stream.send(range(6))

    stream.start(build, a_batch=2)

    assert any(cache._miss_count for cache in caches)
    assert {cache._current_weight for cache in caches} == {0}
