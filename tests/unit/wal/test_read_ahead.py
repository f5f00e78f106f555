"""Reading a log ahead: what is given stays the same, nothing else is asked for, and no more than the bounds is held."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from beam_exactly_once.errors import DataLoss, StoreUnavailable
from beam_exactly_once.object_store import ObjectEntry
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.per_process import PerProcess
from beam_exactly_once.wal import read_ahead
from beam_exactly_once.wal.layout import number_in
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.log import WalLog
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter

WAL = TopicPartition("wal", 0)
END = 13
"""Of a claim and twelve segments of one record."""


class Job(Future[Any]):
    """Done when somebody waits for it, or when the test says so."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def run(self) -> None:
        if not self.done() and self.set_running_or_notify_cancel():
            try:
                self.set_result(self._work())
            except StoreUnavailable as error:
                self.set_exception(error)

    def result(self, timeout: float | None = None) -> Any:
        self.run()
        return super().result(timeout)


class Threads:
    """Threads that do nothing by themselves."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Job:
        self.jobs.append(Job(lambda: function(*arguments)))
        return self.jobs[-1]

    def run(self) -> None:
        for job in self.jobs:
            job.run()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    ours = Threads()
    monkeypatch.setattr(read_ahead, "_threads", PerProcess(lambda name: ours))
    return ours


class Store(MemoryStore):
    """Notes which segments were asked for, and how often it listed; some segments cannot be had."""

    def __init__(self) -> None:
        super().__init__(f"memory://{secrets.token_hex(8)}")
        self.asked: list[int] = []
        self.listed = 0
        self.away: set[int] = set()
        self.lists = True

    def get(self, key: str) -> bytes | None:
        if key.endswith(".seg"):
            self.asked.append(number_in(key))
            if self.asked[-1] in self.away:
                raise StoreUnavailable("no answer")
        return super().get(key)

    def list(self, *arguments: Any, **named: Any) -> Iterator[ObjectEntry]:
        self.listed += 1
        if not self.lists:
            raise StoreUnavailable("no answer")
        return super().list(*arguments, **named)


@pytest.fixture
def store() -> Store:
    return Store()


def fill(store: Store, counts: list[int], size_bytes: int = 1) -> list[int]:
    """Segments with so many records each; 0 is a claim. Where they begin."""
    writer = PartitionWriter(WalLocation.create(store), 0, owner="test", id_window=0)
    bases, base = [], 0
    for number, count in enumerate([0, *counts]):
        if count:
            writer.begin(NewRecords.of([NewRecord(b"%0*d" % (size_bytes, number), 1)] * count))
            writer.put()
        else:
            writer = PartitionWriter(WalLocation.create(store), 0, owner="test", id_window=0)
            writer.claim()
        bases.append(base)
        base += count or 1
    store.asked.clear()
    return bases


def read(log: WalLog, start: int, stop: int, between: Callable[[], None] = lambda: None) -> list[tuple[int, Any]]:
    found = []
    while start < stop:
        chunk = log.next_chunk(WAL, start, stop, max_records=40)
        found += [(one.offset, one.value) for one in chunk.records()]
        start = chunk.stop
        between()
    return found


def test_a_listing_that_fails_is_a_hint_less(store: Store, threads: Threads) -> None:
    fill(store, [30] * 12)
    ahead = WalLog(store, "wal", reads_ahead=True)

    def fail_from_now_on() -> None:
        store.lists = False
        threads.run()

    assert [offset for offset, _ in read(ahead, 0, 361, fail_from_now_on)] == list(range(1, 361))
    assert any(job.exception() for job in threads.jobs)


def test_ranges_are_given_as_without_it_and_no_segment_is_asked_for_twice(store: Store, threads: Threads) -> None:
    """Of all lengths, one after the other by one reader; threads are done at any time."""
    seed = 55
    print(f"seed {seed}")
    chance = random.Random(seed)
    bases = fill(store, [chance.choice([0, 1, 1, 3, 30, 200]) for _ in range(150)])
    end = WalLog(store, "wal").bounds([WAL])[WAL].latest
    ahead = WalLog(store, "wal", reads_ahead=True)

    def some_are_done() -> None:
        for job in chance.sample(threads.jobs, min(3, len(threads.jobs))):
            job.run()

    for _ in range(12):
        start = chance.randrange(end)
        stop = chance.choice([end, min(end, start + chance.randrange(1, 2000))])
        expected = read(WalLog(store, "wal"), start, stop)
        store.asked.clear()
        assert read(ahead, start, stop, some_are_done) == expected
        first, *others = [base for base in bases if base < stop][sum(base <= start for base in bases) - 1 :]
        assert sorted(set(store.asked) - {start, first}) == others, "it may have the first one from the range before"
        assert len(set(store.asked)) == len(store.asked)
    assert len(threads.jobs) > 100, "nothing was read ahead"


def begun(log: WalLog, threads: Threads) -> int:
    """A claim and two segments are read, and those that follow are known and asked for. Where to read on."""
    position = log.next_chunk(WAL, 0, END, max_records=1).stop
    threads.run()
    return log.next_chunk(WAL, position, END, max_records=1).stop


@pytest.mark.parametrize(("max_bytes", "ahead"), [(1 << 20, read_ahead.MAX_AHEAD), (170_000, 3), (10, 1)])
def test_no_more_is_ahead_than_the_bounds_say(
    store: Store, threads: Threads, monkeypatch: pytest.MonkeyPatch, max_bytes: int, ahead: int
) -> None:
    monkeypatch.setattr(read_ahead, "MAX_AHEAD_BYTES", max_bytes)
    bases = fill(store, [1] * 12, size_bytes=50_000)
    log = WalLog(store, "wal", reads_ahead=True)
    position = begun(log, threads)
    while position < END:
        threads.run()
        assert len(store.asked) == min(position + ahead, END)
        position = log.next_chunk(WAL, position, END, max_records=1).stop
    assert sorted(store.asked) == bases


def test_a_range_that_ends_with_the_next_segment_is_not_listed(store: Store, threads: Threads) -> None:
    fill(store, [5, 5, 5])
    log = WalLog(store, "wal", reads_ahead=True)
    log.bounds([WAL])
    read(log, 1, 6)
    store.listed = 0
    assert len(read(log, 6, 16)) == 10
    assert (store.listed, threads.jobs) == (0, [])


def test_a_segment_that_cannot_be_had_fails_where_it_is_needed(store: Store, threads: Threads) -> None:
    store.away = {fill(store, [1] * 12)[7]}
    log = WalLog(store, "wal", reads_ahead=True)
    position = begun(log, threads)
    while position < 7:
        threads.run()
        position = log.next_chunk(WAL, position, END, max_records=1).stop
    with pytest.raises(StoreUnavailable, match="no answer"):
        log.next_chunk(WAL, position, END, max_records=1)
    store.away.clear()
    assert len(read(log, 7, END)) == END - 7


def test_what_was_swept_meanwhile_is_lost_as_without_it(store: Store, threads: Threads) -> None:
    fill(store, [1] * 12)
    log = WalLog(store, "wal", reads_ahead=True)
    position = begun(log, threads)
    location = WalLocation.on(store)
    location.put_floor(0, 10)
    location.delete_segments(0, range(1, 10))
    with pytest.raises(DataLoss, match=rf"holds \[10, 13\), not offset {position}"):
        read(log, position, END)


def test_a_forked_child_asks_for_itself(store: Store, threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its parent asked for never comes there."""
    fill(store, [1] * 12)
    log = WalLog(store, "wal", reads_ahead=True)
    position, inherited = begun(log, threads), list(threads.jobs)
    of_child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: of_child)
    assert [offset for offset, _ in read(log, position, END)] == list(range(position, END))
    assert [job.done() for job in inherited] == [True] + [False] * read_ahead.MAX_AHEAD


def test_a_reader_that_is_closed_takes_back_what_it_asked_for(store: Store, threads: Threads) -> None:
    fill(store, [1] * 12)
    log = WalLog(store, "wal", reads_ahead=True)
    begun(log, threads)
    log.close()
    assert [job.cancelled() for job in threads.jobs] == [False] + [True] * read_ahead.MAX_AHEAD
