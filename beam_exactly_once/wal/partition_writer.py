"""Who writes a partition: claims it, knows its ids, and puts one segment after the other.

1. *Claim.* A claim is put where the log ends. The older writer's next segment would have to be there, so it is fenced: at once,
   if it goes on, or whenever it wakes. Claims are never deleted, so its late request is refused for ever.
2. *Prove.* The claim must be the newest segment. A claim that comes late may be put on an offset that retention has emptied
   since; the newest segment is never deleted, so what is newest was never used before.
   Beside an older writer that is busy a claim may come late again and again: then a *wish* is put, which the older one looks
   for now and then, and makes room for by a pause. The wish is a hint: who claims is decided by the claim alone.
3. *Recover ids*, from id pages and from the segments above them, without a hole.
4. *Put.* One segment at a time, at the end. Its bytes stay the same until the store's answer is definite: to send others would
   double its records or lose them, and to go on without an answer would, too.

A crash after each step leaves: a log without a writer, whose older one is fenced (1 to 3); a segment that is there or not, which
whoever claims next finds or shuts out (4).
"""

from __future__ import annotations

from beam_exactly_once.arguments import whole_number
from beam_exactly_once.clock import SYSTEM_CLOCK, Clock, now_ms
from beam_exactly_once.errors import ConfigurationError, Fenced
from beam_exactly_once.object_store import Taken
from beam_exactly_once.wal.ids import ENTRY_BYTES, IdWindow, entries_of
from beam_exactly_once.wal.location import IdPage, WalLocation
from beam_exactly_once.wal.new_records import NewRecords
from beam_exactly_once.wal.recovered_ids import RecoveredIds, recover_ids
from beam_exactly_once.wal.sealed import corrupt
from beam_exactly_once.wal.segments import SegmentHeader, encode_segment

ID_PAGE_OFFSETS = 65_536
"""A page of ids is written when so many offsets are durable since the one before."""
MAX_CLAIMS = 3
"""So often another claim may be first; then somebody else means to write here as well."""
WISH_EVERY = 4
"""After so many claims that records of a busy writer came before, it is asked to make room."""
_MAX_OWNER = 200


