"""Which records the readers of this process are giving out: where the step that failed behind one of them stood.

Steps that are fused behind a reader run while it gives out a record, and their exceptions do not pass through it. So it notes
the chunk, and how far it is given out is asked of the iterator: records cost nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import length_hint

from beam_exactly_once.logs.records import Chunk
from beam_exactly_once.offsets import OffsetRange

_AT_HAND: dict[int, tuple[Chunk, Iterator[int] | None]] = {}
"""By reader: its chunk, and the iterator over the offsets of single records.

Not by a weak reference: a runner may drop the reader of a bundle that failed before anybody asks where it stood.
"""


def record_by_record(reader: object, chunk: Chunk) -> Iterator[int]:
    """Note that ``reader`` gives out the records of ``chunk``, one for each offset that is taken from the result."""
    offsets = iter(chunk.columns.offsets)
    _AT_HAND[id(reader)] = chunk, offsets
    return offsets


def as_a_whole(reader: object, chunk: Chunk) -> None:
    """Note that ``reader`` gives out all records of ``chunk`` at once."""
    _AT_HAND[id(reader)] = chunk, None


def all_given_out(reader: object) -> None:
    """Note that nothing behind ``reader`` has failed."""
    _AT_HAND.pop(id(reader), None)


def take_at_hand(of: Iterable[OffsetRange]) -> list[OffsetRange]:
    """What readers of these ranges were giving out and did not end: the record, or the chunk. Forgets it."""
    left = []
    for reader, (chunk, _) in list(_AT_HAND.items()):
        if any(_is_of(chunk, one) for one in of):
            found = _AT_HAND.pop(reader, None)  # a reader in another thread may have ended meanwhile
            left += [] if found is None else [_given_out(*found)]
    return sorted(left)


def _is_of(chunk: Chunk, planned: OffsetRange) -> bool:
    same = (chunk.topic, chunk.partition) == (planned.topic, planned.partition)
    return same and planned.start <= chunk.start < planned.stop


def _given_out(chunk: Chunk, offsets: Iterator[int] | None) -> OffsetRange:
    if offsets is None:
        return OffsetRange(chunk.topic, chunk.partition, chunk.start, chunk.stop)
    last = max(0, len(chunk) - length_hint(offsets) - 1)
    offset = chunk.columns.offsets[last]
    return OffsetRange(chunk.topic, chunk.partition, offset, offset + 1)
