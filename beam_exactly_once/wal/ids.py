"""The ids of records: as they are stored, and those that a partition knows. Pure.

A record whose sender tries again is recognised by its id as long as it is among the last ``id_window`` offsets. With each id
goes a digest of the value: an id that comes back with other content is an error of its sender, never a duplicate.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, count
from typing import NamedTuple

import numpy as np
import xxhash

ID_BYTES, CONTENT_BYTES = 16, 8
NO_ID, NO_CONTENT = bytes(ID_BYTES), bytes(CONTENT_BYTES)
"""Of a record that came without an id."""
MAX_SENT_BYTES = 1024
"""The longest id that a sender may give."""

_OFFSET = struct.Struct("<Q")
_KNOWN = np.dtype([("id", f"V{ID_BYTES}"), ("content", f"V{CONTENT_BYTES}")])
_ENTRY = np.dtype([("known", f"V{_KNOWN.itemsize}"), ("offset", "<u8")])
_KNOWN_ID = struct.Struct(f"<{ID_BYTES}s{CONTENT_BYTES}sQ")
_ID_OF_ENTRY = struct.Struct(f"<{ID_BYTES}s{CONTENT_BYTES + _OFFSET.size}x")
ENTRY_BYTES = _KNOWN_ID.size
"""Of an *entry*: an id, the digest of its value, its offset. Entries stand one behind the other, and rise by offset."""
_STRETCH_BYTES = 16_384 * ENTRY_BYTES
"""A stretch takes entries until it has so many: a look passes them all, and the oldest is kept as a whole."""


class KnownId(NamedTuple):
    """A record with an id, in the log."""

    record_id: bytes
    content: bytes
    offset: int


def compound_id(kind: bytes, *parts: bytes) -> bytes:
    """One id of several parts, such as a tenant, a request's id and a line's number: equal only if all of them are.

    Args:
        kind: one byte that says what the parts are; ids of two kinds are never equal.
        parts: of any bytes; each goes in with its length, so that no two lists of parts run together.
    """
    if len(kind) != 1:
        raise ValueError(f"the kind of an id is one byte, not {kind!r}")
    return kind + b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def stored_id(log_id: str, sent: bytes) -> bytes:
    """An id as it is stored. A collision would lose a record, so it is a digest that nobody can forge."""
    return hashlib.blake2b(log_id.encode() + b"/" + sent, digest_size=ID_BYTES).digest()


def line_ids(log_id: str, sent: bytes, count: int) -> list[bytes]:
    """The ids of the lines of a request as they are stored: each 16 bytes of one digest that has no end, and cannot be forged."""
    digest = hashlib.shake_128(log_id.encode() + b"/" + sent).digest(count * ID_BYTES)
    return [*_so_many_ids(count).unpack(digest)]


@lru_cache(maxsize=16)
def _so_many_ids(count: int) -> struct.Struct:
    return struct.Struct(f"{ID_BYTES}s" * count)


def content_of(value: bytes) -> bytes:
    """The digest of a value that is stored with the id. Who makes two values of one digest deceives nobody but himself."""
    return xxhash.xxh3_64_digest(value)


class IdWindow:
    """The ids of the last ``size`` offsets of a partition that are durable.

    One thread adds; others may look at the same time, since each look is one operation of a set, and so is each change. Where an
    id is, which few ask for, is found in what was copied in one operation, too.

    Args:
        size: number of offsets.
        known: entries of them, the oldest first.
    """

    def __init__(self, size: int, known: Iterable[bytes] = ()) -> None:
        self.size = size
        self._ids: set[bytes] = set()
        self._stretches: deque[_Stretch] = deque()
        """The oldest first."""
        self._forgotten = 0
        """So many entries at the beginning are out of the window."""
        self._has_repeats = False
        for entries in known:
            self._add(entries)

    def __len__(self) -> int:
        """Number of ids."""
        return len(self._ids)

    def get(self, record_id: bytes) -> KnownId | None:
        """The record with this id, if it is known."""
        if record_id not in self._ids:
            return None
        newest_first = reversed([*self._stretches])
        return next((found for one in newest_first if (found := one.get(record_id)) is not None), None)

    def knows_none_of(self, ids: Iterable[bytes]) -> bool:
        """Whether all of these ids are new."""
        return self._ids.isdisjoint(ids)

    def move(self, end: int, new: bytes, ids: Iterable[bytes] | None = None) -> None:
        """Take new entries, and forget the ids that are further than the window from ``end``.

        Args:
            end: of the log.
            new: the entries.
            ids: theirs, if they are at hand: to make them anew, with their hashes, costs more than to take them.
        """
        self._add(new, ids)
        first = end - self.size
        while self._stretches:
            entries = self._stretches[0].entries
            stop = entries_below(entries, first)
            self._forget(entries[self._forgotten * ENTRY_BYTES : stop * ENTRY_BYTES], first)
            self._forgotten = stop
            if stop * ENTRY_BYTES < len(entries):
                return
            self._stretches.popleft()
            self._forgotten = 0

    def _add(self, entries: bytes, ids: Iterable[bytes] | None = None) -> None:
        if not entries:
            return
        if not self._stretches or len(self._stretches[-1].entries) >= _STRETCH_BYTES:
            self._stretches.append(_Stretch())
        self._stretches[-1].entries += entries
        expected = len(self._ids) + len(entries) // ENTRY_BYTES
        self._ids.update(_ids_of(entries) if ids is None else ids)
        # An id that was out of an older, shorter window may be met twice: the newer counts.
        self._has_repeats |= len(self._ids) < expected

    def _forget(self, entries: bytearray, first: int) -> None:
        gone = _ids_of(entries)
        if self._has_repeats:
            found = [(one, self.get(one)) for one in gone]
            gone = iter([one for one, known in found if known is not None and known.offset < first])
        self._ids.difference_update(gone)


class _Stretch:
    """Entries, and where each id is among them: found out when it is asked for, and once. So who asks for all of a million ids
    pays as much for each as if it had been noted when it came.
    """

    def __init__(self) -> None:
        self.entries = bytearray()
        self._places: dict[bytes, int] = {}
        self._placed = 0
        """So many entries at the beginning are among the places."""

    def get(self, record_id: bytes) -> KnownId | None:
        placed = self._placed
        new = bytes(self.entries[placed * ENTRY_BYTES :])  # a copy: the other thread may add meanwhile
        if new:
            self._places.update(zip(_ids_of(new), count(placed), strict=False))
            self._placed = placed + len(new) // ENTRY_BYTES  # two threads that do the same do it twice, and no harm
        place = self._places.get(record_id)
        return None if place is None else KnownId(*_KNOWN_ID.unpack_from(self.entries, place * ENTRY_BYTES))


def _ids_of(entries: bytes | bytearray) -> Iterator[bytes]:
    return chain.from_iterable(_ID_OF_ENTRY.iter_unpack(entries))


def ids_block(ids: Sequence[bytes], contents: Sequence[bytes]) -> bytes:
    """Ids and digests of neighbours, as a segment holds them."""
    block = np.empty(len(ids), _KNOWN)
    block["id"] = np.frombuffer(b"".join(ids), _KNOWN["id"])
    block["content"] = np.frombuffer(b"".join(contents), _KNOWN["content"])
    return block.tobytes()


def entries_of(base: int, ids: Sequence[bytes], contents: Sequence[bytes]) -> bytes:
    """The entries of neighbours, the first of which is at offset ``base``; those without an id have none."""
    return entries_in(base, ids_block(ids, contents))


def entries_in(base: int, block: bytes | memoryview) -> bytes:
    """The entries of a segment that begins at ``base``, and holds this block."""
    known = np.frombuffer(block, _ENTRY["known"])
    entries = np.empty(len(known), _ENTRY)
    entries["known"] = known
    entries["offset"] = np.arange(base, base + len(known))
    halves = np.frombuffer(block, np.uint64).reshape(-1, _KNOWN.itemsize // 8)  # of the id, then the digest
    has_id = (halves[:, 0] | halves[:, 1]) != 0
    return entries.tobytes() if has_id.all() else entries[has_id].tobytes()


def entries_below(entries: bytes | bytearray, offset: int) -> int:
    """How many of these entries are of offsets below ``offset``."""

    def offset_of(number: int) -> int:
        found: int = _OFFSET.unpack_from(entries, (number + 1) * ENTRY_BYTES - _OFFSET.size)[0]
        return found

    return bisect_left(range(len(entries) // ENTRY_BYTES), offset, key=offset_of)
