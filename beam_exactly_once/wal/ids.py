"""The ids of records: as they are stored, and those that a partition knows. Pure.

A record whose sender tries again is recognised by its id as long as it is among the last ``id_window`` offsets. With each id
goes a digest of the value: an id that comes back with other content is an error of its sender, never a duplicate.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, repeat
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
_ID_AND_REST = struct.Struct(f"<{ID_BYTES}s{CONTENT_BYTES + _OFFSET.size}s")
_ID_OF_ENTRY = struct.Struct(f"<{ID_BYTES}s{CONTENT_BYTES + _OFFSET.size}x")
ENTRY_BYTES = _ID_AND_REST.size
"""Of an *entry*: an id, the digest of its value, its offset. Entries stand one behind the other, and rise by offset."""
_MIN_BLOCK_BYTES = 1000 * ENTRY_BYTES


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

    One thread adds; others may look at the same time, since each look is one operation of a dict, and so is each change.

    Args:
        size: number of offsets.
        known: entries of them, the oldest first.
    """

    def __init__(self, size: int, known: Iterable[bytes] = ()) -> None:
        self.size = size
        # One value of bytes for digest and offset: a million tuples would be a million objects more for the garbage collector.
        self._packed: dict[bytes, bytes] = {}
        self._in_order: deque[bytearray] = deque()
        """Entries, the oldest first. A dict finds its first key only by passing all that were deleted before it."""
        self._forgotten = 0
        """So many entries at the beginning are out of the window."""
        self._has_repeats = False
        for entries in known:
            self._add(entries)

    def __len__(self) -> int:
        """Number of ids."""
        return len(self._packed)

    def get(self, record_id: bytes) -> KnownId | None:
        """The record with this id, if it is known."""
        packed = self._packed.get(record_id)
        if packed is None:
            return None
        return KnownId(record_id, packed[:CONTENT_BYTES], _OFFSET.unpack_from(packed, CONTENT_BYTES)[0])

    def knows_none_of(self, ids: Iterable[bytes]) -> bool:
        """Whether all of these ids are new."""
        return self._packed.keys().isdisjoint(ids)

    def move(self, end: int, new: bytes) -> None:
        """Take new entries, and forget the ids that are further than the window from ``end``."""
        self._add(new)
        first = end - self.size
        while self._in_order:
            entries = self._in_order[0]
            stop = entries_below(entries, first)
            self._forget(entries[self._forgotten * ENTRY_BYTES : stop * ENTRY_BYTES], first)
            self._forgotten = stop
            if stop * ENTRY_BYTES < len(entries):
                return
            self._in_order.popleft()
            self._forgotten = 0

    def _add(self, entries: bytes) -> None:
        if not entries:
            return
        expected = len(self._packed) + len(entries) // ENTRY_BYTES
        self._packed.update(_ID_AND_REST.iter_unpack(entries))
        # An id that was out of an older, shorter window may be met twice: the newer counts.
        self._has_repeats |= len(self._packed) < expected
        if self._in_order and len(self._in_order[-1]) < _MIN_BLOCK_BYTES:
            self._in_order[-1] += entries
        else:
            self._in_order.append(bytearray(entries))

    def _forget(self, entries: bytearray, first: int) -> None:
        gone: Iterable[bytes] = chain.from_iterable(_ID_OF_ENTRY.iter_unpack(entries))
        if self._has_repeats:
            found = [(one, self.get(one)) for one in gone]
            gone = [one for one, known in found if known is not None and known.offset < first]
        deque(map(self._packed.pop, gone, repeat(None)), maxlen=0)


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
