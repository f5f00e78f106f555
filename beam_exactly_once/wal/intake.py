"""Requests on their way into the log: which of their records are new, and what each of them waits for. Pure.

A request is a list of records that its sender wants durable together. Its new records go into one *batch*, which becomes one
segment; those whose id is under way already wait for the batch that holds them. The request is settled when *all* these batches
are, and fails if one does: its answer speaks of every record. All methods are for one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from beam_exactly_once.errors import BeamExactlyOnceError, IdReused, StoreUnavailable, UnfitRow
from beam_exactly_once.wal.ids import NO_ID, IdWindow
from beam_exactly_once.wal.new_records import NewRecords
from beam_exactly_once.wal.segments import MAX_PAYLOAD_BYTES, MAX_SEGMENT_RECORDS, size_bytes

MAX_PENDING_BYTES = 64 << 20
"""What may wait in memory. More is refused, so that a sender who is faster than the store learns of it."""


@dataclass(eq=False)
class Batch:
    """Records that become one segment, and the requests that wait for it."""

    records: NewRecords = field(default_factory=NewRecords)
    ids: set[bytes] = field(default_factory=set)
    """All that are there."""
    places: dict[bytes, int] = field(default_factory=dict)
    """Of ids; the others are found when they are asked for, which few are."""
    placed: int = 0
    """So many records at the beginning are among the places."""
    size_bytes: int = 0
    waiting: dict[Request, int] = field(default_factory=dict)
    """Of each request the least of its records' places in the batch."""
    began: int = 0
    """In ticks of the intake."""
    gave_up: BeamExactlyOnceError | None = None
    """It has waited too long. It stays on its way, but nobody waits for it any more."""

    def has_room(self, count: int, size: int) -> bool:
        """Whether a segment takes so many records more."""
        return (
            self.gave_up is None
            and len(self.records) + count <= MAX_SEGMENT_RECORDS
            and self.size_bytes + size <= MAX_PAYLOAD_BYTES
        )

    def add(self, records: NewRecords, size: int) -> None:
        """Put records behind those that are there."""
        self.ids.update(records.ids)
        self.ids.discard(NO_ID)
        self.records.add(records)
        self.size_bytes += size

    def place_of(self, record_id: bytes) -> int | None:
        """The place of its record, if it is there."""
        if record_id not in self.ids:
            return None
        if self.placed < len(self.records):
            self.places.update(zip(self.records.ids[self.placed :], count(self.placed), strict=False))
            self.placed = len(self.records)
        return self.places[record_id]

    def let_wait(self, request: Request, place: int) -> None:
        """A record of the request is at this place."""
        self.waiting[request] = min(place, self.waiting.get(request, place))
        request.waits_for.add(self)


def _nobody_waits() -> None:
    pass


@dataclass(eq=False)
class Request:
    """What became of a request. ``offset`` is the least of its records' offsets."""

    records: int
    duplicates: int = 0
    offset: int | None = None
    error: BeamExactlyOnceError | None = None
    waits_for: set[Batch] = field(default_factory=set)
    on_settled: Callable[[], None] = _nobody_waits

    @property
    def is_settled(self) -> bool:
        """Whether the answer is known: all of it is in the log, or an error."""
        return self.error is not None or not self.waits_for

    def settled(self) -> None:
        """Say so, once. What waited is let go at once: a cycle would hold a body until the garbage collector comes."""
        on_settled, self.on_settled = self.on_settled, _nobody_waits
        on_settled()

    def found_at(self, offset: int) -> None:
        """One of its records is at this offset."""
        self.offset = offset if self.offset is None else min(offset, self.offset)


