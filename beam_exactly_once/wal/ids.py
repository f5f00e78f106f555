"""The ids of records: as they are stored, and those that a partition knows. Pure.

A record whose sender tries again is recognised by its id as long as it is among the last ``id_window`` offsets. With each id
goes a digest of the value: an id that comes back with other content is an error of its sender, never a duplicate.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from operator import add
from typing import NamedTuple

ID_BYTES, CONTENT_BYTES = 16, 8
NO_ID, NO_CONTENT = bytes(ID_BYTES), bytes(CONTENT_BYTES)
"""Of a record that came without an id."""
MAX_SENT_BYTES = 1024
"""The longest id that a sender may give."""

_OFFSET = struct.Struct("<Q")
_ENTRY = struct.Struct(f"<{ID_BYTES}s{CONTENT_BYTES}sQ")
ENTRY_BYTES = _ENTRY.size


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
    return [digest[start : start + ID_BYTES] for start in range(0, len(digest), ID_BYTES)]


def content_of(value: bytes) -> bytes:
    """The digest of a value that is stored with the id."""
    return hashlib.blake2b(value, digest_size=CONTENT_BYTES).digest()


class IdWindow:
    """The ids of the last ``size`` offsets of a partition that are durable, the oldest first.

    One thread adds; others may look at the same time, since each look is one operation of a dict.
    """

    def __init__(self, size: int, known: Iterable[KnownId] = ()) -> None:
        self.size = size
        self._packed: dict[bytes, bytes] = {}
        self._in_order: deque[bytes] = deque()
        """The oldest first. A dict finds its first key only by passing all that were deleted before it."""
        self._add_all(list(known))

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

    def move(self, end: int, new: Iterable[KnownId]) -> None:
        """Take new ids, in order of their offsets, and forget those that are further than the window from ``end``."""
        self._add_all(list(new))
        packed, in_order, first = self._packed, self._in_order, end - self.size
        while in_order and _OFFSET.unpack_from(packed[in_order[0]], CONTENT_BYTES)[0] < first:
            del packed[in_order.popleft()]

    def _add_all(self, new: list[KnownId]) -> None:
        ids = [one.record_id for one in new]
        if len(set(ids)) < len(ids) or not self.knows_none_of(ids):
            for one in new:
                self._add(one)
            return
        self._in_order.extend(ids)
        offsets = map(_OFFSET.pack, (one.offset for one in new))
        self._packed.update(zip(ids, map(add, (one.content for one in new), offsets), strict=True))

    def _add(self, one: KnownId) -> None:
        # One value of bytes for both: a million tuples would be a million objects more for the garbage collector.
        if (
            one.record_id not in self._packed
        ):  # one that was out of an older, shorter window may be met twice: the newer counts
            self._in_order.append(one.record_id)
        self._packed[one.record_id] = one.content + _OFFSET.pack(one.offset)


def known_ids(base: int, ids_block: bytes | memoryview) -> Iterator[KnownId]:
    """The ids of a segment that begins at ``base``."""
    each = ID_BYTES + CONTENT_BYTES
    for number in range(len(ids_block) // each):
        record_id = bytes(ids_block[number * each : number * each + ID_BYTES])
        if record_id != NO_ID:
            yield KnownId(record_id, bytes(ids_block[number * each + ID_BYTES : (number + 1) * each]), base + number)


def packed_entries(known: Iterable[KnownId]) -> bytes:
    """Ids as an id page has them."""
    return b"".join(_ENTRY.pack(*one) for one in known)


def unpacked_entries(block: bytes | memoryview) -> list[KnownId]:
    """The inverse of :func:`packed_entries`.

    Raises:
        ValueError: the block is not whole.
    """
    if len(block) % ENTRY_BYTES:
        raise ValueError(f"{len(block)} bytes are not a whole number of ids")
    return [KnownId(*fields) for fields in _ENTRY.iter_unpack(block)]
