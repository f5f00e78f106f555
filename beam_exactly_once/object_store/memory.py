"""Objects in this process: for tests and for trying things out. ``memory://name`` is one root, by name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from heapq import nsmallest
from itertools import count
from typing import Any

from beam_exactly_once.errors import StagedOutputMissing
from beam_exactly_once.object_store.contract import (
    ObjectEntry,
    StagedObject,
    StagingWriter,
    checked_key,
    checked_prefix,
)
from beam_exactly_once.object_store.definite import DefiniteStore, Page


class _Root:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, bytes] = {}
        self.staged: dict[str, tuple[str, bytes]] = {}
        self.numbers = count()


_ROOTS: dict[str, _Root] = {}
_ROOTS_LOCK = threading.Lock()


class MemoryStore(DefiniteStore):
    """A root in this process. Stores with the same URI share their objects."""

    def __init__(self, uri: str, **contract: Any) -> None:
        super().__init__(uri, **contract)
        with _ROOTS_LOCK:
            self._root = _ROOTS.setdefault(uri, _Root())

    def stage(self, final_key: str) -> StagingWriter:
        """Content stays in this process, under a number, and is listed once it is whole."""
        return _MemoryWriter(self._root, checked_key(final_key))

    def list_staged(self, prefix: str = "") -> Iterator[StagedObject]:
        """See :class:`ObjectStore`."""
        checked_prefix(prefix)
        with self._root.lock:
            staged = list(self._root.staged.items())
        for number, (final_key, body) in staged:
            if final_key.startswith(prefix):
                yield StagedObject(final_key, len(body), {"number": number})

    def _create(self, key: str, body: bytes) -> bool:
        with self._root.lock:
            if key in self._root.objects:
                return False
            self._root.objects[key] = body
            return True

    def _get(self, key: str) -> bytes | None:
        return self._root.objects.get(key)

    def _get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        body = self._root.objects.get(key)
        return None if body is None else body[start : start + size_bytes]

    def _size_bytes(self, key: str) -> int | None:
        body = self._root.objects.get(key)
        return None if body is None else len(body)

    def _list_page(self, prefix: str, start_after: str, max_entries: int) -> Page:
        with self._root.lock:
            found = nsmallest(
                max_entries,
                (
                    (key, len(body))
                    for key, body in self._root.objects.items()
                    if key.startswith(prefix) and key > start_after
                ),
            )
        entries = [ObjectEntry(key, size_bytes) for key, size_bytes in found]
        return Page(entries, resume_after=entries[-1].key if len(entries) == max_entries else None)

    def _delete(self, keys: list[str]) -> None:
        with self._root.lock:
            for key in keys:
                self._root.objects.pop(key, None)

    def _publish(self, staged: StagedObject) -> bool:
        with self._root.lock:
            found = self._root.staged.pop(staged.token["number"], None)
            if staged.final_key in self._root.objects:
                return False
            if found is None:
                raise StagedOutputMissing(f"{self.uri}/{staged.final_key} is neither staged nor published.")
            self._root.objects[staged.final_key] = found[1]
            return True

    def _discard(self, staged: StagedObject) -> None:
        with self._root.lock:
            self._root.staged.pop(staged.token["number"], None)


class _MemoryWriter(StagingWriter):
    def __init__(self, root: _Root, final_key: str) -> None:
        super().__init__(final_key)
        self._root = root
        self._parts: list[bytes] = []

    def _append(self, data: memoryview) -> None:
        self._parts.append(bytes(data))

    def _complete(self) -> dict[str, Any]:
        with self._root.lock:
            number = str(next(self._root.numbers))
            self._root.staged[number] = (self._final_key, b"".join(self._parts))
        return {"number": number}

    def _drop(self) -> None:
        self._parts.clear()
