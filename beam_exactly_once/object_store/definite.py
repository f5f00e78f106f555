"""The base of the backends, with the one loop that makes every answer definite.

Error semantics: :class:`Unclear` never leaves this room; callers see a definite answer, or ``StoreUnavailable`` when
there was none for ``retry_timeout_s``.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import StoreUnavailable
from beam_exactly_once.object_store.contract import (
    VERIFY_PREFIX,
    Created,
    Mine,
    ObjectEntry,
    ObjectStore,
    PutResult,
    StagedObject,
    Taken,
    checked_key,
    checked_limit,
    checked_prefix,
    checked_range,
)
from beam_exactly_once.patience import Patience
from beam_exactly_once.randomness import RANDOM, Random

RETRY_TIMEOUT_S = 60.0
REACH_TIMEOUT_S = 20.0
"""A store that has not answered yet may as well have a wrong address: somebody waits to hear of it."""
MAX_PAGE_ENTRIES = 1000
"""What S3 and GCS give in one answer."""
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 5.0

Result = TypeVar("Result")


class Unclear(Exception):
    """The store gave no definite answer: a timeout, a 409, 429 or 5xx, a lost connection."""


class DefiniteStore(ObjectStore):
    """A backend's base: turns single tries, whose answer may be unclear, into definite answers."""

    def __init__(
        self,
        uri: str,
        *,
        clock: Clock = SYSTEM_CLOCK,
        random_: Random = RANDOM,
        retry_timeout_s: float = RETRY_TIMEOUT_S,
    ) -> None:
        self.uri = uri
        self._clock = clock
        self._random = random_
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

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        """See :class:`ObjectStore`."""
        checked_key(key)
        checked_range(start, size_bytes)
        return self._definite(f"read a part of {key}", lambda: self._get_range(key, start, size_bytes))

    def size_bytes(self, key: str) -> int | None:
        """See :class:`ObjectStore`."""
        checked_key(key)
        return self._definite(f"look at {key}", lambda: self._size_bytes(key))

    def written_at_ms(self, key: str) -> int | None:
        """See :class:`ObjectStore`."""
        checked_key(key)
        return self._definite(f"look at {key}", lambda: self._written_at_ms(key))

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[ObjectEntry]:
        """See :class:`ObjectStore`."""
        checked_prefix(prefix)
        checked_limit(limit)
        wanted = MAX_PAGE_ENTRIES if limit is None else min(limit, MAX_PAGE_ENTRIES)
        yield from islice(self._pages(prefix, start_after, wanted), limit)

    def _pages(self, prefix: str, start_after: str, wanted: int) -> Iterator[ObjectEntry]:
        while True:
            page = self._definite(
                f"list {prefix}",
                lambda after=start_after: self._list_page(prefix, after, wanted),  # type: ignore[misc]
            )
            yield from page.entries
            if page.resume_after is None:
                return
            start_after = page.resume_after

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

    def check_reachable(self) -> None:
        """See :class:`ObjectStore`."""
        timeout_s = min(self._retry_timeout_s, REACH_TIMEOUT_S)
        try:
            self._until_definite(lambda: self._list_page(VERIFY_PREFIX, "", 1), timeout_s)
        except Unclear as unclear:
            raise StoreUnavailable(
                f"{self.uri} did not answer for {timeout_s:g} s ({unclear}). Nothing was written to it. Check its address and "
                "the network, or start again when the store answers."
            ) from unclear

    # -- for backends: one try each; raise Unclear when there was no definite answer -----------------------------

    @abc.abstractmethod
    def _create(self, key: str, body: bytes) -> bool:
        """Create in one request; False when the object exists."""

    @abc.abstractmethod
    def _get(self, key: str) -> bytes | None: ...

    @abc.abstractmethod
    def _get_range(self, key: str, start: int, size_bytes: int) -> bytes | None: ...

    @abc.abstractmethod
    def _size_bytes(self, key: str) -> int | None: ...

    def _written_at_ms(self, key: str) -> int | None:
        return None

    @abc.abstractmethod
    def _list_page(self, prefix: str, start_after: str, max_entries: int) -> Page:
        """At most ``max_entries``; a page may hold fewer, or none, and yet not be the last one."""

    @abc.abstractmethod
    def _delete(self, keys: list[str]) -> None: ...  # type: ignore[valid-type]

    @abc.abstractmethod
    def _publish(self, staged: StagedObject) -> bool: ...

    @abc.abstractmethod
    def _discard(self, staged: StagedObject) -> None: ...

    def _definite(self, what: str, attempt: Callable[[], Result]) -> Result:
        """The definite answer.

        Raises:
            StoreUnavailable: there was none in time.
        """
        try:
            return self._until_definite(attempt, self._retry_timeout_s)
        except Unclear as unclear:
            raise self._unavailable(what, unclear) from unclear

    def _until_definite(self, attempt: Callable[[], Result], timeout_s: float) -> Result:
        """Try until the answer is definite, with growing, jittered pauses; Unclear when time is up."""
        patience = Patience(
            self._clock,
            timeout_s=timeout_s,
            first_pause_s=BACKOFF_FIRST_S,
            max_pause_s=BACKOFF_MAX_S,
            random_=self._random,
        )
        while True:
            try:
                return attempt()
            except Unclear:
                if patience.is_over:
                    raise
            patience.wait()

    def _unavailable(self, what: str, unclear: Unclear) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.uri} gave no definite answer to: {what}, for {self._retry_timeout_s:g} s ({unclear}). "
            "Nothing is lost: start again when the store answers."
        )


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a listing. It goes on behind ``resume_after``; None says that this was the last one."""

    entries: list[ObjectEntry]
    resume_after: str | None = None
