"""A receiver is killed before and after every single call to its store, also with that call carried out later, by a store that
takes its time. Its successor goes on, and what was answered is there once, what was not is there once after it was sent again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest

from beam_exactly_once.object_store.definite import Page
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.wal.ids import content_of, stored_id
from beam_exactly_once.wal.intake import Intake
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.log import WalLog
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter
from beam_exactly_once.wal.readers import WalReader
from beam_exactly_once.wal.sweeping import Sweeper

VALUES = [b"%d" % number for number in range(6)]
READ_BEFORE = 3
WAL = TopicPartition("wal", 0)


class Killed(BaseException):
    """The process is gone."""


class KillingStore(MemoryStore):
    """Kills at its n-th call: before it, after it, or before it with the call under way."""

    def __init__(self, uri: str, at: int, how: str) -> None:
        super().__init__(uri)
        self.calls = 0
        self.late: Callable[[], Any] = lambda: None
        self._at = at
        self._how = how

    def _call(self, carry_out: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls != self._at:
            return carry_out()
        if self._how == "after":
            carry_out()
        if self._how == "late":
            self.late = carry_out
        raise Killed

    def _create(self, key: str, body: bytes) -> bool:
        return bool(self._call(lambda: MemoryStore._create(self, key, body)))

    def _get(self, key: str) -> bytes | None:
        found: bytes | None = self._call(lambda: MemoryStore._get(self, key))
        return found

    def _get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        found: bytes | None = self._call(lambda: MemoryStore._get_range(self, key, start, size_bytes))
        return found

    def _list_page(self, prefix: str, start_after: str, max_entries: int) -> Page:
        page: Page = self._call(lambda: MemoryStore._list_page(self, prefix, start_after, max_entries))
        return page

    def _delete(self, keys: list[str]) -> None:
        self._call(lambda: MemoryStore._delete(self, keys))


class SmallPages(PartitionWriter):
    page_offsets = 2


def receive(store: MemoryStore, unanswered: list[bytes], answered: list[bytes], read: list[bytes | None]) -> None:
    """One life: claims, takes what was not answered one by one; a stream reads in the middle, and the log is swept."""
    location = WalLocation.create(store)
    reader = WalReader(location, "stream", "source")
    reader.hold()
    writer = SmallPages(location, 0, owner="test", id_window=100)
    writer.claim()
    intake = Intake(writer.window)
    for value in list(unanswered):
        record = NewRecord(value, 1, stored_id(location.log_id, value), content_of(value), value)
        request = intake.offer(NewRecords.of([record]))
        if intake:
            batch = intake.take()
            writer.begin(batch.records)
            intake.landed(batch, writer.put())
        assert request.is_settled
        unanswered.remove(value)
        answered.append(value)
        writer.put_page()
        if len(answered) == READ_BEFORE:
            read_on(store, reader, read)
            Sweeper(location).sweep(0)


def read_on(store: MemoryStore, reader: WalReader, read: list[bytes | None]) -> None:
    """A batch: what a stream keeps in its checkpoint is ``read``; the offsets are found again by what was read."""
    log = WalLog(store, "wal")
    bounds = log.bounds([WAL])[WAL]
    position, found = bounds.earliest, []
    while position < bounds.latest:
        chunk = log.next_chunk(WAL, position, bounds.latest)
        found += [one.value for one in chunk.records()]
        position = chunk.stop
    read += [value for value in found if value not in read or found.count(value) > 1]
    reader.finished(len(read), {0: bounds.latest})


def calls_of_a_life() -> int:
    store = KillingStore(f"memory://{secrets.token_hex(8)}", 0, "")
    receive(store, list(VALUES), [], [])
    return store.calls


@pytest.mark.parametrize("how", ["before", "after", "late"])
def test_killed_at_every_call(how: str) -> None:
    calls = calls_of_a_life()
    assert calls > 40
    for at in range(1, calls + 1):
        uri = f"memory://{secrets.token_hex(8)}"
        store = KillingStore(uri, at, how)
        unanswered, answered, read = list(VALUES), list[bytes](), list[bytes | None]()
        with pytest.raises(Killed):
            receive(store, unanswered, answered, read)
        seen_before = list(answered)
        calm = MemoryStore(uri)
        receive(calm, unanswered, answered, read)
        store.late()  # whatever was under way reaches the store now
        receive(calm, unanswered, answered, read)
        read_on(calm, WalReader(WalLocation.on(calm), "stream", "source"), read)

        assert sorted(one or b"" for one in read) == VALUES, (how, at, seen_before, read)
