"""An object store whose every call is a scheduling point, and whose answers get lost.

The loop that makes answers definite is the library's own: only single tries are simulated.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from beam_exactly_once.errors import StagedOutputMissing
from beam_exactly_once.object_store import ObjectEntry, StagedObject, StagingWriter
from beam_exactly_once.object_store.definite import DefiniteStore, Page, Unclear
from support.simulation.world import Fate, SimulatedClock, World

Result = TypeVar("Result")

RETRY_TIMEOUT_S = 2.0
"""Short, so that some drivers end with an unknown outcome."""


class SimulatedStore(DefiniteStore):
    """Objects of a simulated world.

    ``created`` holds every create that took effect, in order, also of objects deleted since: only the oracle reads it.
    """

    def __init__(self, uri: str, world: World, random_: random.Random, page_entries: int) -> None:
        super().__init__(uri, clock=SimulatedClock(world), random_=random_, retry_timeout_s=RETRY_TIMEOUT_S)
        self.world = world
        self.objects: dict[str, bytes] = {}
        self.staged: dict[int, tuple[str, bytes]] = {}
        self.created: list[tuple[str, bytes]] = []
        self.on_create: Callable[[str, bytes], None] = lambda key, body: None
        self._page_entries = page_entries
        self._staged_count = 0

    def check_reachable(self) -> None:
        """The simulated store is where it is said to be; one read more that decides nothing would only tame histories."""

    def verify(self) -> None:
        """The simulated store is suitable; the proof would need threads that race."""

    def stage(self, final_key: str) -> StagingWriter:
        return _SimulatedWriter(self, final_key)

    def list_staged(self, prefix: str = "") -> Iterator[StagedObject]:
        self._definite("list staged", lambda: self._read("list_staged", prefix))
        for number, (final_key, body) in list(self.staged.items()):
            if final_key.startswith(prefix):
                yield StagedObject(final_key, len(body), {"number": number})

    def complete_staging(self, final_key: str, body: bytes) -> dict[str, Any]:
        """Make staged content durable; returns its token. Its last request never goes astray: that loses nothing."""
        self._read("stage", final_key)
        self._staged_count += 1
        self.staged[self._staged_count] = (final_key, body)
        return {"number": self._staged_count}

    def _create(self, key: str, body: bytes) -> bool:
        return self._change("create", key, lambda: self.create_now(key, body))

    def create_now(self, key: str, body: bytes) -> bool:
        """The moment at which the store decides."""
        if key in self.objects:
            return False
        self.objects[key] = body
        self.created.append((key, body))
        self.on_create(key, body)
        return True

    def _get(self, key: str) -> bytes | None:
        self._read("get", key)
        return self.objects.get(key)

    def _get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        self._read("get_range", key)
        body = self.objects.get(key)
        return None if body is None else body[start : start + size_bytes]

    def _size_bytes(self, key: str) -> int | None:
        self._read("size_bytes", key)
        body = self.objects.get(key)
        return None if body is None else len(body)

    def _list_page(self, prefix: str, start_after: str, max_entries: int) -> Page:
        self._read("list", prefix)
        found = sorted(key for key in self.objects if key.startswith(prefix) and key > start_after)
        found_now = found[: min(self._page_entries, max_entries)]
        entries = [ObjectEntry(key, len(self.objects[key])) for key in found_now]
        return Page(entries, entries[-1].key if len(found) > len(entries) else None)

    def _delete(self, keys: list[str]) -> None:
        fate = self.world.call("delete", keys[0])
        for key in keys:  # a request of many deletes is no transaction: delayed, each is under way by itself
            if fate in (Fate.DONE, Fate.ANSWER_LOST):
                self.objects.pop(key, None)
            elif fate is Fate.DELAYED:
                self.world.in_flight.append(lambda key=key: void(self.objects.pop(key, None)))  # type: ignore[misc]
        if fate is not Fate.DONE:
            raise Unclear(fate.value)

    def _publish(self, staged: StagedObject) -> bool:
        return self._change("publish", staged.final_key, lambda: self._publish_now(staged))

    def _publish_now(self, staged: StagedObject) -> bool:
        found = self.staged.pop(staged.token["number"], None)
        if staged.final_key in self.objects:
            return False
        if found is None:
            raise StagedOutputMissing(f"{staged.final_key} is neither staged nor published")
        return self.create_now(*found)

    def _discard(self, staged: StagedObject) -> None:
        self._change("discard", staged.final_key, lambda: void(self.staged.pop(staged.token["number"], None)))

    def _read(self, method: str, key: str) -> None:
        fate = self.world.call(method, key)
        if fate is not Fate.DONE:
            raise Unclear(fate.value)

    def _change(self, method: str, key: str, effect: Callable[[], Result]) -> Result:
        def nobody_hears() -> None:
            with contextlib.suppress(StagedOutputMissing):
                effect()

        fate = self.world.call(method, key)
        if fate is Fate.DONE:
            return effect()
        if fate is Fate.ANSWER_LOST:
            nobody_hears()
        elif fate is Fate.DELAYED:
            self.world.in_flight.append(nobody_hears)
        raise Unclear(fate.value)


class _SimulatedWriter(StagingWriter):
    def __init__(self, store: SimulatedStore, final_key: str) -> None:
        super().__init__(final_key)
        self._store = store
        self._content = b""

    def _append(self, data: memoryview) -> None:
        self._content += bytes(data)

    def _complete(self) -> dict[str, Any]:
        return self._store._definite(
            f"stage {self._final_key}", lambda: self._store.complete_staging(self._final_key, self._content)
        )

    def _drop(self) -> None:
        pass


def void(_: object) -> None:
    """Forgets a result."""