class PartitionWriter:
    """The writer of one partition, from :meth:`claim` on until it is fenced.

    Args:
        location: the log.
        partition: which one; it exists from the first claim on.
        owner: who this is, for people.
        id_window: among how many of the last offsets an id is recognised; not below that of an earlier writer.
        clock: tells when the claim was made.
    """

    page_offsets = ID_PAGE_OFFSETS

    def __init__(
        self, location: WalLocation, partition: int, *, owner: str, id_window: int, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        whole_number("partition", partition, least=0, most=10**8 - 1)
        whole_number("id_window", id_window, least=0)
        self.partition = partition
        self.end = 0
        """The offset that comes next."""
        self.window = IdWindow(id_window)
        self._location = location
        self._owner = owner[:_MAX_OWNER]
        self._clock = clock
        self._claim: SegmentHeader
        self._rising_ms = 0
        self._heeded = 0
        self._page_start = 0
        self._unpaged: list[bytes] = []
        self._pending: tuple[NewRecords, bytes] | None = None

    # -- claim ---------------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Become the writer: steps 1 to 3.

        Raises:
            Fenced: others claim it at the same time, again and again.
            ConfigurationError: an earlier writer had a longer id window.
            CorruptObject: the log has lost its end, or ids of the window.
            StoreUnavailable: no definite answer in time. A claim that lands later does no harm.
        """
        claimed = None
        for _ in range(MAX_CLAIMS):
            claimed = self._claim_once()
            if claimed is not None:
                break
        if claimed is None:
            raise Fenced(
                f"partition {self.partition} of {self._location.store.uri} was claimed by others {MAX_CLAIMS} times while this "
                "writer tried. Stop all but one of them."
            )
        self._claim, self._rising_ms, self.end = claimed, claimed.rising_ms, claimed.stop
        self._heeded = claimed.base
        found = self._recover_ids(claimed)
        self.window = IdWindow(self.window.size, found.known)
        self._page_start, self._unpaged = found.page_start, found.unpaged

    def _claim_once(self) -> SegmentHeader | None:
        """The proved claim; None: another one was first."""
        while True:
            before = self._last_segment()
            for _ in range(WISH_EVERY):
                claim = self._new_claim(before)
                written = self._location.put_segment(
                    self.partition, claim.base, encode_segment(self._location.log_id, claim)
                )
                if not isinstance(written, Taken):
                    return claim if self._is_proved(claim) else None
                before = self._location.taken_by(self.partition, claim.base, written)
                if before.is_claim:
                    return None
            self._location.put_wish(self.partition, claim.base)  # and see where the end is: it may be far by now

    def _last_segment(self) -> SegmentHeader | None:
        """The end of the log; None: the partition is empty, and exists from now on."""
        floor = self._location.floor(self.partition)  # first: what is newest later is never below it
        newest = self._location.newest(self.partition)
        if (newest is None and floor) or (newest is not None and newest.stop < floor):
            where = f"partition {self.partition} of {self._location.store.uri}"
            raise corrupt(
                where, f"begins at offset {floor}, but its newest segment is gone, so offsets would be given twice"
            )
        if newest is None:
            self._location.create_partition(self.partition)
        return newest

    def _new_claim(self, before: SegmentHeader | None) -> SegmentHeader:
        if before is not None and before.id_window > self.window.size:
            raise ConfigurationError(
                f"id_window={self.window.size}: partition {self.partition} of {self._location.store.uri} has had an id window of "
                f"{before.id_window} offsets, and senders may count on it. It can only grow: give at least that."
            )
        base = 0 if before is None else before.stop
        return SegmentHeader(
            kind="claim",
            partition=self.partition,
            base=base,
            count=1,
            claim=base,
            rising_ms=0 if before is None else before.rising_ms,
            id_window=self.window.size,
            ids_from=0 if before is None else max(before.ids_from, base - before.id_window),
            previous_claim=None if before is None else before.claim,
            owner=self._owner,
            claimed_at_ms=now_ms(self._clock),
        )

    def _is_proved(self, claim: SegmentHeader) -> bool:
        return self._location.newest_base(self.partition) == claim.base

    def _recover_ids(self, claim: SegmentHeader) -> RecoveredIds:
        wanted = max(0, claim.base - self.window.size)
        return recover_ids(self._location, self.partition, claim.base, required=claim.ids_from, wanted=wanted)

    @property
    def clock_behind_s(self) -> float:
        """How far the clock was behind the latest arrival time of the log at the claim; 0 if it was not."""
        return max(0, self._claim.rising_ms - self._claim.claimed_at_ms) / 1000

    def is_asked_for_room(self) -> bool:
        """Whether a newer writer has wished to claim since this was last asked, which a pause between two segments lets it do."""
        wish, before = self._location.newest_wish(self.partition), self._heeded
        self._heeded = max(wish, before)
        return wish > before

    # -- segments ------------------------------------------------------------------------------------------------------

    def begin(self, records: NewRecords) -> None:
        """Make the next segment. It is the only one until :meth:`put` has returned.

        Args:
            records: at least one, no more than a segment takes.
        """
        if self._pending is not None:
            raise ValueError("a segment is under way, and whether it is in the log is not known yet")
        self._rising_ms = max(self._rising_ms, max(records.arrived_ms))
        header = SegmentHeader(
            kind="records",
            partition=self.partition,
            base=self.end,
            count=len(records),
            claim=self._claim.base,
            rising_ms=self._rising_ms,
            id_window=self.window.size,
            ids_from=self._claim.ids_from,
        )
        self._pending = records, encode_segment(self._location.log_id, header, records)

    def put(self) -> int:
        """Put the segment that was begun, and return its first offset: its records are in the log.

        After an error that is not ``Fenced`` call it again: it sends the same bytes, whatever became of them before.

        Raises:
            Fenced: another writer has claimed the partition. The segment is not in the log and never will be.
            StoreUnavailable: no definite answer in time. Whether it is in the log is unknown.
            OutputNotWritable, ConfigurationError: the store refuses for now.
        """
        if self._pending is None:
            raise ValueError("no segment was begun")
        records, data = self._pending
        base = self.end
        written = self._location.put_segment(self.partition, base, data)
        if isinstance(written, Taken):
            raise self._fenced(self._location.taken_by(self.partition, base, written))
        self._pending = None
        self._advance(records)
        return base

    def _advance(self, records: NewRecords) -> None:
        base, self.end = self.end, self.end + len(records)
        new = entries_of(base, records.ids, records.contents)
        have_all_ids = len(new) == len(records) * ENTRY_BYTES
        self.window.move(self.end, new, records.ids if have_all_ids else None)
        self._unpaged.append(new)

    def _fenced(self, other: SegmentHeader) -> Fenced:
        return Fenced(
            f"partition {self.partition} of {self._location.store.uri} was claimed by {other.owner or 'another writer'} at "
            f"offset {other.base}. This writer stops; what it has not answered may be sent again, to the other one."
        )

    # -- id pages ------------------------------------------------------------------------------------------------------

    def put_page(self) -> None:
        """Copy the ids of a stretch that is durable into a page, if one is due: retention may go further, and claims are faster.

        Raises:
            StoreUnavailable: no definite answer in time. The next page begins where this one would have.
        """
        if self.end - self._page_start >= self.page_offsets:
            self._location.put_page(self.partition, IdPage(self._page_start, self.end, b"".join(self._unpaged)))
            self._page_start, self._unpaged = self.end, []
