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
from beam_exactly_once.sinks.contract import Part, Publisher
from beam_exactly_once.sinks.shard_writer import ShardWrite, ShardWriter
from beam_exactly_once.sinks.sharded import DirectPublisher

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


class HookedPublisher(Publisher):
    """Calls a hook around every call to another publisher."""

    def __init__(self, inner: Publisher, hook: str) -> None:
        self._inner = inner
        self._hook = hook
        self.shards = inner.shards
        self.asks_newest = inner.asks_newest
        self.is_direct = inner.is_direct

    def publish(self, part: Part) -> None:
        """As the inner publisher."""
        call = Call("before", "publish", part.attempt.batch_id, part.shard)
        self._tell(call)
        self._inner.publish(part)
        self._tell(replace(call, moment="after"))

    def finish(self, stream_id: str, attempt: Attempt, committables: tuple[Json, ...]) -> None:
        """As the inner publisher."""
        call = Call("before", "finish", attempt.batch_id)
        self._tell(call)
        self._inner.finish(stream_id, attempt, committables)
        self._tell(replace(call, moment="after"))

    def check_place(self) -> None:
        """As the inner publisher."""
        self._inner.check_place()

    def prepare(self, stream_id: str) -> None:
        """As the inner publisher."""
        self._inner.prepare(stream_id)

    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        """As the inner publisher."""
        call = Call("before", "check_start", next_batch_id)
        self._tell(call)
        self._inner.check_start(stream_id, next_batch_id)
        self._tell(replace(call, moment="after"))

    def sweep(self, published_batch_id: int) -> None:
        """As the inner publisher."""
        call = Call("before", "sweep", published_batch_id)
        self._tell(call)
        self._inner.sweep(published_batch_id)
        self._tell(replace(call, moment="after"))

    def _tell(self, call: Call) -> None:
        _HOOKS[self._hook](call)


@contextmanager
def hooked(stream: ExactlyOnceStream, hook: Hook) -> Iterator[None]:
    """Call ``hook`` around every call to a publisher of ``stream``, whose sinks are applied; while the block is open."""
    token = new_token()
    _HOOKS[token] = hook
    sinks = stream.stream_graph.sinks
    with ExitStack() as direct:
        direct.callback(_HOOKS.pop, token)
        for name, spec in sinks.items():
            sinks[name] = replace(spec, publisher=HookedPublisher(spec.publisher, token))
            if isinstance(spec.publisher, DirectPublisher):
                direct.enter_context(_hooked_writes(type(spec.publisher.writer), hook))
        yield


@contextmanager
def _hooked_writes(writers: type[ShardWriter], hook: Hook) -> Iterator[None]:
    """Call ``hook`` around every write of such writers, whoever's they are: what a graph pickled is out of reach."""
    write = writers.write

    def hooked_write(self: ShardWriter, one: ShardWrite) -> None:
        call = Call("before", "write", one.batch_id, one.shard)
        hook(call)
        write(self, one)
        hook(replace(call, moment="after"))

    with mock.patch.object(writers, "write", hooked_write):
        yield
