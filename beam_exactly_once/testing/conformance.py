"""The stories that every exactly-once sink must survive; run them on a sink of your own.

    class MySink(SinkUnderTest):
        def write(self, name, shards):
            return WriteToMySystem(…, name=name, shards=shards)

        def read(self, name):
            return …  # what a reader of the system sees

    @pytest.mark.parametrize("story", STORIES, ids=str)
    def test_my_sink(story):
        story.check(MySink())

Each story runs streams in this process: Kafka and the checkpoint are in memory, the sink is the real one. It kills
drivers by exceptions at chosen calls, wakes others late, and compares what the sink holds with what went in, by value.
"""

from __future__ import annotations

import abc
import random
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import apache_beam as beam

from beam_exactly_once.errors import BeamExactlyOnceError, ReplayDiffers, SinkAhead
from beam_exactly_once.kafka import KafkaRecord
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.pipelines import ExactlyOnceStream, ProcessingTime
from beam_exactly_once.testing.crashing import ANY, KillPoint, StoreCalls, watching
from beam_exactly_once.testing.hooked_publisher import Call, Hook, hooked
from beam_exactly_once.testing.memory_kafka import MemoryKafka
from beam_exactly_once.transforms import ReadFromKafka

Row: TypeAlias = Mapping[str, Any]
"""What the stories write: ``{"id": int, "text": str}``."""

_T = TypeVar("_T")

EMPTY = -1
"""A record that the pipeline drops: a batch of them alone is one without rows."""


class SinkUnderTest(abc.ABC):
    """A sink, as the stories use it. A fresh one a story: what it reads at first must be empty."""

    is_exactly_once = True
    """False for a sink that only promises at least once: rows may then be there twice, but none may be missing."""
    is_direct = False
    """True for a sink that writes before the marker: alone in its stream, and told the same rows by each run of a batch."""
    late_batches = 500
    """How many batches another driver goes on before a late publish wakes; fewer for a slow system."""

    @abc.abstractmethod
    def write(self, name: str, shards: int) -> beam.PTransform:
        """The sink, for rows ``{"id": int, "text": str}``, named ``name``; ``shards`` if it has such a thing."""

    @abc.abstractmethod
    def read(self, name: str) -> Iterable[Row]:
        """All rows that a reader sees of what was written under ``name``."""

    def faults(self) -> Sequence[Callable[[], AbstractContextManager[object]]]:
        """Faults of the sink's own system: each gives a context in which one of the next calls goes wrong half-way.

        Such as a connection that is lost within a transaction, or a commit whose answer is lost.
        """
        return ()


@dataclass(frozen=True)
class Story:
    """One story; its name says what must hold."""

    check: Callable[[SinkUnderTest], None]

    def __str__(self) -> str:
        return self.check.__name__


class Killed(Exception):
    """What a driver dies of."""


def _kill(*_: object) -> None:
    raise Killed("killed by a story")


class _World:
    """A topic, a checkpoint and a sink that drivers share."""

    def __init__(self, sink: SinkUnderTest, names: Sequence[str] = ("one",)) -> None:
        self.sink = sink
        self.names = names
        self.location = f"memory://conformance-{secrets.token_hex(8)}/checkpoint"
        self.cluster = MemoryKafka({"in": 1})
        self.produced: list[int] = []

    def produce(self, *ids: int) -> None:
        """Append records; they are told apart by their ids."""
        self.cluster.append(KafkaRecord("in", value=b"%d" % one) for one in ids)
        self.produced += [one for one in ids if one != EMPTY]

    def live(
        self,
        *,
        shards: int = 2,
        tag: str = "",
        hook: Hook | None = None,
        batches_max: int | None = None,
        retain_batches: int = 100,
    ) -> None:
        """One driver's life: three records a batch, each written as ``id`` and ``text``."""
        trigger = None if batches_max is None else ProcessingTime(0, batches_max=batches_max)
        with ExitStack() as world:
            world.enter_context(self.cluster.serving())
            stream = ExactlyOnceStream(self.location, trigger=trigger, retain_batches=retain_batches)
            ids = (
                stream
                | ReadFromKafka("memory:9092", ["in"], max_offsets_per_batch=3)
                | beam.Map(lambda record: int(record.value))
                | beam.Filter(lambda one: one != EMPTY)
                | beam.Reshuffle()
            )
            rows = ids | "Rows" >> beam.Map(lambda one, tag: {"id": one, "text": f"{one}{tag}"}, tag)
            for name in self.names:
                _ = rows | name >> self.sink.write(name, shards)
            if hook is not None:
                world.enter_context(hooked(stream, hook))
            stream.run()

    def dies(self, **life: Any) -> None:
        """A life that may end with an error, of the story or of the library."""
        try:
            self.live(**life)
        except BeamExactlyOnceError:
            pass
        except Exception as error:
            if Killed.__name__ not in str(error) and not isinstance(error, Killed):
                raise

    def assert_exactly_once(self, tags: Sequence[str] = ("",), shown: Mapping[int, str] = {}) -> None:
        """What the sink holds is what went in, by value: of lives with these ``tags``, and still what it has ``shown``."""
        for name in self.names:
            rows = list(self.sink.read(name))
            found = Counter(int(row["id"]) for row in rows)
            missing = sorted(set(self.produced) - set(found))
            strange = sorted(set(found) - set(self.produced))
            assert not missing, f"{name}: rows were lost: {missing}"
            assert not strange, f"{name}: rows that nobody wrote: {strange}"
            if self.sink.is_exactly_once:
                twice = sorted(one for one, count in found.items() if count > 1)
                assert not twice, f"{name}: rows are there more than once: {twice}"
                texts = {int(row["id"]): str(row["text"]) for row in rows}
                wrong = {one: text for one, text in texts.items() if text not in {f"{one}{tag}" for tag in tags}}
                assert not wrong, f"{name}: rows that are not as any attempt wrote them: {wrong}"
                changed = {one: (text, texts[one]) for one, text in shown.items() if texts[one] != text}
                assert not changed, f"{name}: rows that changed after they were visible: {changed}"


