"""The ids of the last offsets of a partition, as a new writer finds them: in id pages, and in the segments above them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from beam_exactly_once.errors import Fenced
from beam_exactly_once.object_store.side_by_side import AT_ONCE, side_by_side
from beam_exactly_once.object_store.store_location import is_near
from beam_exactly_once.wal.ids import ENTRY_BYTES, entries_below
from beam_exactly_once.wal.location import IdPage, WalLocation
from beam_exactly_once.wal.sealed import corrupt

MAX_LOOKS = 20
"""A page that comes late while retention goes on makes a look in vain; so many in a row are no such race."""


@dataclass(frozen=True, slots=True)
class RecoveredIds:
    """Entries, in blocks; ``known`` rises by offset. The next page of ids begins at ``page_start``, with ``unpaged``."""

    known: list[bytes]
    page_start: int
    unpaged: list[bytes]


def recover_ids(location: WalLocation, partition: int, end: int, *, required: int, wanted: int) -> RecoveredIds:
    """What is known of the offsets below ``end``.

    Args:
        location: the log.
        partition: which one.
        end: where the claim stands.
        required: down to which offset nothing may be missing.
        wanted: down to which offset the new writer has use for ids.

    Raises:
        Fenced: they are gone, and another writer has claimed the partition.
        CorruptObject: ids that are required are gone.
    """
    for _ in range(MAX_LOOKS):
        found = _look(location, partition, end, required, wanted)
        if found is not None:
            return found
        newest = location.newest(partition)
        if newest is not None and newest.claim != end:  # what is gone is gone from under a successor, by right
            raise Fenced(
                f"partition {partition} of {location.store.uri} was claimed by another writer meanwhile. This one stops."
            )
    raise corrupt(
        f"partition {partition} of {location.store.uri}",
        f"lacks ids of the offsets from {required} to {end}, so records that come again could not be recognised",
    )


def _look(location: WalLocation, partition: int, end: int, required: int, wanted: int) -> RecoveredIds | None:
    """None: there is a hole. A page of the writer before may have come late, and retention gone over what it covers."""
    stops = location.page_stops(partition)  # also those of a successor, which hold older ids as well
    top = stops[0] if stops else 0
    unpaged, position = _from_segments(location, partition, end, max(required, top), max(wanted, top))
    if position is None:
        return None
    paged, position = _from_pages(location, partition, position, stops, wanted)
    return None if position > required else RecoveredIds([*paged, *unpaged], top, unpaged)


def _from_segments(
    location: WalLocation, partition: int, end: int, required: int, wanted: int
) -> tuple[list[bytes], int | None]:
    """Ids of the segments below ``end``, down to ``wanted`` as far as they are there, and to where."""
    found: list[bytes] = []
    position = end
    bases = _bases(location, partition, wanted, end)
    for _, ids in side_by_side(partial(location.ids_of, partition), bases, _at_once(location)):
        if ids is None or ids[0].stop != position:  # that they tile is checked
            break
        found.append(ids[1])
        position = ids[0].base
    return ([], None) if position > max(required, wanted) else (found[::-1], position)


def _bases(location: WalLocation, partition: int, start: int, stop: int) -> Iterator[int]:
    """Where the segments begin that hold the offsets from ``start`` to ``stop``, the newest first."""
    if start < stop:
        for base in location.bases_below(partition, stop):  # one request for a thousand
            yield base
            if base <= start:
                return


def _from_pages(
    location: WalLocation, partition: int, position: int, stops: list[int], wanted: int
) -> tuple[list[bytes], int]:
    """Ids below ``position``, by pages that cover each other's beginnings; and down to where they do."""
    found: list[bytes] = []
    needed = [stop for stop in stops if stop > wanted]
    for stop, page in side_by_side(partial(location.page, partition), needed, _at_once(location)):
        if position <= wanted or stop < position or page is None:
            break
        if page.start < position:
            found.append(_below(page, position))
            position = page.start
    return found[::-1], position


def _at_once(location: WalLocation) -> int:
    return 1 if is_near(location.store.uri) else AT_ONCE


def _below(page: IdPage, position: int) -> bytes:
    return page.entries[: entries_below(page.entries, position) * ENTRY_BYTES]
