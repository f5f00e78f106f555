"""Each rule of the protocol, left out, is caught: the simulation finds a history that loses or repeats records.

A mutant is the real protocol with one rule broken. If a mutant survives, either the simulation became blind or the rule
became superfluous; both are worth knowing.
"""

from __future__ import annotations

from beam_exactly_once.checkpoint import (
    Attempt,
    Marker,
    Piece,
    Plan,
    Recovery,
    SourceCommit,
    SourcePlan,
    StreamWriter,
    layout,
)
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.checkpoint.retention import Retention
from beam_exactly_once.object_store import Created, Mine, PutResult, StagedObject, Taken
from beam_exactly_once.object_store.definite import Unclear
from support.simulated_driver import SINK, SOURCE, Driver, Scene
from support.simulated_store import SimulatedStore

SEEDS_MAX = 3000
"""A mutant that survives so many histories counts as not caught."""


# -- the successor check ---------------------------------------------------------------------------------------------


class ChecksBeforeCreating(StreamWriter):
    def commit(self, marker: Marker) -> Marker:
        self.ensure_newest()
        return self.create_marker(marker).record


class SuccessorCheckedBeforeTheCreate(Driver):
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
    """Nor when the newest marker is published again."""

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


# -- publishing ------------------------------------------------------------------------------------------------------


class LoserDropsItsOwnAndGoesOn(Driver):
    def commit_and_publish(self, writer: StreamWriter, marker: Marker) -> None:
        won = writer.commit(marker)
        if won == marker:
            self.publish(writer, won)
        else:
            drop(self, marker)


class LoserPublishesItsOwn(Driver):
    def commit_and_publish(self, writer: StreamWriter, marker: Marker) -> None:
        writer.commit(marker)
        self.publish(writer, marker)


class NewestNotPublishedAgain(Driver):
    """Commits N+1 without having seen N published."""

    def publish_again(self, newest: Marker) -> None:
        pass


class PublishedBeforeTheMarker(Driver):
    def commit_and_publish(self, writer: StreamWriter, marker: Marker) -> None:
        self.publish(writer, marker)
        writer.commit(marker)


class PublishedByListing(Driver):
    """Whatever is staged for the batch, not what the marker names."""

    def publish(self, writer: StreamWriter, marker: Marker) -> None:
        for staged in self.output.list_staged(f"part-{marker.batch_id:020d}"):
            self.output.publish(staged)
        super().publish(writer, marker)


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
        return Plan(batch_id, self.writer.writer_epoch, "", {SOURCE: source})


class PlansNotReplayed(Driver):
    """Runs its own ranges where a plan waits for its replay."""

    def recover(self, recovery: Recovery | None) -> None:
        recovery = recovery or self.writer.recover()
        super().recover(Recovery(recovery.newest, ()))

    def decide_plan(self, batch_id: int, source: SourcePlan) -> Plan:
        own = Plan(batch_id, self.writer.writer_epoch, "", {SOURCE: source})
        return own if self.checkpoint.read_plan(batch_id) is not None else super().decide_plan(batch_id, source)


def marker_of_anything(
    plan: Plan, attempt: Attempt, pieces: list[Piece], committables: dict[str, tuple[Json, ...]], committed_at: str
) -> Marker:
    sources = {name: SourceCommit(source.next_offsets, (), 0, 0) for name, source in plan.sources.items()}
    return Marker(plan.batch_id, "committed", attempt, sources, committables, committed_at)


class TilingNotChecked(Driver):
    """With readers that now and then lose or double a piece."""

    marker_of = staticmethod(marker_of_anything)

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene, name)
        if scene.grows_to <= 30:  # acts 2 and 4 are undisturbed
            scene.weather.reader_errs = max(scene.weather.reader_errs, 0.01)


# -- writes without an answer ----------------------------------------------------------------------------------------


class UnclearPlanTakenForFailed(Driver):
    """Plans anew when the answer was lost, and then takes what is there for its own."""

    def decide_plan(self, batch_id: int, source: SourcePlan) -> Plan:
        own = Plan(batch_id, self.writer.writer_epoch, "", {SOURCE: source})
        try:
            if self.scene.checkpoint_store._create(layout.offsets_key(batch_id), b"unsealed"):
                raise AssertionError("only sealed plans are created")
        except Unclear:
            return own
        return own


class UnclearMarkerTakenForFailed(Driver):
    """Drops what the attempt staged, and runs it again."""

    def commit_and_publish(self, writer: StreamWriter, marker: Marker) -> None:
        store = self.scene.checkpoint_store
        assert isinstance(store, TakesUnclearForFailed)
        if not store.is_clear(layout.commits_key(marker.batch_id)):
            drop(self, marker)
        super().commit_and_publish(writer, marker)


class TakesUnclearForDone(SimulatedStore):
    def put_if_absent(self, key: str, body: bytes) -> PutResult:
        try:
            if self._create(key, body):
                return Created()
        except Unclear:
            return Created()
        return super().put_if_absent(key, body)


class TakesExistingForOwnAfterUnclear(SimulatedStore):
    """A client whose retry meets 412 and takes the object for its own."""

    def put_if_absent(self, key: str, body: bytes) -> PutResult:
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
