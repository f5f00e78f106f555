"""A write-ahead log in one thread, with a stream that reads it, and a store that lets others go first at a chosen call."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeAlias

from beam_exactly_once.errors import BeamExactlyOnceError, DataLoss
from beam_exactly_once.object_store.definite import Page
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.wal.ids import NO_CONTENT, NO_ID, content_of, stored_id
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.log import WalLog
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter
from beam_exactly_once.wal.readers import WalReader
from beam_exactly_once.wal.sweeping import Sweeper

WAL = TopicPartition("wal", 0)
Writer: TypeAlias = type[PartitionWriter]


class SmallPages(PartitionWriter):
    page_offsets = 6


class PausingStore(MemoryStore):
    """Does something once, before a chosen call."""

    def __init__(self) -> None:
        super().__init__(f"memory://{secrets.token_hex(8)}")
        self.pauses: list[tuple[str, str, Callable[[], None]]] = []

    def before(self, method: str, prefix: str, act: Callable[[], None]) -> None:
        self.pauses.append((method, prefix, act))

    def _reach(self, method: str, key: str) -> None:
        for pause in self.pauses:
            if pause[0] == method and key.startswith(pause[1]):
                self.pauses.remove(pause)
                pause[2]()
                return

    def _create(self, key: str, body: bytes) -> bool:
        self._reach("create", key)
        return super()._create(key, body)

    def _get(self, key: str) -> bytes | None:
        self._reach("get", key)
        return super()._get(key)

    def _list_page(self, prefix: str, start_after: str, max_entries: int) -> Page:
        found = super()._list_page(prefix, start_after, max_entries)
        self._reach("listed", prefix)
        return found


class Log:
    """A log, one stream that reads it, and all in one thread."""

    def __init__(self, writer: Writer = SmallPages, sweeper: type[Sweeper] = Sweeper, id_window: int = 0) -> None:
        self.store = PausingStore()
        self.location = WalLocation.create(self.store)
        self.sweeper = sweeper(self.location)
        self.reader = WalReader(self.location, "stream", "source")
        self.reader.hold()
        self.read: list[bytes | None] = []
        self._writer = writer
        self._id_window = id_window
        self._next = 0
        self._batches = 0

    def new_writer(self) -> PartitionWriter:
        return self._writer(self.location, 0, owner="test", id_window=self._id_window)

    def claimed(self) -> PartitionWriter:
        writer = self.new_writer()
        writer.claim()
        return writer

    def put(self, writer: PartitionWriter, value: bytes, *, with_id: bool = False) -> None:
        """As a receiver does: a duplicate is answered, and not put."""
        record_id = stored_id(self.location.log_id, value) if with_id else NO_ID
        if with_id and writer.window.get(record_id) is not None:
            return
        content = content_of(value) if with_id else NO_CONTENT
        writer.begin(NewRecords.of([NewRecord(value, 1, record_id, content, value)]))
        writer.put()
        writer.put_page()

    def read_on(self) -> None:
        """A batch of all that is there, committed and released."""
        log = WalLog(self.store, "wal")
        bounds = log.bounds([WAL])[WAL]
        if bounds.earliest > self._next:
            raise DataLoss(f"the log begins at {bounds.earliest}, above {self._next}")
        while self._next < bounds.latest:
            chunk = log.next_chunk(WAL, self._next, bounds.latest)
            self.read += [one.value for one in chunk.records()]
            self._next = chunk.stop
        self.reader.finished(self._batches, {0: self._next})
        self._batches += 1

    def sweep(self) -> None:
        self.sweeper.sweep(0)


def outcome(history: Callable[[], list[bytes | None]]) -> object:
    """What a stream has read in the end, or why it could not."""
    try:
        return history()
    except (BeamExactlyOnceError, AssertionError, ValueError) as error:
        return error
