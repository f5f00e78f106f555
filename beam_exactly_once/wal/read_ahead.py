"""Segments that a reader will want next, fetched while it waits for those before, or works on them."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from beam_exactly_once.errors import BeamExactlyOnceError
from beam_exactly_once.per_process import PerProcess
from beam_exactly_once.wal.location import ListedSegment, WalLocation
from beam_exactly_once.wal.segments import Segment, SegmentHeader

MAX_AHEAD = 8
"""Segments that one reader has asked for and not taken yet."""
MAX_AHEAD_BYTES = 16 << 20
"""What they are together; one is always allowed."""
_LISTED_AHEAD = 64
"""Segments that a listing should find, if those to come are as long as the last one."""
_MAX_LISTED = 2 * _LISTED_AHEAD
_MAX_THREADS = 32
"""Of all readers of a process."""

_threads: PerProcess[str, ThreadPoolExecutor] = PerProcess(lambda name: ThreadPoolExecutor(_MAX_THREADS, name))


@dataclass(frozen=True, slots=True)
class _Asked:
    listed: ListedSegment
    answer: Future[bytes | None]


class ReadAhead:
    """Of one reader. It goes by the chain of segments, and asks here for each: what is on its way is not asked for again.

    Listings say which segments come, and are no more than a hint. A range that ends with the next segment costs none.
    """

    def __init__(self, location: WalLocation) -> None:
        self._location = location
        self._begin(partition=-1)

    def segment(self, partition: int, base: int) -> Segment | None:
        """See :meth:`WalLocation.segment`; raises what that raises."""
        is_asked = self._asked and self._asked[0].listed.base == base
        if not is_asked or not self._is_next(partition, base):
            return self._location.segment(partition, base)
        data = self._asked.popleft().answer.result()
        return None if data is None else self._location.segment_of(partition, base, data)

    def go_on(self, partition: int, read: SegmentHeader, stop: int) -> None:
        """Ask for what lies between a segment that was read and ``stop``, where the reader will end."""
        is_other = self._asked and self._asked[0].listed.base != read.stop
        if is_other or not self._is_next(partition, read.base):
            self.close()
            self._begin(partition)
        self._offset = read.stop
        self._note_listed()
        if len(self._known) < MAX_AHEAD:
            self._list(read, stop)
        self._ask(stop)

    def close(self) -> None:
        """Ask for nothing more. What is under way ends by itself."""
        if self._pid == os.getpid():  # else the locks of these are those of another process
            for asked in self._asked:
                asked.answer.cancel()
        self._begin(partition=-1)

    def _begin(self, partition: int) -> None:
        self._pid = os.getpid()
        self._partition, self._offset = partition, -1
        self._listing: Future[list[ListedSegment] | None] | None = None
        self._listed_to = 0
        self._known: deque[ListedSegment] = deque()
        self._asked: deque[_Asked] = deque()

    def _is_next(self, partition: int, base: int) -> bool:
        """Whether the reader goes on where it was. What was asked for before a fork never comes in the child."""
        return (partition, base, os.getpid()) == (self._partition, self._offset, self._pid)

    def _note_listed(self) -> None:
        if self._listing is not None and self._listing.done():
            try:
                found = self._listing.result()
            except BeamExactlyOnceError:
                found = []  # no more than a hint failed: segments are asked for one by one, and say what is wrong
            self._listing = None
            if found is None:  # more than was thought: the next listing is of what comes first
                self._listed_to = 0
            else:
                self._known.extend(found)
        while self._known and self._known[0].base < self._offset:
            self._known.popleft()
        self._listed_to = max(self._listed_to, self._offset)

    def _list(self, read: SegmentHeader, stop: int) -> None:
        is_next_the_last = not self._asked and stop - read.stop <= read.count
        if self._listing is not None or self._listed_to >= stop or is_next_the_last:
            return
        start, self._listed_to = self._listed_to, min(stop, self._listed_to + _LISTED_AHEAD * read.count)
        self._listing = _threads.get("wal-ahead").submit(
            self._location.listed, self._partition, start, self._listed_to, _MAX_LISTED
        )

    def _ask(self, stop: int) -> None:
        size_bytes = sum(one.listed.size_bytes for one in self._asked)
        while self._known and self._known[0].base < stop and len(self._asked) < MAX_AHEAD:
            size_bytes += self._known[0].size_bytes
            if self._asked and size_bytes > MAX_AHEAD_BYTES:
                return
            wanted = self._known.popleft()
            answer = _threads.get("wal-ahead").submit(self._location.segment_data, self._partition, wanted.base)
            self._asked.append(_Asked(wanted, answer))
