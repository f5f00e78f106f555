"""Typed, checked reads and put-if-absent of what is in a write-ahead log. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock, now_ms
from beam_exactly_once.errors import UnknownTopic
from beam_exactly_once.object_store import ObjectStore, PutResult, Taken
from beam_exactly_once.randomness import new_token
from beam_exactly_once.wal.ids import ENTRY_BYTES
from beam_exactly_once.wal.layout import WAL, Names, number_in
from beam_exactly_once.wal.sealed import MAX_HEADER_BYTES, Json, blocks_of, corrupt, seal, unseal, with_header
from beam_exactly_once.wal.segments import (
    Segment,
    SegmentHeader,
    decode_header,
    decode_ids,
    decode_segment,
    ids_span,
)

_IDS_READ_BYTES = 64 << 10
"""The first read of a segment whose ids are wanted: has them all of 2,500 records."""


@dataclass(frozen=True, slots=True)
class IdPage:
    """The ids of the offsets ``[start, stop)``, a copy of what the segments of that stretch say."""

    start: int
    stop: int
    entries: bytes


class ListedSegment(NamedTuple):
    """What a listing tells of a segment."""

    base: int
    size_bytes: int


class WalLocation:
    """One log on a store, by its id."""

    def __init__(self, store: ObjectStore, log_id: str) -> None:
        self.store = store
        self.log_id = log_id
        self.names = Names(log_id)

    @classmethod
    def on(cls, store: ObjectStore) -> WalLocation:
        """The log that is there.

        Raises:
            UnknownTopic: there is none.
            CorruptObject, NewerFormat: its ``wal.json`` cannot be read.
        """
        data = store.get(WAL)
        if data is None:
            raise UnknownTopic(
                f"{store.uri} holds no write-ahead log. Start what writes to it first, or correct the location."
            )
        return cls(store, _log_id_in(data, store))

    @classmethod
    def create(cls, store: ObjectStore, clock: Clock = SYSTEM_CLOCK) -> WalLocation:
        """The log that is there, or a new one. Who loses the race to make it takes that of the winner."""
        data = store.get(WAL)
        if data is None:
            data = seal("wal", "", {"log_id": new_token(16), "created_at_ms": now_ms(clock)})
            written = store.put_if_absent(WAL, data)
            data = written.body if isinstance(written, Taken) else data
        return cls(store, _log_id_in(data, store))

    def is_current(self) -> bool:
        """Whether the location still holds this log, and not one that was made after it was wiped."""
        data = self.store.get(WAL)
        return data is not None and _log_id_in(data, self.store) == self.log_id

    # -- partitions ----------------------------------------------------------------------------------------------------

    def create_partition(self, partition: int) -> None:
        """Let a partition exist."""
        self.store.put_if_absent(
            self.names.partition(partition), seal("partition", self.log_id, {"partition": partition})
        )

    def partitions(self) -> list[int]:
        """Those that exist, sorted."""
        prefix = self.names.partitions
        return sorted(int(entry.key.removeprefix(prefix).partition(".")[0]) for entry in self.store.list(prefix))

    # -- segments ------------------------------------------------------------------------------------------------------

    def newest_base(self, partition: int) -> int | None:
        """Where the newest segment begins; None in an empty partition."""
        return self._first(self.names.segments(partition))

    def newest(self, partition: int) -> SegmentHeader | None:
        """The newest segment; None in an empty partition."""
        while True:
            base = self.newest_base(partition)
            found = None if base is None else self.header(partition, base)
            if base is None or found is not None:
                return found
            # No longer the newest, and swept since: the next look finds a newer one.

    def header(self, partition: int, base: int) -> SegmentHeader | None:
        """That of the segment which begins at ``base``, if there is one."""
        key = self.names.segment(partition, base)
        data = self.store.get_range(key, 0, MAX_HEADER_BYTES)
        return None if data is None else decode_header(data, where=self._where(key), log_id=self.log_id)

    def header_at(self, partition: int, offset: int) -> SegmentHeader | None:
        """That of the newest segment which does not begin above ``offset``, whether it reaches so far or not."""
        base = self.base_at(partition, offset)
        return None if base is None else self.header(partition, base)

    def base_at(self, partition: int, offset: int) -> int | None:
        """Where the newest segment begins that does not begin above ``offset``."""
        return self._first(self.names.segments(partition), self.names.segment(partition, offset + 1))

    def bases_below(self, partition: int, offset: int) -> Iterator[int]:
        """Where the segments begin that do so below ``offset``, the newest first."""
        names = self.names
        for entry in self.store.list(names.segments(partition), names.segment(partition, offset)):
            yield number_in(entry.key)

    def listed(self, partition: int, start: int, stop: int, limit: int) -> list[ListedSegment] | None:
        """The segments that begin in ``[start, stop)``, the oldest first; None where there may be ``limit`` of them or more."""
        names = self.names
        found: list[ListedSegment] = []
        for entry in self.store.list(names.segments(partition), names.segment(partition, stop), limit):
            base = number_in(entry.key)
            if base < start:
                return found[::-1]
            found.append(ListedSegment(base, entry.size_bytes))
        return found[::-1] if len(found) < limit else None

    def segment(self, partition: int, base: int) -> Segment | None:
        """The segment that begins at ``base``, if there is one."""
        data = self.segment_data(partition, base)
        return None if data is None else self.segment_of(partition, base, data)

    def segment_data(self, partition: int, base: int) -> bytes | None:
        """The segment that begins at ``base``, as it is stored, if there is one."""
        return self.store.get(self.names.segment(partition, base))

    def segment_of(self, partition: int, base: int, data: bytes) -> Segment:
        """The segment that begins at ``base``, from what is stored."""
        return decode_segment(data, where=self._where(self.names.segment(partition, base)), log_id=self.log_id)

    def ids_of(self, partition: int, base: int) -> tuple[SegmentHeader, bytes] | None:
        """Header and entries of the segment that begins at ``base``, if there is one."""
        key = self.names.segment(partition, base)
        where = self._where(key)
        data = self.store.get_range(key, 0, _IDS_READ_BYTES)
        if data is None:
            return None
        begin, size = ids_span(data, where=where, log_id=self.log_id)
        if begin + size > len(data):
            more = self.store.get_range(key, len(data), begin + size - len(data))
            if more is None:
                return None
            data += more
        return decode_ids(data, where=where, log_id=self.log_id)

    def put_segment(self, partition: int, base: int, data: bytes) -> PutResult:
        """Create the segment at ``base``, which decides who has these offsets."""
        return self.store.put_if_absent(self.names.segment(partition, base), data)

    def taken_by(self, partition: int, base: int, taken: Taken) -> SegmentHeader:
        """Who has these offsets instead."""
        return decode_header(taken.body, where=self._where(self.names.segment(partition, base)), log_id=self.log_id)

    def delete_segments(self, partition: int, bases: Iterable[int]) -> None:
        """Delete segments by where they begin."""
        self.store.delete([self.names.segment(partition, base) for base in bases])

    def newest_wish(self, partition: int) -> int:
        """At which offset a newer writer last said that it cannot claim; 0 if none did."""
        return self._first(self.names.wishes(partition)) or 0

    def put_wish(self, partition: int, offset: int) -> None:
        """Say that a claim at ``offset`` was beaten by records. Nothing rests on it: who writes may make room, or not."""
        self.store.put_if_absent(self.names.wish(partition, offset), seal("wish", self.log_id, {"offset": offset}))

    # -- id pages ------------------------------------------------------------------------------------------------------

    def page_stops(self, partition: int) -> list[int]:
        """Where the id pages stop, the newest first."""
        return [number_in(entry.key) for entry in self.store.list(self.names.pages(partition))]

    def newest_page_stop(self, partition: int) -> int:
        """Where the newest id page stops; 0 if there is none."""
        return self._first(self.names.pages(partition)) or 0

    def page(self, partition: int, stop: int) -> IdPage | None:
        """The id page that stops there, if there is one."""
        key = self.names.page(partition, stop)
        data = self.store.get(key)
        if data is None:
            return None
        header, block = blocks_of(data, where=self._where(key), log_id=self.log_id)
        try:
            if len(block) % ENTRY_BYTES:
                raise ValueError(f"{len(block)} bytes are not a whole number of ids")
            return IdPage(int(header["start"]), stop, bytes(block))
        except (KeyError, ValueError) as error:
            raise corrupt(self._where(key), f"is not a page of ids ({error})") from None

    def put_page(self, partition: int, page: IdPage) -> None:
        """Create an id page. One that is there says the same of the same offsets: they are durable."""
        header: Json = {"kind": "ids", "log_id": self.log_id, "start": page.start, "stop": page.stop}
        data = with_header(header, page.entries)
        self.store.put_if_absent(self.names.page(partition, page.stop), data)

    def delete_pages(self, partition: int, stops: Iterable[int]) -> None:
        """Delete id pages by where they stop."""
        self.store.delete([self.names.page(partition, stop) for stop in stops])

    # -- retention -----------------------------------------------------------------------------------------------------

    def floor(self, partition: int) -> int:
        """Where the partition begins, as was decided; 0 if nothing was."""
        return self._first(self.names.floors(partition)) or 0

    def intent(self, partition: int) -> int:
        """Below which offset somebody meant to delete; 0 if nobody did."""
        return self._first(self.names.sweeps(partition)) or 0

    def put_floor(self, partition: int, offset: int) -> None:
        """Decide that the partition begins at ``offset``."""
        self.store.put_if_absent(self.names.floor(partition, offset), seal("floor", self.log_id, {"offset": offset}))

    def put_intent(self, partition: int, offset: int) -> None:
        """Say that what is below ``offset`` may be deleted."""
        self.store.put_if_absent(self.names.sweep(partition, offset), seal("sweep", self.log_id, {"offset": offset}))

    def newest_record(self, prefix: str) -> int | None:
        """The greatest number of a reader's records, whose names begin with ``prefix``."""
        return self._first(prefix)

    def put_record(self, key: str, body: Json) -> None:
        """Create a reader's record. One that is there stays: a batch has one outcome."""
        self.store.put_if_absent(key, seal("reader", self.log_id, body))

    def record(self, key: str) -> Json | None:
        """A reader's record, if it is there."""
        data = self.store.get(key)
        return None if data is None else unseal(data, where=self._where(key), kind="reader", log_id=self.log_id)

    def _first(self, prefix: str, start_after: str = "") -> int | None:
        entry = next(self.store.list(prefix, start_after, limit=1), None)
        return None if entry is None else number_in(entry.key)

    def _where(self, key: str) -> str:
        return f"{self.store.uri}/{key}"


def _log_id_in(data: bytes, store: ObjectStore) -> str:
    return str(unseal(data, where=f"{store.uri}/{WAL}", kind="wal", log_id="")["log_id"])
