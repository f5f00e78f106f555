"""What the stories of :mod:`.conformance` play in: a topic, a checkpoint and a sink that drivers share."""

from __future__ import annotations

import abc
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeAlias, TypeVar

import apache_beam as beam

from beam_exactly_once.errors import BeamExactlyOnceError, StepFailed
from beam_exactly_once.kafka import Record
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.pipelines.triggers import AvailableNow, ProcessingTime
from beam_exactly_once.randomness import new_token
from beam_exactly_once.testing.hooked_publisher import Call, Hook, hooked
from beam_exactly_once.testing.memory_kafka import MemoryKafka
from beam_exactly_once.transforms.read_kafka import ReadFromKafka

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


class Killed(Exception):
    """What a driver dies of."""


def kill(*_: object) -> None:
    """Let a driver die here."""
    raise Killed("killed by a story")


class World:
    """A topic, a checkpoint and a sink that drivers share."""

    def __init__(self, sink: SinkUnderTest, names: Sequence[str] = ("one",)) -> None:
        self.sink = sink
        self.names = names
        self.location = f"memory://conformance-{new_token()}/checkpoint"
        self.cluster = MemoryKafka({"in": 1})
        self.produced: list[int] = []

    def produce(self, *ids: int) -> None:
        """Append records; they are told apart by their ids."""
        self.cluster.append(Record("in", value=b"%d" % one) for one in ids)
        self.produced += [one for one in ids if one != EMPTY]

    def live(
        self,
        *,
        shards: int = 2,
        tag: str = "",
        hook: Hook | None = None,
        max_batches: int | None = None,
        retain_batches: int = 100,
    ) -> None:
        """One driver's life: three records a batch, each written as ``id`` and ``text``."""
        trigger = AvailableNow() if max_batches is None else ProcessingTime(0)
        with ExitStack() as world:
            world.enter_context(self.cluster.serving())
            stream = ExactlyOnceStream(
                self.location, trigger=trigger, max_batches=max_batches, retain_batches=retain_batches
            )
            ids = (
                stream
                | ReadFromKafka("memory:9092", ["in"], max_batch_offsets=3)
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
        except StepFailed as error:
            if Killed.__name__ not in repr(error.__cause__):
                raise
        except (BeamExactlyOnceError, Killed):
            pass

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


def three_batches(world: World) -> None:
    """Rows, none, rows."""
    world.produce(0, 1, 2, EMPTY, EMPTY, EMPTY, 3, 4)


def calls_of(sink: SinkUnderTest, names: Sequence[str] = ("calm",)) -> list[tuple[int, Call]]:
    """The calls that an undisturbed life makes to the publisher and their numbers, from 1: the first and last of each kind."""
    calls: list[Call] = []
    world = World(sink, names)
    three_batches(world)
    world.live(hook=calls.append)
    world.assert_exactly_once()
    return ends_of_kinds(calls, lambda call: (call.moment, call.method))


def ends_of_kinds(calls: Sequence[_T], kind: Callable[[_T], object]) -> list[tuple[int, _T]]:
    """The first and the last call of each kind, with their numbers, from 1."""
    first: dict[object, int] = {}
    last: dict[object, int] = {}
    for number, call in enumerate(calls, start=1):
        first.setdefault(kind(call), number)
        last[kind(call)] = number
    return [(number, calls[number - 1]) for number in sorted({*first.values(), *last.values()})]


def at(number: int, action: Callable[[], None]) -> Hook:
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
