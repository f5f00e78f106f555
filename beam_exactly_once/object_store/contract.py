"""The contract of all object stores, and the one loop that makes every answer definite.

Safety rests on put-if-absent of one small object in one request, and on nothing else: conditional copies, deletes and
multipart completions are ignored or racy on many servers. Error semantics: :class:`Unclear` never leaves this room;
callers see a definite answer, or ``StoreUnavailable`` when there was none for ``retry_timeout_s``.
"""

from __future__ import annotations

import abc
import io
import random
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from beam_exactly_once.clock import Clock, SystemClock
from beam_exactly_once.errors import StoreUnavailable, UnsuitableStore

RETRY_TIMEOUT_S = 60.0
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 5.0
VERIFY_RACERS = 16
VERIFY_PREFIX = ".verify/"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Created:
    """This call created the object."""


@dataclass(frozen=True, slots=True)
class Mine:
    """The object is there with exactly these bytes: an earlier try of this write was carried out."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The object is there with other bytes."""

    body: bytes


PutResult: TypeAlias = Created | Mine | Taken


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One object in a listing."""

    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StagedObject:
    """Content that is durable and invisible, and becomes the object ``final_key`` when published.

    ``token`` is the backend's own and JSON-able; markers store it.
    """

    final_key: str
    size_bytes: int
    token: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """For a marker."""
        return {"final_key": self.final_key, "size_bytes": self.size_bytes, "token": dict(self.token)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> StagedObject:
        """The inverse of :meth:`to_json`."""
        return cls(checked_key(stored["final_key"]), int(stored["size_bytes"]), stored["token"])


class Unclear(Exception):
    """The store gave no definite answer: a timeout, a 409, 429 or 5xx, a lost connection."""


class StagingWriter(io.RawIOBase):
    """A binary file to write to. A clean ``close()`` makes it durable; leaving ``with`` by an exception drops it."""

    def __init__(self, final_key: str) -> None:
        super().__init__()
        self._final_key = final_key
        self._size_bytes = 0
        self._staged: StagedObject | None = None

    @property
    def staged(self) -> StagedObject:
        """What was staged.

        Raises:
            ValueError: the writer was not closed cleanly.
        """
        if self._staged is None:
            raise ValueError(f"{self._final_key} is not staged: its writer was not closed cleanly")
        return self._staged

    def writable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size_bytes

    def write(self, data: Any) -> int:
        """Append bytes."""
        view = memoryview(data).cast("B")
        self._append(view)
        self._size_bytes += len(view)
        return len(view)

    def close(self) -> None:
        """Make what was written durable."""
        if not self.closed:
            try:
                self._staged = StagedObject(self._final_key, self._size_bytes, self._complete())
            finally:
                super().close()

    def abort(self) -> None:
        """Drop what was written."""
        if not self.closed:
            try:
                self._drop()
            finally:
                super().close()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        # A forgotten writer must not publish itself as complete, as io's own finaliser would by close().
        pass

    @abc.abstractmethod
    def _append(self, data: memoryview) -> None: ...

    @abc.abstractmethod
    def _complete(self) -> dict[str, Any]:
        """Make it durable; returns the token."""

    @abc.abstractmethod
    def _drop(self) -> None: ...


class ObjectStore(abc.ABC):
    """Objects below one root URI. Keys are relative and checked; all methods may be called from many threads."""

    uri: str
    """The root: canonical, without a trailing slash, never with credentials."""

    @abc.abstractmethod
    def put_if_absent(self, key: str, body: bytes) -> PutResult:
        """Create the object unless it exists; never half-visible, never overwriting.

        Raises:
            StoreUnavailable: no definite answer in time. Whether the object exists is unknown.
            OutputNotWritable, ConfigurationError: the store refuses.
        """

    @abc.abstractmethod
    def get(self, key: str) -> bytes | None:
        """The object's bytes; None when it is definitely absent."""

    @abc.abstractmethod
    def size_bytes(self, key: str) -> int | None:
        """The object's size; None when it is definitely absent."""

    @abc.abstractmethod
    def list(self, prefix: str = "", start_after: str = "") -> Iterator[ObjectEntry]:
        """Objects whose key begins with ``prefix`` and lies behind ``start_after``, in order of their keys."""

    @abc.abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; absent ones are fine."""

    @abc.abstractmethod
    def stage(self, final_key: str) -> StagingWriter:
        """Begin content that no listing of this store shows until it is published."""

    @abc.abstractmethod
    def publish(self, staged: StagedObject) -> bool:
        """Make staged content visible under its final key. Harmless when repeated, concurrent or late.

        Returns:
            Whether this call did it; False when it was there already.

        Raises:
            StagedOutputMissing: it is neither staged nor published.
        """

    @abc.abstractmethod
    def discard(self, staged: StagedObject) -> None:
        """Drop staged content; fine when it is gone."""

    @abc.abstractmethod
    def list_staged(self, prefix: str = "") -> Iterator[StagedObject]:
        """Staged, unpublished content whose final key begins with ``prefix``: for sweeping. Tokens suffice to discard."""

    def verify(self) -> None:
        """Prove that this store refuses a second create. Cannot prove that it always will.

        Raises:
            UnsuitableStore: a second create was accepted, or a race had not exactly one winner.
            OutputNotWritable: writing is not permitted.
        """
        key = f"{VERIFY_PREFIX}{secrets.token_hex(16)}"
        raced = f"{VERIFY_PREFIX}{secrets.token_hex(16)}"
        try:
            first, second = self.put_if_absent(key, b"first"), self.put_if_absent(key, b"second")
            if first != Created() or second != Taken(b"first") or self.get(key) != b"first":
                raise UnsuitableStore(_unsuitable(self.uri, "it accepted a second create of one object"))
            start = threading.Barrier(VERIFY_RACERS)

            def race(number: int) -> PutResult:
                start.wait()
                return self.put_if_absent(raced, b"%d" % number)

            with ThreadPoolExecutor(VERIFY_RACERS) as pool:
                winners = sum(isinstance(result, Created) for result in pool.map(race, range(VERIFY_RACERS)))
            if winners != 1:
                raise UnsuitableStore(_unsuitable(self.uri, f"{winners} of {VERIFY_RACERS} racing creates succeeded"))
        finally:
            self.delete([key, raced])


class DefiniteStore(ObjectStore):
    """A backend's base: turns single tries, whose answer may be unclear, into definite answers."""

    def __init__(
        self,
        uri: str,
        *,
        clock: Clock | None = None,
        random_: random.Random | None = None,
        retry_timeout_s: float = RETRY_TIMEOUT_S,
    ) -> None:
        self.uri = uri
        self._clock = clock or SystemClock()
        self._random = random_ or random.Random()
        self._retry_timeout_s = retry_timeout_s

    def put_if_absent(self, key: str, body: bytes) -> PutResult:
        """When a try is unclear: read back. Mine or taken is definite. Absent is not, since the write may still be under
        way: so the *same bytes* are sent again until the answer is definite.
        """
        checked_key(key)

        def attempt() -> PutResult:
            try:
                if self._create(key, body):
                    return Created()
            except Unclear as unclear:
                found = self._get(key)
                if found is None:
                    raise unclear
                return Mine() if found == body else Taken(found)
            found = self._get(key)
            if found is None:  # existed and was deleted in between: ask again
                raise Unclear(f"{key} vanished after it was said to exist")
            return Mine() if found == body else Taken(found)

        return self._definite(f"write {key}", attempt)

    def get(self, key: str) -> bytes | None:
        """See :class:`ObjectStore`."""
        checked_key(key)
        return self._definite(f"read {key}", lambda: self._get(key))

    def size_bytes(self, key: str) -> int | None:
        """See :class:`ObjectStore`."""
        checked_key(key)
        return self._definite(f"look at {key}", lambda: self._size_bytes(key))

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[ObjectEntry]:
        """See :class:`ObjectStore`."""
        while True:
            page = self._definite(f"list {prefix}", lambda after=start_after: self._list_page(prefix, after))  # type: ignore[misc]
            yield from page.entries
            if not page.more:
                return
            start_after = page.entries[-1].key

    def delete(self, keys: Iterable[str]) -> None:
        """See :class:`ObjectStore`."""
        found = [checked_key(key) for key in keys]
        if found:
            self._definite(f"delete {found[0]}", lambda: self._delete(found))

    def publish(self, staged: StagedObject) -> bool:
        """See :class:`ObjectStore`."""
        return self._definite(f"publish {staged.final_key}", lambda: self._publish(staged))

    def discard(self, staged: StagedObject) -> None:
        """See :class:`ObjectStore`."""
        self._definite(f"discard {staged.final_key}", lambda: self._discard(staged))

    # -- for backends: one try each; raise Unclear when there was no definite answer -----------------------------

    @abc.abstractmethod
    def _create(self, key: str, body: bytes) -> bool:
        """Create in one request; False when the object exists."""

    @abc.abstractmethod
    def _get(self, key: str) -> bytes | None: ...

    @abc.abstractmethod
    def _size_bytes(self, key: str) -> int | None: ...

    @abc.abstractmethod
    def _list_page(self, prefix: str, start_after: str) -> Page: ...

    @abc.abstractmethod
    def _delete(self, keys: list[str]) -> None: ...  # type: ignore[valid-type]

    @abc.abstractmethod
    def _publish(self, staged: StagedObject) -> bool: ...

    @abc.abstractmethod
    def _discard(self, staged: StagedObject) -> None: ...

    def _definite(self, what: str, attempt: Callable[[], Result]) -> Result:
        """Try until the answer is definite, with growing, jittered pauses."""
        began_s = self._clock.monotonic_s()
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                return attempt()
            except Unclear as unclear:
                if self._clock.monotonic_s() - began_s + backoff_s > self._retry_timeout_s:
                    raise StoreUnavailable(
                        f"{self.uri} gave no definite answer to: {what}, for {self._retry_timeout_s:g} s ({unclear}). "
                        "Nothing is lost: start again when the store answers."
                    ) from unclear
            self._clock.wait(threading.Event(), backoff_s * self._random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a listing."""

    entries: list[ObjectEntry]
    more: bool


def checked_key(key: str) -> str:
    """``key``, if it stays below the root.

    Raises:
        ValueError: it is empty, absolute, or has an empty, ``.`` or ``..`` segment, or a control character.
    """
    if any(part in ("", ".", "..") for part in key.split("/")) or any(
        ord(letter) < 32 or letter == "\\" for letter in key
    ):
        raise ValueError(f"{key!r} is no key of an object store")
    return key


def _unsuitable(uri: str, what: str) -> str:
    return (
        f"{uri} cannot hold a checkpoint: {what}. It ignores conditional writes, so two drivers could both commit one "
        "batch. Use a store with atomic conditional creation: a local disk, S3, GCS, or a server known to have it."
    )
