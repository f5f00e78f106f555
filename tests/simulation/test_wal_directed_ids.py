"""Histories of ids in the write-ahead log that chance does not find: each is sound, and is not if one rule is left out."""

from __future__ import annotations

from beam_exactly_once.errors import CorruptObject
from beam_exactly_once.wal.ids import content_of, entries_of, stored_id
from beam_exactly_once.wal.location import IdPage, WalLocation
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter
from beam_exactly_once.wal.recovered_ids import RecoveredIds
from beam_exactly_once.wal.segments import SegmentHeader
from beam_exactly_once.wal.sweeping import Sweeper
from support.simulation.wal_directed import Log, SmallPages, Writer, outcome


class WindowIgnored(Sweeper):
    def _ids_kept_from(self, partition: int, newest: SegmentHeader) -> int:
        return newest.stop


class HoleIgnored(SmallPages):
    """Takes what it finds of the ids for all there are."""

    def _recover_ids(self, claim: SegmentHeader) -> RecoveredIds:
        found: list[bytes] = []
        stops = self._location.page_stops(self.partition)
        position = claim.base
        while position > (stops[0] if stops else 0):
            base = self._location.base_at(self.partition, position - 1)
            ids = None if base is None else self._location.ids_of(self.partition, base)
            if ids is None or ids[0].stop != position:
                break
            found, position = [ids[1], *found], ids[0].base
        for stop in stops:
            page = self._location.page(self.partition, stop)
            found = [page.entries if page else b"", *found]
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
    def begin(self, records: NewRecords) -> None:
        entries = b"".join([*self._unpaged, entries_of(self.end - 1, records.ids, records.contents)])
        self._location.put_page(self.partition, IdPage(self._page_start, self.end, entries))
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
    record = NewRecord(value, 1, stored_id(log.location.log_id, value), content_of(value), value)
    old.begin(NewRecords.of([record]))
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