class Intake:
    """Requests, and the batches that hold their records.

    Args:
        window: the ids of records that are in the log.
        max_pending_bytes: what may wait.
    """

    def __init__(self, window: IdWindow, max_pending_bytes: int = MAX_PENDING_BYTES) -> None:
        self._window = window
        self._max_pending_bytes = max_pending_bytes
        self.pending_bytes = 0
        """Of records that wait for the store."""
        self._open: deque[Batch] = deque()
        self._taken: Batch | None = None
        self._ticks = 0

    def __bool__(self) -> bool:
        """Whether records wait for a segment of theirs."""
        return bool(self._open)

    @property
    def is_full(self) -> bool:
        """Whether the next batch takes no more, so that there is nothing to wait for."""
        return len(self._open) > 1

    def offer(self, records: NewRecords) -> Request:
        """Take a request, or nothing of it.

        Raises:
            IdReused: an id is known with another value.
            UnfitRow: it is larger than a segment.
            StoreUnavailable: too much waits already.
        """
        known = [] if self._are_new(records.ids) else self._known(records)
        new = records.at(sorted({*range(len(records))} - {*known})) if known else records
        size = size_bytes(new)
        if len(new) > MAX_SEGMENT_RECORDS or size > MAX_PAYLOAD_BYTES:
            raise UnfitRow(
                f"a request of {len(new)} records and {size} bytes is larger than a segment of the log, which takes "
                f"{MAX_SEGMENT_RECORDS} records and {MAX_PAYLOAD_BYTES} bytes. Nothing of it was taken: send it in parts."
            )
        if self.pending_bytes and self.pending_bytes + size > self._max_pending_bytes:
            raise StoreUnavailable(
                f"{self.pending_bytes} bytes wait for the store of the log already. Nothing of this request was taken: send it "
                "again later."
            )
        request = Request(len(records), len(known))
        for place in known:
            self._wait_for_known(request, records.ids[place])
        if new:
            self._add(request, new, size)
        return request

    def take(self) -> Batch:
        """The batch whose turn it is. It takes no more records."""
        self._taken = self._open.popleft()
        return self._taken

    def landed(self, batch: Batch, base: int) -> None:
        """A batch is in the log, from this offset on; its ids are in the window."""
        self._forget(batch)
        for request, place in batch.waiting.items():
            was_settled = request.is_settled
            request.found_at(base + place)
            request.waits_for.discard(batch)
            if request.is_settled and not was_settled:
                request.settled()

    def give_up(self, ticks: int, error: BeamExactlyOnceError) -> None:
        """Time goes on by a tick. Requests that wait for a batch which is so many old are told that nobody knows."""
        self._ticks += 1
        for batch in self._under_way():
            if batch.gave_up is None and self._ticks - batch.began >= ticks:
                batch.gave_up = error
                self._settle(batch, error)

    def fail(self, batch: Batch, error: BeamExactlyOnceError) -> None:
        """A batch will not be waited for: it is not in the log, or nobody knows."""
        self._forget(batch)
        self._settle(batch, error)

    def _settle(self, batch: Batch, error: BeamExactlyOnceError) -> None:
        for request in batch.waiting:
            was_settled, request.error = request.is_settled, request.error or error
            if not was_settled:
                request.settled()

    def _known(self, records: NewRecords) -> list[int]:
        """Places of records that are known, under way or twice in the request."""
        known = []
        own: dict[bytes, bytes] = {}
        for place, (record_id, content) in enumerate(zip(records.ids, records.contents, strict=True)):
            if record_id == NO_ID:
                continue
            found = own.get(record_id) or self._content_of(record_id)
            if found is None:
                own[record_id] = content
            elif found == content:
                known.append(place)
            else:
                raise IdReused(
                    "the id of a record is known with another value: this is another record. Nothing of this request was taken. "
                    "Way out: give each record an id of its own, and send it again with the same value only."
                )
        return known

    def _are_new(self, ids: list[bytes]) -> bool:
        """Whether no id is known, under way or there twice; how it is nearly always, without a look at each."""
        different = set(ids)
        if different == {NO_ID}:
            return True
        return (
            len(different) == len(ids)
            and all(batch.ids.isdisjoint(different) for batch in self._under_way())
            and self._window.knows_none_of(ids)
        )

    def _under_way(self) -> list[Batch]:
        """Batches that are not in the log yet, or whose end nobody knows."""
        return [*self._open] if self._taken is None else [self._taken, *self._open]

    def _content_of(self, record_id: bytes) -> bytes | None:
        for batch in self._under_way():
            place = batch.place_of(record_id)
            if place is not None:
                return batch.records.contents[place]
        in_log = self._window.get(record_id)
        return None if in_log is None else in_log.content

    def _wait_for_known(self, request: Request, record_id: bytes) -> None:
        in_log = self._window.get(record_id)
        if in_log is not None:
            request.found_at(in_log.offset)
            return
        for batch in self._under_way():  # else it is twice in this request, which waits for the first
            place = batch.place_of(record_id)
            if place is not None:
                batch.let_wait(request, place)
                request.error = request.error or batch.gave_up

    def _add(self, request: Request, new: NewRecords, size: int) -> None:
        if not self._open or not self._open[-1].has_room(len(new), size):
            self._open.append(Batch(began=self._ticks))
        batch = self._open[-1]
        batch.let_wait(request, len(batch.records))
        batch.add(new, size)
        self.pending_bytes += size

    def _forget(self, batch: Batch) -> None:
        self._taken = None if self._taken is batch else self._taken
        self.pending_bytes -= batch.size_bytes
