"""Stores that fail as networks do, for tests of the loop that makes answers definite."""

from __future__ import annotations

import datetime
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from beam_exactly_once.object_store import ObjectEntry, ObjectStore, PutResult, StagedObject, StagingWriter
from beam_exactly_once.object_store.definite import DefiniteStore, Page, Unclear


class Fault(Enum):
    """What happens to one try."""

    NONE = "it is carried out and answered"
    REQUEST_LOST = "it is not carried out, and not answered"
    ANSWER_LOST = "it is carried out, but not answered"
    DELAYED = "it is not answered, and carried out when the next try of the same operation has been carried out"


class ManualClock:
    """Waiting takes no time, and is noted."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits_s: list[float] = []

    def utc_now(self) -> datetime.datetime:
        return datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=self.now_s)

    def monotonic_s(self) -> float:
        return self.now_s

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.waits_s.append(timeout_s)
        self.now_s += timeout_s
        return event.is_set()


@dataclass(frozen=True)
class Try:
    """One try that a backend saw: ``create``, ``get``, ``publish``, …"""

    operation: str
    fault: Fault


class FaultyStore(DefiniteStore):
    """The loop of the contract over another backend's single tries, some of which fail by script.

    Args:
        inner: carries out.
        faults: for each operation the faults of its tries in their order; tries beyond them are fine.
        always: the fault of every try of an operation, instead.
    """

    def __init__(
        self,
        inner: DefiniteStore,
        faults: dict[str, Iterable[Fault]] | None = None,
        *,
        always: dict[str, Fault] | None = None,
        **contract: Any,
    ) -> None:
        self.clock = ManualClock()
        super().__init__(inner.uri, clock=self.clock, **contract)
        self.tries: list[Try] = []
        self._inner = inner
        self._faults = {operation: deque(listed) for operation, listed in (faults or {}).items()}
        self._always = always or {}
        self._delayed: list[Callable[[], Any]] = []

    def stage(self, final_key: str) -> StagingWriter:
        return self._inner.stage(final_key)

    def list_staged(self, prefix: str = "") -> Iterator[StagedObject]:
        return self._inner.list_staged(prefix)

    def _create(self, key: str, body: bytes) -> bool:
        return self._try("create", lambda: self._inner._create(key, body))

    def _get(self, key: str) -> bytes | None:
        return self._try("get", lambda: self._inner._get(key))

    def _get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        return self._try("get_range", lambda: self._inner._get_range(key, start, size_bytes))

    def _size_bytes(self, key: str) -> int | None:
        return self._try("size_bytes", lambda: self._inner._size_bytes(key))

    def _list_page(self, prefix: str, start_after: str, max_entries: int) -> Page:
        return self._try("list", lambda: self._inner._list_page(prefix, start_after, max_entries))

    def _delete(self, keys: list[str]) -> None:
        self._try("delete", lambda: self._inner._delete(keys))

    def _publish(self, staged: StagedObject) -> bool:
        return self._try("publish", lambda: self._inner._publish(staged))

    def _discard(self, staged: StagedObject) -> None:
        self._try("discard", lambda: self._inner._discard(staged))

    def _try(self, operation: str, carry_out: Callable[[], Any]) -> Any:
        listed = self._faults.get(operation)
        fault = self._always.get(operation, listed.popleft() if listed else Fault.NONE)
        self.tries.append(Try(operation, fault))
        if fault is Fault.REQUEST_LOST:
            raise Unclear("request lost")
        if fault is Fault.DELAYED:
            self._delayed.append(carry_out)
            raise Unclear("no answer yet")
        answer = carry_out()
        if operation in ("create", "publish"):
            while self._delayed:
                self._delayed.pop()()
        if fault is Fault.ANSWER_LOST:
            raise Unclear("answer lost")
        return answer


class OverwritingStore(ObjectStore):
    """A store that ignores conditional writes, as many servers do: every create is accepted.

    Args:
        inner: keeps the objects.
        accepts: which creates of an object that exists are accepted, by its key and how often it was created.
    """

    def __init__(self, inner: ObjectStore, accepts: Callable[[str, int], bool]) -> None:
        self.uri = inner.uri
        self._inner = inner
        self._accepts = accepts
        self._lock = threading.Lock()
        self._creates: dict[str, int] = {}

    def put_if_absent(self, key: str, body: bytes) -> PutResult:
        with self._lock:
            number = self._creates[key] = self._creates.get(key, -1) + 1
            if number and self._accepts(key, number):
                self._inner.delete([key])
            return self._inner.put_if_absent(key, body)

    def get(self, key: str) -> bytes | None:
        return self._inner.get(key)

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        return self._inner.get_range(key, start, size_bytes)

    def size_bytes(self, key: str) -> int | None:
        return self._inner.size_bytes(key)

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[ObjectEntry]:
        return self._inner.list(prefix, start_after, limit)

    def delete(self, keys: Iterable[str]) -> None:
        self._inner.delete(keys)

    def stage(self, final_key: str) -> StagingWriter:
        return self._inner.stage(final_key)

    def publish(self, staged: StagedObject) -> bool:
        return self._inner.publish(staged)

    def discard(self, staged: StagedObject) -> None:
        self._inner.discard(staged)

    def list_staged(self, prefix: str = "") -> Iterator[StagedObject]:
        return self._inner.list_staged(prefix)
