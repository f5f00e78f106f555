"""Each rule of the protocol, left out, is caught: the simulation finds a history that is not as promised.

That is a record lost or doubled, output of a losing attempt, or a driver that ends with an error which asks somebody to
act. A mutant is the real protocol with one rule broken, together with whatever else would stand in for it. If a mutant
survives, either the simulation became blind or the rule became superfluous; both are worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from beam_exactly_once import TopicPartition
from beam_exactly_once.checkpoint import (
    Attempt,
    Checkpoint,
    Marker,
    Piece,
    Plan,
    Recovery,
    SourceCommit,
    SourcePlan,
    StreamWriter,
    layout,
)
from beam_exactly_once.checkpoint.records import Json, WriterClaim
from beam_exactly_once.checkpoint.retention import Retention
from beam_exactly_once.errors import StoreUnavailable
from beam_exactly_once.object_store import Created, Mine, PutResult, StagedObject, Taken
from beam_exactly_once.object_store.definite import Unclear
from support.simulation.caught import assert_caught
from support.simulation.driver import NOW, SINK, SOURCE, Driver
from support.simulation.histories import LATE_WORKER, OPERATORS, Focus, Simulation
from support.simulation.store import SimulatedStore

FOCUSED_SEEDS = 60
DECISIONS = (layout.OFFSETS, layout.COMMITS)
NO_SUCCESSOR = 1_000_000


# -- the successor check ---------------------------------------------------------------------------------------------


class ChecksBeforeCreating(StreamWriter):
    def commit(self, marker: Marker) -> Marker:
        self.ensure_newest()
        return self.create_marker(marker).record


class LeavesStagedOutput(Driver):
    """A sink that does not sweep what losing attempts staged; the sweep hides faults of mutants.

    No mutant as long as runners forget no worker. With late workers the sweep is needed: see the crash enumeration.
    """

    def sweep(self, published_batch_id: int) -> None:
        self.retention.sweep_all(published_batch_id)


class SuccessorCheckedBeforeTheCreate(LeavesStagedOutput):
    writer_class = ChecksBeforeCreating


class NeverChecks(StreamWriter):
    def commit(self, marker: Marker) -> Marker:
        return self.create_marker(marker).record


class NoSuccessorCheckAfterTheCreate(Driver):
    writer_class = NeverChecks


class RecoversUnchecked(StreamWriter):
    def recover(self) -> Recovery:
        newest = self.checkpoint.newest_marker()
        return Recovery(newest, tuple(self.checkpoint.plan_ids(above=-1 if newest is None else newest.batch_id)))


class NoSuccessorCheckInRecovery(Driver):
    """Nor the check of holes, nor the check when the newest marker is published again: each would stand in for the first."""

    writer_class = RecoversUnchecked

    def publish_again(self, newest: Marker) -> None:
        self.publish(self.writer, newest)


class EpochClaimedAfterTheRecoveryReads(Driver):
    def take_over(self) -> Recovery | None:
        recovery = RecoversUnchecked(self.checkpoint, 0).recover()
        self.writer = self.claim()
        return recovery


class SweepsWriters(Retention):
    def sweep_all(self, newest_batch_id: int) -> None:
        super().sweep_all(newest_batch_id)
        store = self._checkpoint.store
        store.delete([entry.key for entry in store.list(layout.WRITERS)][:-1])


class OldWritersDeleted(Driver):
    retention_class = SweepsWriters


class SharesEpochs(StreamWriter):
    @classmethod
    def claim(cls, checkpoint: Checkpoint, *, owner: str, claimed_at_ms: int) -> StreamWriter:
        writer_epoch = checkpoint.newest_writer_epoch() + 1
        checkpoint.create_writer(WriterClaim(writer_epoch, owner, claimed_at_ms))
        return cls(checkpoint, writer_epoch)


class EpochTakenWhoeverCreatedIt(Driver):
    writer_class = SharesEpochs


class LateDriverTakenForABrokenStream(Driver):
    """What a newer writer did looks odd to an older one: it must ask before it complains."""

    @contextmanager
    def fencing_first(self) -> Iterator[None]:
        yield

    def publish(self, writer: StreamWriter, marker: Marker) -> None:
        super().publish(StreamWriter(self.checkpoint, NO_SUCCESSOR), marker)


# -- publishing ------------------------------------------------------------------------------------------------------


class LoserDropsItsOwnAndGoesOn(Driver):
    def commit_and_publish(self, writer: StreamWriter, marker: Marker) -> Marker:
        won = writer.commit(marker)
        if won == marker:
            self.publish(writer, won)
        else:
            drop(self, marker)
        return won


class LoserPublishesItsOwn(Driver):
    def commit_and_publish(self, writer: StreamWriter, marker: Marker) -> Marker:
        won = writer.commit(marker)
        self.publish(writer, marker)
        return won


class NewestNotPublishedAgain(Driver):
    """Commits N+1 without having seen N published."""

    def publish_again(self, newest: Marker) -> None:
        pass


class PublishedBeforeTheMarker(Driver):
    def commit_and_publish(self, writer: StreamWriter, marker: Marker) -> Marker:
        self.publish(writer, marker)
        return writer.commit(marker)


class PublishedByListing(Driver):
    """Whatever is staged for the batch, not what the marker names."""

    def publish(self, writer: StreamWriter, marker: Marker) -> None:
        for staged in self.output.list_staged(f"part-{marker.batch_id:020d}"):
            self.output.publish(staged)
        super().publish(writer, marker)


class SweepsTheNewest(Retention):
    def sweep_all(self, newest_batch_id: int) -> None:
        super().sweep_all(newest_batch_id + self._retain_batches)


class NewestMarkerSwept(Driver):
    retention_class = SweepsTheNewest


class SweepsAboveThePublished(Driver):
    """Collects what is staged for batches that are not decided yet."""

    def sweep(self, published_batch_id: int) -> None:
        super().sweep(published_batch_id)
        for staged in self.output.list_staged():
            self.output.discard(staged)


# -- plans -----------------------------------------------------------------------------------------------------------


class TakenPlanNotAdopted(Driver):
    def decide_plan(self, batch_id: int, source: SourcePlan) -> Plan:
        super().decide_plan(batch_id, source)
        return Plan(batch_id, self.writer.writer_epoch, NOW, {SOURCE: source})


class AbandonedBatchTakenForRead(Driver):
    """Goes on behind the plan, whatever the marker says."""

    def stand_after(self, plan: Plan, won: Marker) -> dict[TopicPartition, int]:
        return dict(plan.sources[SOURCE].next_offsets)


class PlansNotReplayed(Driver):
    """Runs its own ranges where a plan waits for its replay."""

    def recover(self, recovery: Recovery | None) -> None:
        recovery = recovery or self.writer.recover()
        super().recover(Recovery(recovery.newest, ()))

    def decide_plan(self, batch_id: int, source: SourcePlan) -> Plan:
        own = Plan(batch_id, self.writer.writer_epoch, NOW, {SOURCE: source})
        return own if self.checkpoint.read_plan(batch_id) is not None else super().decide_plan(batch_id, source)


def marker_of_anything(
    plan: Plan, attempt: Attempt, pieces: list[Piece], committables: dict[str, tuple[Json, ...]], committed_at_ms: int
) -> Marker:
    sources = {name: SourceCommit(source.next_offsets, (), 0, 0) for name, source in plan.sources.items()}
    return Marker(plan.batch_id, "committed", attempt, sources, committables, committed_at_ms)


class TilingNotChecked(Driver):
    """With readers that now and then lose or double a piece."""

    marker_of = staticmethod(marker_of_anything)

    def read(self, plan: Plan) -> list[Piece]:
        if self.scene.weather.bundle_repeated:
            self.scene.weather.reader_errs = 0.05
        return super().read(plan)


# -- writes without an answer ----------------------------------------------------------------------------------------


class TriesOnce(SimulatedStore):
    """Gives up on a plan or marker when an answer is lost and the object is not there."""

    def put_if_absent(self, key: str, body: bytes) -> PutResult:
        if not key.startswith(DECISIONS):
            return super().put_if_absent(key, body)
        try:
            if self._create(key, body):
                return Created()
        except Unclear:
            found = self.get(key)
            if found is None:
                raise StoreUnavailable(key) from None
            return Mine() if found == body else Taken(found)
        return super().put_if_absent(key, body)


class UnclearPlanTakenForFailed(Driver):
    """Plans other ranges, and takes whatever is there then for its own."""

    def decide_plan(self, batch_id: int, source: SourcePlan) -> Plan:
        try:
            return super().decide_plan(batch_id, source)
        except StoreUnavailable:
            source = self.ranges() or source
            super().decide_plan(batch_id, source)
            return Plan(batch_id, self.writer.writer_epoch, NOW, {SOURCE: source})


class UnclearMarkerTakenForFailed(Driver):
    """Drops what the attempt staged, and runs it again."""

    def commit_and_publish(self, writer: StreamWriter, marker: Marker) -> Marker:
        try:
            won = writer.commit(marker)
        except StoreUnavailable:
            drop(self, marker)
            plan = self.checkpoint.read_plan(marker.batch_id)
            if plan is None:
                raise
            won = writer.commit(self.stage(plan, marker.attempt))
        self.publish(writer, won)
        return won


class UnclearIsDone(SimulatedStore):
    """Takes a lost answer for a yes."""

    def put_if_absent(self, key: str, body: bytes) -> PutResult:
        if not key.startswith(DECISIONS):
            return super().put_if_absent(key, body)
        try:
            return Created() if self._create(key, body) else super().put_if_absent(key, body)
        except Unclear:
            return Created()


class ExistingIsMineAfterUnclear(SimulatedStore):
    """A client whose retry meets 412 and takes the object for its own."""

    def put_if_absent(self, key: str, body: bytes) -> PutResult:
        if not key.startswith(DECISIONS):
            return super().put_if_absent(key, body)
        try:
            return Created() if self._create(key, body) else super().put_if_absent(key, body)
        except Unclear:
            result = super().put_if_absent(key, body)
            return Mine() if isinstance(result, Taken) else result


class OverwritesMarkers(SimulatedStore):
    def create_now(self, key: str, body: bytes) -> bool:
        if key.startswith(layout.COMMITS):
            self.objects.pop(key, None)
        return super().create_now(key, body)


def drop(driver: Driver, marker: Marker) -> None:
    for committable in marker.committables.get(SINK, ()):
        driver.output.discard(StagedObject.from_json(committable["staged"]))


TAKE_OVER = Focus((("get", "commits"), ("stage", None), ("create", "commits")))
BEFORE_THE_CREATE = Focus((("create", "commits"),))
CONTESTED = Focus((("create", "commits"), ("create", "offsets")), request_fails=0.15)

MUTANTS: dict[type, tuple[type[Driver], type[SimulatedStore], Focus | None]] = {
    SuccessorCheckedBeforeTheCreate: (SuccessorCheckedBeforeTheCreate, SimulatedStore, BEFORE_THE_CREATE),
    NoSuccessorCheckAfterTheCreate: (NoSuccessorCheckAfterTheCreate, SimulatedStore, None),
    NoSuccessorCheckInRecovery: (NoSuccessorCheckInRecovery, SimulatedStore, TAKE_OVER),
    EpochClaimedAfterTheRecoveryReads: (EpochClaimedAfterTheRecoveryReads, SimulatedStore, None),
    EpochTakenWhoeverCreatedIt: (EpochTakenWhoeverCreatedIt, SimulatedStore, None),
    OldWritersDeleted: (OldWritersDeleted, SimulatedStore, None),
    LateDriverTakenForABrokenStream: (LateDriverTakenForABrokenStream, SimulatedStore, None),
    LoserDropsItsOwnAndGoesOn: (LoserDropsItsOwnAndGoesOn, SimulatedStore, None),
    LoserPublishesItsOwn: (LoserPublishesItsOwn, SimulatedStore, None),
    NewestNotPublishedAgain: (NewestNotPublishedAgain, SimulatedStore, None),
    PublishedBeforeTheMarker: (PublishedBeforeTheMarker, SimulatedStore, None),
    PublishedByListing: (PublishedByListing, SimulatedStore, None),
    NewestMarkerSwept: (NewestMarkerSwept, SimulatedStore, None),
    SweepsAboveThePublished: (SweepsAboveThePublished, SimulatedStore, None),
    TakenPlanNotAdopted: (TakenPlanNotAdopted, SimulatedStore, None),
    PlansNotReplayed: (PlansNotReplayed, SimulatedStore, None),
    AbandonedBatchTakenForRead: (AbandonedBatchTakenForRead, SimulatedStore, OPERATORS),
    TilingNotChecked: (TilingNotChecked, SimulatedStore, None),
    UnclearPlanTakenForFailed: (UnclearPlanTakenForFailed, TriesOnce, None),
    UnclearMarkerTakenForFailed: (UnclearMarkerTakenForFailed, TriesOnce, None),
    UnclearIsDone: (Driver, UnclearIsDone, None),
    ExistingIsMineAfterUnclear: (Driver, ExistingIsMineAfterUnclear, CONTESTED),
    OverwritesMarkers: (Driver, OverwritesMarkers, None),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_rule_left_out_is_caught(mutant: type) -> None:
    driver_class, store_class, focus = MUTANTS[mutant]
    assert_caught(mutant, lambda seed: Simulation(seed, driver_class, store_class, focus).faults())


FOCUSES = {
    "before_the_create": BEFORE_THE_CREATE,
    "contested": CONTESTED,
    "take_over": TAKE_OVER,
    "late_worker": LATE_WORKER,
    "operator": OPERATORS,
}


@pytest.mark.parametrize("focus", FOCUSES.values(), ids=FOCUSES)
def test_the_protocol_holds_where_the_rare_mutants_fail(focus: Focus) -> None:
    for driver_class in (Driver,) if focus.worker_forgotten else (Driver, LeavesStagedOutput):
        for seed in range(FOCUSED_SEEDS):
            Simulation(seed, driver_class, focus=focus).assert_sound()
