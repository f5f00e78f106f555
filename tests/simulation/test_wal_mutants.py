"""Each rule of the write-ahead log, left out, is caught: some history loses a record, doubles one, or reads otherwise.

Random histories find most of them. What needs several things to happen in one order has a history of its own, in
``test_wal_directed.py``.
"""

from __future__ import annotations

import pytest

from beam_exactly_once.errors import Fenced
from beam_exactly_once.object_store import Created, PutResult, Taken
from beam_exactly_once.object_store.definite import Unclear
from beam_exactly_once.wal.intake import Intake, Request
from beam_exactly_once.wal.new_records import NewRecords
from beam_exactly_once.wal.readers import WalReader
from beam_exactly_once.wal.recovered_ids import RecoveredIds
from beam_exactly_once.wal.segments import SegmentHeader, encode_segment
from beam_exactly_once.wal.sweeping import Sweeper
from support.simulation.caught import assert_caught
from support.simulation.store import SimulatedStore
from support.simulation.wal_histories import WalHistory, protocol
from support.simulation.wal_scene import Receiver, SmallPages, StreamDriver

# -- claims ------------------------------------------------------------------------------------------------------------


class NoClaim(SmallPages):
    """Goes on where the log ends, under the claim of the writer before."""

    def claim(self) -> None:
        before = self._location.newest(self.partition)
        if before is None:
            super().claim()
            return
        self._claim, self._rising_ms, self.end = before, before.rising_ms, before.stop
        self._claim = SegmentHeader(**{**_fields(before), "base": before.claim, "count": 1, "kind": "claim"})
        found = self._recover_ids(SegmentHeader(**{**_fields(before), "base": before.stop, "count": 1}))
        self.window.move(self.end, b"".join(found.known))
        self._page_start, self._unpaged = found.page_start, found.unpaged


class LoserOfAClaimGoesOn(SmallPages):
    """Takes the claim of another one for its own."""

    def _claim_once(self) -> SegmentHeader | None:
        before = self._location.newest(self.partition)
        claim = self._new_claim(before)
        written = self._location.put_segment(self.partition, claim.base, encode_segment(self._location.log_id, claim))
        if isinstance(written, Taken):
            taken = self._location.taken_by(self.partition, claim.base, written)
            return taken if taken.is_claim else None
        return claim if self._is_proved(claim) else None


class FencedGoesOn(SmallPages):
    """Puts its records behind the claim of its successor."""

    def put(self) -> int:
        while True:
            try:
                return super().put()
            except Fenced:
                newest = self._location.newest(self.partition)
                assert newest is not None
                assert self._pending is not None
                self.end = newest.stop
                records, self._pending = self._pending[0], None
                self.begin(records)


# -- segments ----------------------------------------------------------------------------------------------------------


class AnswersBeforeThePut(Receiver):
    def put_next(self) -> None:
        batch = self.intake.take()
        self.writer.begin(batch.records)
        self.intake.landed(batch, self.writer.end)
        self.put()


class UnclearIsFailed(Receiver):
    """Makes other bytes of what has no answer: those records, and whatever came meanwhile."""

    def put(self) -> int:
        while True:
            assert self.writer._pending is not None
            records, data = self.writer._pending
            key = self.writer._location.names.segment(self.partition, self.writer.end)
            try:
                if self.scene.store._create(key, data):
                    return self.writer.put()
            except Unclear:
                continue_with = self.writer._location.newest(self.partition)
            else:
                return self.writer.put()
            assert continue_with is not None
            self.writer.end, self.writer._pending = continue_with.stop, None
            self.writer.begin(records)


class UnclearIsDone(SimulatedStore):
    def put_if_absent(self, key: str, body: bytes) -> PutResult:
        if not key.startswith("log/"):
            return super().put_if_absent(key, body)
        try:
            return Created() if self._create(key, body) else super().put_if_absent(key, body)
        except Unclear:
            return Created()


