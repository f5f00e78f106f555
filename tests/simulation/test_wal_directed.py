"""Histories of the write-ahead log that chance does not find: each is sound, and is not if one rule is left out."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest

from beam_exactly_once.errors import BeamExactlyOnceError, ConfigurationError, CorruptObject, DataLoss, Fenced
from beam_exactly_once.object_store.definite import Page
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.wal.ids import NO_CONTENT, NO_ID, KnownId, content_of, stored_id
from beam_exactly_once.wal.location import IdPage, WalLocation
from beam_exactly_once.wal.log import WalLog
from beam_exactly_once.wal.partition_writer import PartitionWriter
from beam_exactly_once.wal.readers import ReaderRecord, WalReader
from beam_exactly_once.wal.recovered_ids import RecoveredIds
from beam_exactly_once.wal.segments import NewRecord, SegmentHeader
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
        writer.begin([NewRecord(value, 1, record_id, content_of(value) if with_id else NO_CONTENT, value)])
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


# -- claims ------------------------------------------------------------------------------------------------------------


class ClaimNotProved(SmallPages):
    def _is_proved(self, claim: SegmentHeader) -> bool:
        return True


class ClaimsDeleted(Sweeper):
    def _delete_segments(self, partition: int, claims: dict[int, int | None], before: int, floor: int) -> int:
        return self._delete(partition, self._location.bases_below(partition, floor))


class NewestDeleted(Sweeper):
    def _cut(self, partition: int, newest: SegmentHeader, least: int) -> int:
        return min(least, newest.stop)


class EndNotChecked(SmallPages):
    """Does not see that the log has lost its end."""

    def _claim_once(self) -> SegmentHeader | None:
        floor, self._location.floor = self._location.floor, lambda _: 0  # type: ignore[method-assign]
        try:
            return super()._claim_once()
        finally:
            self._location.floor = floor  # type: ignore[method-assign]


def a_claim_lands_late(writer: Writer) -> list[bytes | None]:
    """It finds the end, and freezes. The older writer goes on, all is read and swept, and the claim lands on a dead offset."""
    log = Log(writer)
    old = log.claimed()

    def meanwhile() -> None:
        for number in range(4):
            log.put(old, b"%d" % number)
        log.read_on()
        log.sweep()

    log.store.before("create", "log/", meanwhile)
    new = log.claimed()
    log.put(new, b"4")
    log.put(new, b"5")
    log.read_on()
    return log.read


def a_writer_wakes_after_its_successor_was_swept(sweeper: type[Sweeper]) -> list[bytes | None]:
    """It froze with a segment under way. The claim that fences it is long below the floor."""
    log = Log(sweeper=sweeper)
    old = log.claimed()
    log.put(old, b"0")
    old.begin([NewRecord(b"never answered", 1)])
    new = log.claimed()
    for number in range(1, 4):
        log.put(new, b"%d" % number)
    log.read_on()
    log.sweep()
    with pytest.raises(Fenced):
        old.put()
    log.read_on()
    return log.read


def all_is_read_and_swept_before_a_start(sweeper: type[Sweeper], writer: Writer) -> list[bytes | None]:
    """The end of the log rests on its newest segment: without it, offsets would be given again."""
    log = Log(writer, sweeper)
    old = log.claimed()
    log.put(old, b"0")
    log.put(old, b"1")
    log.read_on()
    log.sweep()
    new = log.claimed()
    log.put(new, b"2")
    log.read_on()
    return log.read


def test_a_claim_that_lands_late_is_no_claim() -> None:
    assert outcome(lambda: a_claim_lands_late(SmallPages)) == [b"%d" % number for number in range(6)]
    assert outcome(lambda: a_claim_lands_late(ClaimNotProved)) != [b"%d" % number for number in range(6)]


def test_a_claim_fences_for_ever() -> None:
    expected = [b"%d" % number for number in range(4)]
    assert outcome(lambda: a_writer_wakes_after_its_successor_was_swept(Sweeper)) == expected
    with pytest.raises(
        pytest.fail.Exception, match="DID NOT RAISE"
    ):  # its late record would be answered, and never read
        a_writer_wakes_after_its_successor_was_swept(ClaimsDeleted)


def test_offsets_are_never_given_twice() -> None:
    assert all_is_read_and_swept_before_a_start(Sweeper, SmallPages) == [b"0", b"1", b"2"]
    assert isinstance(outcome(lambda: all_is_read_and_swept_before_a_start(NewestDeleted, SmallPages)), CorruptObject)
    assert outcome(lambda: all_is_read_and_swept_before_a_start(NewestDeleted, EndNotChecked)) != [b"0", b"1", b"2"]


def test_a_broken_chain_of_claims_stops_the_sweep() -> None:
    log = Log()
    for number in range(3):
        log.put(log.claimed(), b"%d" % number)
    log.read_on()
    log.location.delete_segments(0, [2])
    before = [entry.key for entry in log.store.list("log/")]

    with pytest.raises(CorruptObject, match="lacks the claim at offset 2"):
        log.sweep()

    assert [entry.key for entry in log.store.list("log/")] == before
    assert log.location.floor(0) == 0


# -- ids ---------------------------------------------------------------------------------------------------------------


class WindowIgnored(Sweeper):
    def _ids_kept_from(self, partition: int, newest: SegmentHeader) -> int:
        return newest.stop


class HoleIgnored(SmallPages):
    """Takes what it finds of the ids for all there are."""

    def _recover_ids(self, claim: SegmentHeader) -> RecoveredIds:
        found: list[KnownId] = []
        stops = self._location.page_stops(self.partition)
        position = claim.base
        while position > (stops[0] if stops else 0):
            base = self._location.base_at(self.partition, position - 1)
            ids = None if base is None else self._location.ids_of(self.partition, base)
            if ids is None or ids[0].stop != position:
                break
            found, position = ids[1] + found, ids[0].base
        for stop in stops:
            page = self._location.page(self.partition, stop)
            found = [*(page.known if page else ()), *found]
        return RecoveredIds(found, claim.base, [])


class PagesIgnored(HoleIgnored):
    def _recover_ids(self, claim: SegmentHeader) -> RecoveredIds:
        location, self._location = self._location, _WithoutPages(self._location.store, self._location.log_id)
        try:
            return super()._recover_ids(claim)
        finally:
            self._location = location


class _WithoutPages(WalLocation):
    def page_stops(self, partition: int) -> list[int]:
        return []


class PageOfWhatIsUnderWay(SmallPages):
    def begin(self, records: Sequence[NewRecord]) -> None:
        ids = [KnownId(one.record_id, one.content, self.end - 1) for one in records if one.record_id != NO_ID]
        known = [*self._unpaged, *ids]
        self._location.put_page(self.partition, IdPage(self._page_start, self.end, known))
        super().begin(records)


def a_record_comes_again_after_a_sweep(writer: Writer, sweeper: type[Sweeper], others: int) -> list[bytes | None]:
    """Its answer was lost. It was read and swept, and the receiver started anew."""
    log = Log(writer, sweeper, id_window=20)
    old = log.claimed()
    log.put(old, b"again", with_id=True)
    for number in range(others):
        log.put(old, b"%d" % number)
    log.read_on()
    log.sweep()
    log.put(log.claimed(), b"again", with_id=True)
    log.read_on()
    return log.read


def a_page_comes_late(writer: Writer) -> list[bytes | None]:
    """The new writer has claimed, and listed the pages: none. Then that of the old writer lands, and retention goes over it."""
    log = Log(writer, id_window=40)
    old = log.claimed()
    log.put(old, b"again", with_id=True)
    old.page_offsets, page_offsets = 100, old.page_offsets
    for number in range(6):
        log.put(old, b"%d" % number)
    old.page_offsets = page_offsets

    def meanwhile() -> None:
        old.put_page()
        log.read_on()
        log.sweep()

    log.store.before("listed", "ids/", meanwhile)
    log.put(log.claimed(), b"again", with_id=True)
    log.read_on()
    return log.read


def a_receiver_dies_with_a_record_under_way(writer: Writer) -> list[bytes | None]:
    """It never reached the log. Its sender tries again, and must not be told that it is there."""
    log = Log(writer, id_window=40)
    old = log.claimed()
    log.put(old, b"0", with_id=True)
    value = b"under way"
    old.begin([NewRecord(value, 1, stored_id(log.location.log_id, value), content_of(value), value)])
    log.claimed()
    log.put(log.claimed(), value, with_id=True)
    log.read_on()
    return log.read


def test_ids_outlive_their_segments() -> None:
    assert a_record_comes_again_after_a_sweep(PartitionWriter, Sweeper, 2) == [
        b"again",
        b"0",
        b"1",
    ]  # none is swept yet
    six = [b"again", *(b"%d" % number for number in range(6))]
    assert a_record_comes_again_after_a_sweep(SmallPages, Sweeper, 6) == six  # by a page
    assert a_record_comes_again_after_a_sweep(PagesIgnored, Sweeper, 6) == [*six, b"again"]


def test_ids_that_retention_took_are_missed() -> None:
    seen = outcome(lambda: a_record_comes_again_after_a_sweep(PartitionWriter, WindowIgnored, 2))
    assert isinstance(seen, CorruptObject)  # the start sees the hole
    assert a_record_comes_again_after_a_sweep(HoleIgnored, WindowIgnored, 2) == [b"again", b"0", b"1", b"again"]


def test_a_page_that_comes_late_is_found() -> None:
    six = [b"again", *(b"%d" % number for number in range(6))]
    assert a_page_comes_late(SmallPages) == six
    assert a_page_comes_late(HoleIgnored) == [*six, b"again"]


def test_a_page_has_ids_of_durable_records_only() -> None:
    assert a_receiver_dies_with_a_record_under_way(SmallPages) == [b"0", b"under way"]
    assert a_receiver_dies_with_a_record_under_way(PageOfWhatIsUnderWay) == [b"0"]


def test_pages_out_of_the_window_are_deleted() -> None:
    log = Log(id_window=10)
    writer = log.claimed()
    for number in range(60):
        log.put(writer, b"%d" % number, with_id=True)
        log.read_on()
        log.sweep()

    stops = log.location.page_stops(0)
    assert len(stops) <= 4
    assert stops[-1] >= writer.end - 10 - SmallPages.page_offsets
    again = log.claimed()
    assert len(again.window) >= 9
    assert len(log.location.store._root.objects) < 40  # type: ignore[attr-defined]


# -- readers -----------------------------------------------------------------------------------------------------------


class UnnamedIsFinished(Sweeper):
    def _readers(self) -> list[ReaderRecord]:
        return [one for one in super()._readers() if 0 in one.next_offsets or one.is_released]


def a_partition_is_newer_than_the_record(sweeper: type[Sweeper]) -> object:
    log = Log(sweeper=sweeper)
    WalReader(log.location, "other", "source").finished(0, {0: 10**6})
    log.reader.finished(0, {1: 5})  # of this stream's oldest retained batch, before partition 0 came
    writer = log.claimed()
    for number in range(4):
        log.put(writer, b"%d" % number)
    log.sweep()
    return outcome(lambda: [log.read_on(), log.read][1])  # type: ignore[func-returns-value, return-value]


def test_a_partition_that_a_record_does_not_name_is_held() -> None:
    assert a_partition_is_newer_than_the_record(Sweeper) == [b"0", b"1", b"2", b"3"]
    assert isinstance(a_partition_is_newer_than_the_record(UnnamedIsFinished), DataLoss)


def test_two_sources_of_one_stream_finish_apart() -> None:
    log = Log()
    slow = WalReader(log.location, "stream", "slow")
    slow.hold()
    writer = log.claimed()
    for number in range(4):
        log.put(writer, b"%d" % number)
    log.read_on()
    log.sweep()
    assert log.location.floor(0) == 0

    slow.finished(0, {0: 3})
    log.sweep()
    assert log.location.floor(0) == 3


def test_a_stream_that_was_released_never_starts_again() -> None:
    log = Log()
    log.reader.release()

    with pytest.raises(ConfigurationError, match=r"was released for source 'source' of stream stream"):
        log.reader.hold()


def test_a_log_that_nobody_reads_is_kept() -> None:
    log = Log()
    writer = log.claimed()
    for number in range(4):
        log.put(writer, b"%d" % number)
    log.reader.release()

    log.sweep()

    assert log.location.floor(0) == 0


# -- another log in the same place -------------------------------------------------------------------------------------


def test_a_writer_cannot_touch_the_log_that_took_the_place_of_its_own() -> None:
    log = Log()
    old = log.claimed()
    log.put(old, b"of the old log")
    log.store.delete([entry.key for entry in log.store.list()])
    new_location = WalLocation.create(log.store)
    new = PartitionWriter(new_location, 0, owner="new", id_window=0)
    new.claim()

    old.begin([NewRecord(b"late", 1)])
    old.put()

    assert not log.location.is_current()
    assert WalLog(log.store, "wal").bounds([WAL])[WAL].latest == 1
