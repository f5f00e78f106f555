"""The contract of all object stores.

Safety rests on put-if-absent of one small object in one request, and on nothing else: conditional copies, deletes and
multipart completions are ignored or racy on many servers. Every answer is definite, or an error that says that it is
not: ``StoreUnavailable``.
"""

from __future__ import annotations

import abc
import io
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

from beam_exactly_once.errors import BeamExactlyOnceError, UnsuitableStore
from beam_exactly_once.randomness import new_token

VERIFY_RACERS = 16
VERIFY_PREFIX = ".verify/"


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


class StagingWriter(io.RawIOBase):
    """A binary file to write to. A clean ``close()`` makes it durable; leaving ``with`` by an exception drops it.

    After a write that failed, ``close()`` drops it too: what is staged is never less than what was written.
    """

    def __init__(self, final_key: str) -> None:
        super().__init__()
        self._final_key = final_key
        self._size_bytes = 0
        self._failed = False
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
        if self.closed or self._failed:
            raise ValueError(f"{self._final_key}: write to a writer that is closed or has failed")
        view = memoryview(data).cast("B")
        self._failed = True
        self._append(view)
        self._failed = False
        self._size_bytes += len(view)
        return len(view)

    def close(self) -> None:
        """Make what was written durable.

        Raises:
            ValueError: a write has failed before.
        """
        if self._failed and not self.closed:
            self.abort()
            raise ValueError(f"{self._final_key} is dropped: a write of it failed")
        if not self.closed:
            try:
                self._staged = StagedObject(self._final_key, self._size_bytes, self._complete())
            except BaseException:
                self._drop()
                raise
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
    def _drop(self) -> None:
        """Let go of it, as far as one try can: what stays is swept. Does not raise errors of the store."""