class TwoUnderWay(Receiver):
    """Sends the second segment before the first is definite, and answers each by itself."""

    def put_next(self) -> None:
        first = self.intake.take()
        self.writer.begin(first.records)
        assert self.writer._pending is not None
        records, data = self.writer._pending
        base = self.writer.end
        try:
            sure = self.writer._location.store._create(self._key(base), data)  # type: ignore[attr-defined]
        except Unclear:
            sure = None
        if sure is False:
            raise Fenced("the first")
        self.writer._pending = None
        self.writer._advance(records)
        self.scene.world.call("wait", "")
        if self.intake:
            super().put_next()
        if sure is None and isinstance(self.writer._location.put_segment(self.partition, base, data), Taken):
            raise Fenced("the first")
        self.intake.landed(first, base)

    def _key(self, base: int) -> str:
        return self.writer._location.names.segment(self.partition, base)


# -- ids ---------------------------------------------------------------------------------------------------------------


class IdsNotRecovered(SmallPages):
    def _recover_ids(self, claim: SegmentHeader) -> RecoveredIds:
        return RecoveredIds([], claim.base, [])


class KnownBeforeDurable(Intake):
    """Answers a duplicate whose original is under way only."""

    def offer(self, records: NewRecords) -> Request:
        request = super().offer(records)
        if request.duplicates == request.records:
            request.waits_for.clear()
        return request


# -- retention ---------------------------------------------------------------------------------------------------------


class ClaimsDeleted(Sweeper):
    def _claims_of(self, partition: int, newest: SegmentHeader, down_to: int) -> dict[int, int | None]:
        class Nothing(dict[int, int | None]):
            def __contains__(self, key: object) -> bool:
                return False

        return Nothing()


class NoSecondLook(Sweeper):
    def _is_still_free(self, partition: int, cut: int) -> bool:
        return True


class NoHold(StreamDriver):
    def hold(self, source: str) -> None:
        self.scene.world.call("wait", "")


class BeginsAtTheFloor(StreamDriver):
    def first_offsets(self, source: str) -> dict[int, int]:
        return {one: self.location.floor(one) for one in range(self.scene.partitions)}


class ReleasesThePlan(StreamDriver):
    def plan(self, begin: dict[int, int]) -> dict[int, tuple[int, int]] | None:
        planned = super().plan(begin)
        for source in self.sources:
            ends = {partition: stop for partition, (_, stop) in (planned or {}).items()}
            self.release(source, len(self.stream.commits.get(source, ())) + 1, {**begin, **ends})
        return planned


class SourcesShareARecord(StreamDriver):
    def reader(self, source: str) -> WalReader:
        return WalReader(self.location, self.stream.name, "both")


MUTANTS: dict[str, dict[str, object]] = {
    "NoClaim": {"writer": NoClaim},
    "LoserOfAClaimGoesOn": {"writer": LoserOfAClaimGoesOn},
    "FencedGoesOn": {"writer": FencedGoesOn},
    "AnswersBeforeThePut": {"receiver": AnswersBeforeThePut},
    "UnclearIsFailed": {"receiver": UnclearIsFailed},
    "UnclearIsDone": {"store": UnclearIsDone},
    "TwoUnderWay": {"receiver": TwoUnderWay},
    "IdsNotRecovered": {"writer": IdsNotRecovered},
    "KnownBeforeDurable": {"intake": KnownBeforeDurable},
    "ClaimsDeleted": {"sweeper": ClaimsDeleted},
    "NoSecondLook": {"sweeper": NoSecondLook},
    "NoHold": {"driver": NoHold},
    "BeginsAtTheFloor": {"driver": BeginsAtTheFloor},
    "ReleasesThePlan": {"driver": ReleasesThePlan},
    "SourcesShareARecord": {"driver": SourcesShareARecord},
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_left_out_is_caught(mutant: str) -> None:
    (part,) = MUTANTS[mutant].values()
    assert isinstance(part, type)
    assert_caught(part, lambda seed: WalHistory(seed, protocol(**MUTANTS[mutant])).faults())


def _fields(header: SegmentHeader) -> dict[str, object]:
    return {name: getattr(header, name) for name in SegmentHeader.__slots__}