def _three_batches(world: _World) -> None:
    """Rows, none, rows."""
    world.produce(0, 1, 2, EMPTY, EMPTY, EMPTY, 3, 4)


def _calls_of(sink: SinkUnderTest, names: Sequence[str] = ("calm",)) -> list[tuple[int, Call]]:
    """The calls that an undisturbed life makes to the publisher and their numbers, from 1: the first and last of each kind."""
    calls: list[Call] = []
    world = _World(sink, names)
    _three_batches(world)
    world.live(hook=calls.append)
    world.assert_exactly_once()
    return _ends_of_kinds(calls, lambda call: (call.moment, call.method))


def _ends_of_kinds(calls: Sequence[_T], kind: Callable[[_T], object]) -> list[tuple[int, _T]]:
    """The first and the last call of each kind, with their numbers, from 1."""
    first: dict[object, int] = {}
    last: dict[object, int] = {}
    for number, call in enumerate(calls, start=1):
        first.setdefault(kind(call), number)
        last[kind(call)] = number
    return [(number, calls[number - 1]) for number in sorted({*first.values(), *last.values()})]


def _at(number: int, action: Callable[[], None]) -> Hook:
    """A hook that acts at the ``number``-th call, once."""
    seen = [0]
    lock = threading.Lock()

    def hook(call: Call) -> None:
        with lock:
            seen[0] += 1
            reached = seen[0] == number
        if reached:
            action()

    return hook


def every_batch_is_there_once(sink: SinkUnderTest) -> None:
    """Batches with and without rows, restarts between some, nothing to do at the last."""
    world = _World(sink)
    for number in range(4):
        world.produce(*range(10 * number, 10 * number + 5), EMPTY, EMPTY, EMPTY)
        world.live()
    world.live()
    world.assert_exactly_once()


def two_of_it_in_one_stream_each_have_every_row(sink: SinkUnderTest) -> None:
    """Each with a name of its own; and again after a kill between them. A direct sink is always alone."""
    if sink.is_direct:
        return
    for number, call in _calls_of(sink, ("calmA", "calmB")):
        print(f"killed {call}")
        world = _World(sink, [f"a{number}", f"b{number}"])
        _three_batches(world)
        world.dies(hook=_at(number, _kill))
        world.live()
        world.assert_exactly_once()


def killed_around_every_call_to_the_publisher(sink: SinkUnderTest) -> None:
    """Before each call and after it; the next driver goes on."""
    for number, call in _calls_of(sink):
        print(f"killed {call}")
        world = _World(sink, [f"killed{number}"])
        _three_batches(world)
        world.dies(hook=_at(number, _kill))
        world.live()
        world.produce(5)
        world.live()
        world.assert_exactly_once()


def killed_after_every_call_to_the_checkpoint(sink: SinkUnderTest) -> None:
    """Claims, plans, staged rows, markers, sweeps."""
    counted = StoreCalls(None, _kill)
    world = _World(sink, ["counted"])
    _three_batches(world)
    with watching(counted):
        world.live()
    for number, (method, key) in _ends_of_kinds(counted.log, lambda call: (call[0], call[1].rpartition("/")[0])):
        print(f"killed after call {number}: {method} {key}")
        world = _World(sink, [f"stored{number}"])
        _three_batches(world)
        with watching(StoreCalls(KillPoint(ANY, "", number), _kill)):
            world.dies(tag="" if sink.is_direct else " of the dead")
        shown = {int(row["id"]): str(row["text"]) for row in sink.read(world.names[0])}
        world.live()
        world.assert_exactly_once(("", " of the dead"), shown)


def a_second_driver_at_every_call(sink: SinkUnderTest) -> None:
    """The first one freezes in a call to the publisher, the second does all the work, the first goes on and is fenced."""
    for number, call in _calls_of(sink):
        print(f"frozen {call}")
        world = _World(sink, [f"frozen{number}"])
        _three_batches(world)
        world.dies(hook=_at(number, world.live))
        world.produce(5, 6)
        world.live()
        world.assert_exactly_once()


