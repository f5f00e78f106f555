"""Histories of the write-ahead log that chance does not find: each is sound, and is not if one rule is left out."""

from __future__ import annotations

import pytest

from beam_exactly_once.errors import ConfigurationError, CorruptObject, DataLoss, Fenced
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.log import WalLog
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter
from beam_exactly_once.wal.readers import ReaderRecord, WalReader
from beam_exactly_once.wal.segments import SegmentHeader
from beam_exactly_once.wal.sweeping import Sweeper
from support.simulation.wal_directed import WAL, Log, SmallPages, Writer, outcome

# -- claims ------------------------------------------------------------------------------------------------------------


class ClaimNotProved(SmallPages):
    def _is_proved(self, claim: SegmentHeader) -> bool:
        return True


class NeverClaimed(AssertionError):
    pass


class DeafToWishes(SmallPages):
    def is_asked_for_room(self) -> bool:
        return False


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


def a_claim_beside_a_busy_writer(writer: Writer) -> list[bytes | None]:
    """Before each claim of the newer writer the older one puts a segment, unless it was asked for room."""
    log = Log(writer)
    old = log.claimed()
    values = iter([b"%d" % number for number in range(50)])

    def be_first() -> None:
        if not old.is_asked_for_room():
            if (value := next(values, None)) is None:
                raise NeverClaimed
            log.put(old, value)
            log.store.before("create", "log/", be_first)

    log.store.before("create", "log/", be_first)
    new = log.claimed()
    with pytest.raises(Fenced):
        log.put(old, b"never answered")
    log.put(new, b"new")
    log.read_on()
    return log.read


def a_writer_wakes_after_its_successor_was_swept(sweeper: type[Sweeper]) -> list[bytes | None]:
    """It froze with a segment under way. The claim that fences it is long below the floor."""
    log = Log(sweeper=sweeper)
    old = log.claimed()
    log.put(old, b"0")
    old.begin(NewRecords.of([NewRecord(b"never answered", 1)]))
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


def test_a_busy_writer_makes_room_for_a_claim_that_always_comes_late() -> None:
    assert outcome(lambda: a_claim_beside_a_busy_writer(SmallPages)) == [b"0", b"1", b"2", b"3", b"new"]
    assert isinstance(outcome(lambda: a_claim_beside_a_busy_writer(DeafToWishes)), NeverClaimed)


def test_room_is_made_once_for_each_wish() -> None:
    log = Log()
    writer = log.claimed()
    log.put(writer, b"0")
    log.location.put_wish(0, 1)

    assert [writer.is_asked_for_room() for _ in range(2)] == [True, False]
    assert not log.claimed().is_asked_for_room()  # it was of one that is fenced


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

    old.begin(NewRecords.of([NewRecord(b"late", 1)]))
    old.put()

    assert not log.location.is_current()
    assert WalLog(log.store, "wal").bounds([WAL])[WAL].latest == 1
