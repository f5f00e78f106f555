"""Retention: deleting what every stream has finished with, as far as ids, claims and the end of the log do not need it.

1. *How far*: the least of all readers, and of what the id window needs, down to the begin of a segment.
2. *Intent.* It is put, for streams that start now: none begins below it.
3. *Second look* at the readers. A stream holds before it looks at intents, so one of the two sees the other.
4. *Floor.* It is put: the partition begins there.
5. *Delete* the segments below it, other than claims and the newest segment.

Any number may sweep at once. A crash after each step leaves a log that is kept longer; the next sweep goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.readers import ReaderRecord, all_readers
from beam_exactly_once.wal.sealed import corrupt
from beam_exactly_once.wal.segments import SegmentHeader

_DELETED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: where the partition begins, and how many segments and id pages were deleted."""

    floor: int
    segments: int = 0
    pages: int = 0


class Sweeper:
    """Sweeps a log again and again. It remembers claims that it has met, so it reads each only once."""

    def __init__(self, location: WalLocation) -> None:
        self._location = location
        self._claims: dict[int, dict[int, int | None]] = {}

    def sweep(self, partition: int) -> Swept:
        """Sweep one partition. A log that nobody reads is kept.

        Raises:
            CorruptObject: an object cannot be read, or the chain of claims is broken. Nothing of the partition was deleted.
            StoreUnavailable: no definite answer in time.
        """
        location = self._location
        newest, before = location.newest(partition), location.floor(partition)
        if newest is None:
            return Swept(before)
        readers = self._readers()
        least = _least(readers, partition)
        if least is None:
            return Swept(before)
        cut = self._cut(partition, newest, least)
        claims = self._claims_of(partition, newest, down_to=before)
        if cut > before:
            location.put_intent(partition, cut)
            if not self._is_still_free(partition, cut):
                return Swept(before)
            location.put_floor(partition, cut)
        floor = max(before, cut)
        segments = self._delete_segments(partition, claims, before, floor)
        location.store.delete([key for reader in readers for key in reader.older])
        self._delete_older(location.names.sweeps(partition))
        self._delete_older(location.names.floors(partition))
        self._delete_older(location.names.wishes(partition))
        return Swept(floor, segments, self._delete_pages(partition, newest))

    def _readers(self) -> list[ReaderRecord]:
        return all_readers(self._location)

    def _cut(self, partition: int, newest: SegmentHeader, least: int) -> int:
        """Where a segment begins, below which nothing is needed; 0 if there is none."""
        cut = min(least, self._ids_kept_from(partition, newest), newest.base)
        holding = self._location.base_at(partition, cut)
        return 0 if holding is None else holding

    def _ids_kept_from(self, partition: int, newest: SegmentHeader) -> int:
        """Ids below are in pages, or further than the window from the end."""
        return max(self._location.newest_page_stop(partition), newest.stop - newest.id_window)

    def _is_still_free(self, partition: int, cut: int) -> bool:
        least = _least(self._readers(), partition)
        return least is not None and least >= cut

    def _claims_of(self, partition: int, newest: SegmentHeader, down_to: int) -> dict[int, int | None]:
        """Where claims are, all of those at and above an offset, each with the one before it."""
        known = self._claims.setdefault(partition, {})
        at: int | None = newest.claim
        while at is not None and at >= down_to:
            if at in known:
                at = known[at]
                continue
            header = self._location.header(partition, at)
            if header is None or not header.is_claim:
                raise corrupt(
                    f"partition {partition} of {self._location.store.uri}",
                    f"lacks the claim at offset {at} that a later one names: without the chain of claims none can be told from "
                    "what may be deleted",
                )
            known[at] = header.previous_claim
        return known

    def _delete_segments(self, partition: int, claims: dict[int, int | None], before: int, floor: int) -> int:
        """Below ``before`` is only what an earlier sweep did not come to, or what was put late; that is looked at one by one."""

        def is_claim(base: int) -> bool:
            if base in claims or base >= before:
                return base in claims
            header = self._location.header(partition, base)
            if header is not None and header.is_claim:
                claims[base] = header.previous_claim
            return base in claims

        return self._delete(
            partition, (base for base in self._location.bases_below(partition, floor) if not is_claim(base))
        )

    def _delete(self, partition: int, bases: Iterator[int]) -> int:
        count = 0
        while some := list(islice(bases, _DELETED_AT_ONCE)):
            self._location.delete_segments(partition, some)
            count += len(some)
        return count

    def _delete_pages(self, partition: int, newest: SegmentHeader) -> int:
        """Pages of offsets that are out of the window; the newest one says how far retention may go."""
        needed_from = newest.stop - newest.id_window
        old = [stop for stop in self._location.page_stops(partition)[1:] if stop < needed_from]
        self._location.delete_pages(partition, old)
        return len(old)

    def _delete_older(self, prefix: str) -> None:
        self._location.store.delete([entry.key for entry in self._location.store.list(prefix)][1:])


def _least(readers: list[ReaderRecord], partition: int) -> int | None:
    """What all that hold something have finished with; None: nobody reads."""
    return min((one.next_offset(partition) for one in readers if not one.is_released), default=None)
