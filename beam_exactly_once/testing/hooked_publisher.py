"""Something that happens before or after a chosen call to a sink's publisher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from unittest import mock

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.randomness import new_token
from beam_exactly_once.sinks.contract import DriverSide, Part, Publisher
from beam_exactly_once.sinks.sharded import DirectPublisher
from beam_exactly_once.sinks.transactional import Delivery, TransactionalSink

Moment: TypeAlias = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a publisher: before it was made, or after it was carried out."""

    moment: Moment
    method: str
    batch_id: int
    shard: int = 0

    def __str__(self) -> str:
        return f"{self.moment} {self.method} of batch {self.batch_id}, part {self.shard}"


Hook: TypeAlias = Callable[[Call], None]

_HOOKS: dict[str, Hook] = {}
"""A publisher is pickled into the graph; what is to happen stays here, in the process of the test."""


class HookedPublisher(Publisher, DriverSide):
    """Calls a hook around every call to a sink's publisher, and around the check of its start."""

    def __init__(self, inner: Publisher, driver_side: DriverSide, hook: str) -> None:
        self._inner = inner
        self._driver_side = driver_side
        self._hook = hook
        self.shards = inner.shards
        self.asks_newest = inner.asks_newest
        self.is_direct = inner.is_direct

    def publish(self, part: Part) -> None:
        """As the inner publisher."""
        with self._told("publish", part.attempt.batch_id, part.shard):
            self._inner.publish(part)

    def finish(self, stream_id: str, attempt: Attempt, committables: tuple[Json, ...]) -> None:
        """As the inner publisher."""
        with self._told("finish", attempt.batch_id):
            self._inner.finish(stream_id, attempt, committables)

    def sweep(self, published_batch_id: int) -> None:
        """As the inner publisher."""
        with self._told("sweep", published_batch_id):
            self._inner.sweep(published_batch_id)

    def check_place(self) -> None:
        """As the inner sink."""
        self._driver_side.check_place()

    def check_known_place(self) -> None:
        """As the inner sink."""
        self._driver_side.check_known_place()

    def prepare(self, stream_id: str) -> None:
        """As the inner sink."""
        self._driver_side.prepare(stream_id)

    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        """As the inner sink."""
        with self._told("check_start", next_batch_id):
            self._driver_side.check_start(stream_id, next_batch_id)

    @contextmanager
    def _told(self, method: str, batch_id: int, shard: int = 0) -> Iterator[None]:
        with _told(_HOOKS[self._hook], Call("before", method, batch_id, shard)):
            yield


@contextmanager
def _told(hook: Hook, call: Call) -> Iterator[None]:
    """Tell a hook of a call that is made within the block; only what was carried out is told after it."""
    hook(call)
    yield
    hook(replace(call, moment="after"))


@contextmanager
def hooked(stream: ExactlyOnceStream, hook: Hook) -> Iterator[None]:
    """Call ``hook`` around every call to a publisher of ``stream``, whose sinks are applied; while the block is open."""
    token = new_token()
    _HOOKS[token] = hook
    sinks = stream.stream_graph.sinks
    with ExitStack() as direct:
        direct.callback(_HOOKS.pop, token)
        for name, spec in sinks.items():
            both = HookedPublisher(spec.publisher, spec.driver_side, token)
            sinks[name] = replace(spec, publisher=both, driver_side=both)
            if isinstance(spec.publisher, DirectPublisher):
                direct.enter_context(_hooked_writes(type(spec.publisher.sharded.sink), hook))
        yield


@contextmanager
def _hooked_writes(sinks: type[TransactionalSink], hook: Hook) -> Iterator[None]:
    """Call ``hook`` around every write of such sinks, whoever's they are: what a graph pickled is out of reach."""
    write = sinks.write

    def hooked_write(self: TransactionalSink, delivery: Delivery) -> None:
        with _told(hook, Call("before", "write", delivery.batch_id, delivery.shard)):
            write(self, delivery)

    with mock.patch.object(sinks, "write", hooked_write):
        yield
