"""Which records the readers of this process are giving out: where the step that failed behind one of them stood.

Steps that are fused behind a reader run while it gives out a record, and their exceptions do not pass through it. So it notes
the chunk, and how far it is given out is asked of the iterator: records cost nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import length_hint

from beam_exactly_once.logs.records import Chunk
from beam_exactly_once.offsets import OffsetRange

_AT_HAND: dict[int, tuple[Chunk, Callable[[], int] | None]] = {}
"""By reader: its chunk, and what tells which of its records was given out last.

Not by a weak reference: a runner may drop the reader of a bundle that failed before anybody asks where it stood.
"""


def record_by_record(reader: object, chunk: Chunk) -> Iterator[int]:
    """Note that ``reader`` gives out the records of ``chunk``, one for each offset that is taken from the result."""
    offsets = iter(chunk.columns.offsets)
    _AT_HAND[id(reader)] = chunk, lambda: max(0, len(chunk) - length_hint(offsets) - 1)
    return offsets


def in_lists(reader: object, chunk: Chunk) -> Callable[[Callable[[], int]], None]:
    """Note that ``reader`` gives out the records of ``chunk`` in lists, at once.

    Returns:
        To be called by whoever goes through such a list, with what tells which record of the chunk is at hand.
    """
    as_a_whole(reader, chunk)
    return partial(_go_through, id(reader), chunk)


def _go_through(reader: int, chunk: Chunk, which: Callable[[], int]) -> None:
    _AT_HAND[reader] = chunk, which


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


def _given_out(chunk: Chunk, which: Callable[[], int] | None) -> OffsetRange:
    if which is None:
        return OffsetRange(chunk.topic, chunk.partition, chunk.start, chunk.stop)
    offset = chunk.columns.offsets[which()]
    return OffsetRange(chunk.topic, chunk.partition, offset, offset + 1)