class ObjectStore(abc.ABC):
    """Objects below one root URI. Keys are relative and checked; all methods may be called from many threads.

    Do not use both ``a`` and ``a/b`` as keys: a local disk cannot have a file and a folder of one name.
    """

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
    def get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        """A part of the object; None when the object is definitely absent.

        Args:
            key: which object.
            start: where the part begins, from 0.
            size_bytes: its length, at least 1. It comes back shorter, or empty, where the object ends before.
        """

    @abc.abstractmethod
    def size_bytes(self, key: str) -> int | None:
        """The object's size; None when it is definitely absent."""

    def written_at_ms(self, key: str) -> int | None:
        """When the object was written, by the clock of the store; None if it has none of its own, or the object is absent."""
        return None

    @abc.abstractmethod
    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[ObjectEntry]:
        """Objects whose key begins with ``prefix`` and lies behind ``start_after``, in order of their keys.

        Args:
            prefix: of the keys; empty for all.
            start_after: a key, or any text; it need not exist.
            limit: the first so many are enough, at least 1: the store is asked for no more. None for all.
        """

    @abc.abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; absent ones are fine."""

    @abc.abstractmethod
    def stage(self, final_key: str) -> StagingWriter:
        """Begin content that no listing of this store shows until it is published."""

    def takes(self, final_key: str) -> bool:
        """Whether the name is short enough to be staged and published here. Asks no server."""
        return True

    @abc.abstractmethod
    def publish(self, staged: StagedObject) -> bool:
        """Make staged content visible under its final key. Harmless when repeated, concurrent or late.

        Returns:
            False when it was there already; True when this call did it. Some stores say True again to a repeat.

        Raises:
            StagedOutputMissing: it is neither staged nor published.
        """

    @abc.abstractmethod
    def discard(self, staged: StagedObject) -> None:
        """Drop staged content; fine when it is gone."""

    @abc.abstractmethod
    def list_staged(self, prefix: str = "") -> Iterator[StagedObject]:
        """Staged, unpublished content whose final key begins with ``prefix``, in no promised order: for sweeping.

        Shows content that is still being written, too. Tokens suffice to discard, not to publish; sizes may be 0.
        """

    def check_reachable(self) -> None:
        """Find a wrong address, bucket or credential soon and before anything is written: one listing.

        Raises:
            StoreUnavailable: no answer, sooner than other calls say so.
            OutputNotWritable, ConfigurationError: the store refuses.
        """
        next(self.list(VERIFY_PREFIX), None)

    def verify(self) -> None:
        """Prove that this store refuses a second create. Cannot prove that it always will.

        Raises:
            UnsuitableStore: a second create was accepted, a race had not exactly one winner, or a listing lacks what
                was just written.
            OutputNotWritable: writing is not permitted.
        """
        key = f"{VERIFY_PREFIX}{new_token(16)}"
        raced = f"{VERIFY_PREFIX}{new_token(16)}"
        try:
            self._verify_create(key)
            self._verify_race(raced)
            if not {key, raced} <= {entry.key for entry in self.list(VERIFY_PREFIX)}:
                raise UnsuitableStore(_unsuitable(self.uri, "its listing lacks objects that were just written"))
        except BeamExactlyOnceError:
            with suppress(BeamExactlyOnceError):  # the first error says more
                self.delete([key, raced])
            raise
        self.delete([key, raced])

    def check_writable(self) -> None:
        """Prove the right to write: of a store that :meth:`verify` has tested, and as that raises."""
        self.put_if_absent(key := f"{VERIFY_PREFIX}{new_token(16)}", b"")
        self.delete([key])

    def verify_order(self) -> None:
        """Prove that listings are in order, also from a key on, up to a limit and right after a delete: for a log.

        Raises:
            UnsuitableStore: one was not.
            OutputNotWritable: writing is not permitted.
        """
        prefix = f"{VERIFY_PREFIX}{new_token(16)}/"
        keys = [f"{prefix}{number}" for number in range(5)]
        try:
            for key in reversed(keys):
                self.put_if_absent(key, b"")
            whole, first = self._keys(prefix), self._keys(prefix, limit=1)
            behind = self._keys(prefix, keys[1], limit=2)
            self.delete(keys[:1])
            after = self._keys(prefix, limit=1)
            if (whole, first, behind, after) != (keys, keys[:1], keys[2:4], keys[1:2]):
                raise UnsuitableStore(
                    f"{self.uri} cannot hold a log: its listings are not in order of their keys, or not up to date, so its "
                    "newest object could not be found. Use a local disk, S3 (no directory bucket), or GCS."
                )
        finally:
            with suppress(BeamExactlyOnceError):  # an error before it says more, and what stays is no harm
                self.delete(keys)

    def _keys(self, prefix: str, start_after: str = "", limit: int | None = None) -> Sequence[str]:
        return [entry.key for entry in self.list(prefix, start_after, limit)]

    def _verify_create(self, key: str) -> None:
        first, second = self.put_if_absent(key, b"first"), self.put_if_absent(key, b"second")
        if not isinstance(first, Created | Mine) or second != Taken(b"first") or self.get(key) != b"first":
            raise UnsuitableStore(_unsuitable(self.uri, "it accepted a second create of one object"))

    def _verify_race(self, key: str) -> None:
        start = threading.Barrier(VERIFY_RACERS)

        def race(number: int) -> PutResult:
            start.wait()
            return self.put_if_absent(key, b"%d" % number)

        with ThreadPoolExecutor(VERIFY_RACERS) as pool:
            results = list(pool.map(race, range(VERIFY_RACERS)))
        winners = [number for number, result in enumerate(results) if isinstance(result, Created | Mine)]
        if len(winners) != 1:
            problem = f"{len(winners)} of {VERIFY_RACERS} racing creates succeeded"
            raise UnsuitableStore(_unsuitable(self.uri, problem))
        winner = b"%d" % winners[0]
        if self.get(key) != winner or any(isinstance(lost, Taken) and lost.body != winner for lost in results):
            raise UnsuitableStore(_unsuitable(self.uri, "racers of one create read different winners"))


def checked_key(key: str) -> str:
    """``key``, if it stays below the root.

    Raises:
        ValueError: it is empty, absolute, or has an empty, ``.`` or ``..`` segment, or a control character.
    """
    if not is_key(key):
        raise ValueError(f"{key!r} is not a key of an object store")
    return key


def checked_range(start: int, size_bytes: int) -> None:
    """Refuse what is not a part of an object.

    Raises:
        ValueError: it begins before the object does, or is empty.
    """
    if start < 0 or size_bytes < 1:
        raise ValueError(f"{size_bytes} bytes from byte {start} on are not a part of an object")


def checked_limit(limit: int | None) -> None:
    """Refuse to list nothing.

    Raises:
        ValueError: the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"a listing of {limit} objects is none: ask for at least 1")


def is_key(text: str) -> bool:
    """Whether ``text`` names an object below the root: see :func:`checked_key`."""
    parts, letters = text.split("/"), set(text)
    return not any(part in ("", ".", "..") for part in parts) and not any(
        ord(letter) < 32 or letter == "\\" for letter in letters
    )


def checked_prefix(prefix: str) -> str:
    """``prefix``, if it stays below the root: as a key, but its last segment may be anything, or empty.

    Raises:
        ValueError: as :func:`checked_key`.
    """
    folder, _, _ = prefix.rpartition("/")
    if "/" in prefix:
        checked_key(folder)
    return prefix


def without_credentials(text: str) -> str:
    """``text`` to show, where every ``scheme://user:password@host`` has lost its user and password."""
    return re.sub(r"://\S*@", "://***@", text)  # to the last "@": passwords may hold slashes


def _unsuitable(uri: str, what: str) -> str:
    return (
        f"{uri} cannot hold a checkpoint: {what}. It ignores conditional writes, so two drivers could both commit one "
        "batch. Use a store with atomic conditional creation: a local disk, S3, GCS, or a server known to have it."
    )