def a_late_publish_wakes_after_many_batches(sink: SinkUnderTest) -> None:
    """Its rows and its marker were swept long ago; it must write nothing."""
    world = _World(sink)
    world.produce(0, 1, 2)

    def go_on() -> None:
        for number in range(sink.late_batches):
            world.produce(3 + number, EMPTY, EMPTY)
        world.live(batches_max=sink.late_batches, retain_batches=2)

    first_publish = next(number for number, call in _calls_of(sink) if call.method == "publish")
    world.dies(hook=_at(first_publish, go_on))
    world.live()
    world.assert_exactly_once()


def published_by_two_at_once(sink: SinkUnderTest) -> None:
    """Two drivers publish every part at the same time, as a runner that repeats a slow bundle does."""
    world = _World(sink)
    for number in range(5):
        world.produce(*range(3 * number, 3 * number + 3))
        started = threading.Barrier(2)

        def live_too(started: threading.Barrier = started) -> None:
            started.wait(30)
            world.dies()

        with ThreadPoolExecutor(1) as second:
            ending = second.submit(live_too)
            live_too()
            ending.result()
    world.live()
    world.assert_exactly_once()


def a_replay_that_gives_other_rows_in_another_order(sink: SinkUnderTest) -> None:
    """The pipeline is not deterministic, and has another number of shards at its replay: one attempt's rows are there.

    A direct sink refuses the other rows, and goes on with the same.
    """
    if sink.is_direct:
        _other_rows_are_refused(sink)
        return
    for killed in ("put_if_absent:offsets/:2", "put_if_absent:commits/:1", "put_if_absent:commits/:2"):
        world = _World(sink, ["replay" + "".join(filter(str.isalnum, killed))])
        _three_batches(world)
        tags = [f" {random.random()}" for _ in range(2)]
        with watching(StoreCalls(KillPoint.parse(killed), _kill)):
            world.dies(shards=3, tag=tags[0])
        world.live(shards=2, tag=tags[1])
        world.produce(5, 6, 7)
        world.live(shards=4, tag=tags[1])
        world.assert_exactly_once(tags)


def _other_rows_are_refused(sink: SinkUnderTest) -> None:
    world = _World(sink, ["replay"])
    _three_batches(world)
    tags = [f" {random.random()}" for _ in range(2)]
    shards = 2
    all_written = _at(shards, _kill)

    def hook(call: Call) -> None:
        if (call.moment, call.method, call.batch_id) == ("after", "write", 0):
            all_written(call)

    world.dies(tag=tags[0], shards=shards, hook=hook)
    try:
        world.live(tag=tags[1], shards=shards)
    except ReplayDiffers:
        pass
    else:
        raise AssertionError("a replay with other rows went on")
    world.live(tag=tags[0], shards=shards)
    world.assert_exactly_once([tags[0]])


def its_own_faults(sink: SinkUnderTest) -> None:
    """A fault of the sink's own system in the middle of a batch: the driver, or the next one, ends right."""
    for number, fault in enumerate(sink.faults()):
        world = _World(sink, [f"fault{number}"])
        _three_batches(world)
        with fault():
            world.dies()
        world.live()
        world.assert_exactly_once()


def a_checkpoint_of_five_batches_ago_is_refused(sink: SinkUnderTest) -> None:
    """It neither writes again what is there, nor skips what is not."""
    if not sink.is_exactly_once:
        return
    world = _World(sink)
    world.produce(*range(21))
    world.live()
    store = open_object_store(world.location)
    newest = max(entry.key for entry in store.list("commits/"))
    last = int(newest.removeprefix("commits/").removesuffix(".json"))
    store.delete(
        [f"{kind}/{batch:020d}.json" for kind in ("offsets", "commits") for batch in range(last - 4, last + 1)]
    )
    try:
        world.live()
    except SinkAhead:
        pass
    else:
        raise AssertionError("a stream went on from a checkpoint that is older than its sink")
    world.assert_exactly_once()


def batches_come_in_order(sink: SinkUnderTest) -> None:
    """When a batch begins to be published, all rows of those before it are there."""
    world = _World(sink)
    world.produce(*range(12))
    missing: list[str] = []

    def look(call: Call) -> None:
        if (call.moment, call.method) == ("before", "publish"):
            there = {int(row["id"]) for row in sink.read("one")}
            missing.extend(f"{one} {call}" for one in range(3 * call.batch_id) if one not in there)

    world.live(hook=look)
    assert not missing, f"a batch was published before those before it: {missing}"
    world.assert_exactly_once()


STORIES = [
    Story(check)
    for check in (
        every_batch_is_there_once,
        two_of_it_in_one_stream_each_have_every_row,
        killed_around_every_call_to_the_publisher,
        killed_after_every_call_to_the_checkpoint,
        a_second_driver_at_every_call,
        a_late_publish_wakes_after_many_batches,
        published_by_two_at_once,
        a_replay_that_gives_other_rows_in_another_order,
        its_own_faults,
        a_checkpoint_of_five_batches_ago_is_refused,
        batches_come_in_order,
    )
]
"""All of them."""
