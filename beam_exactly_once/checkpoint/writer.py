"""The protocol: claim, recover, plan, commit. ``docs/guarantees.md`` argues it; the simulation attacks it.

There is no lease, no clock and no lock. Every decision is a put-if-absent on a key that all drivers compute, and
who meets a higher writer epoch stops.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from beam_exactly_once.checkpoint.location import Checkpoint, Decided
from beam_exactly_once.checkpoint.records import (
    Attempt,
    Json,
    Marker,
    Outcome,
    Piece,
    Plan,
    SourceCommit,
    SourcePlan,
    WriterClaim,
)
from beam_exactly_once.checkpoint.source_times import Noted, SourceTimes
from beam_exactly_once.clock import moment_text
from beam_exactly_once.errors import CheckpointHole, Fenced, IncompleteBatch
from beam_exactly_once.offsets import TopicPartition, tiling_faults

MAX_CLAIM_TRIES = 1000


def this_process() -> str:
    """Who claims, for people to read in an error: user, host and process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} pid {os.getpid()}"


@dataclass(frozen=True, slots=True)
class Recovery:
    """Where a stream stands when a writer takes it over."""

    newest: Marker | None
    """Its publish may be unfinished: do it again first."""
    replays: tuple[int, ...]
    """Ids of the planned batches above it, in order: run them again with the very same ranges."""

    @property
    def next_batch_id(self) -> int:
        """Id of the first batch without a marker."""
        return 0 if self.newest is None else self.newest.batch_id + 1


class StreamWriter:
    """The right to plan and commit, held until a newer writer claims it.

    A driver makes one at start; the worker that commits makes one from the driver's epoch.
    """

    def __init__(self, checkpoint: Checkpoint, writer_epoch: int) -> None:
        self.checkpoint = checkpoint
        self.writer_epoch = writer_epoch

    @classmethod
    def claim(cls, checkpoint: Checkpoint, *, owner: str, claimed_at_ms: int) -> StreamWriter:
        """Take the stream over: put-if-absent of the next epoch, before any other read of the stream.

        An older writer that still runs meets this claim after its next marker, and stops.

        Raises:
            Fenced: others claimed faster than this one, many times in a row.
        """
        writer_epoch = checkpoint.newest_writer_epoch()
        for _ in range(MAX_CLAIM_TRIES):
            writer_epoch += 1
            if checkpoint.create_writer(WriterClaim(writer_epoch, owner, claimed_at_ms)).mine:
                return cls(checkpoint, writer_epoch)
        raise Fenced(
            f"{MAX_CLAIM_TRIES} other writers claimed {checkpoint.store.uri} while this one tried. "
            "Stop what starts them again and again."
        )

    def claim_again(self, *, owner: str, claimed_at_ms: int) -> StreamWriter:
        """Claim the epoch right behind this writer's: for a driver that begins anew, and must not overtake another one.

        Raises:
            Fenced: somebody else has claimed since.
        """
        writer_epoch = self.writer_epoch + 1
        if not self.checkpoint.create_writer(WriterClaim(writer_epoch, owner, claimed_at_ms)).mine:
            self.ensure_newest()
        return type(self)(self.checkpoint, writer_epoch)

    def ensure_newest(self) -> None:
        """The successor check: one GET of the next epoch's claim, and one of this writer's own.

        Raises:
            Fenced: a newer writer exists. It finishes whatever this one left.
            CheckpointHole, ForeignObject: see :meth:`_ensure_claimed`.
        """
        successor = self.checkpoint.read_writer(self.writer_epoch + 1)
        if successor is not None:
            raise Fenced(
                f"writer {self.writer_epoch} of {self.checkpoint.store.uri} was replaced by writer "
                f"{successor.writer_epoch} ({successor.owner}, {moment_text(successor.claimed_at_ms)}). Nothing to do: the newer "
                "one goes on with this stream. If it should not run, stop it and start this one again."
            )
        self._ensure_claimed()

    def _ensure_claimed(self) -> None:
        """This writer's claim is where it put it: nobody emptied the location or put another checkpoint there.

        Raises:
            CheckpointHole: it is gone.
            ForeignObject: another stream has the location now.
        """
        if self.checkpoint.read_writer(self.writer_epoch) is None:
            raise CheckpointHole(
                f"the claim of this driver, writer {self.writer_epoch}, vanished from {self.checkpoint.store.uri}: the location "
                "was emptied or replaced while the driver ran. It stops, since nothing that it decides would be remembered. "
                "Restore the checkpoint, or start again with an empty checkpoint_location and new outputs."
            )

    def recover(self) -> Recovery:
        """Find where the stream stands. Writes nothing.

        1. LIST and read the newest marker.
        2. Successor check. Without it, a frozen writer would go on from an old marker after newer ones were swept.
        3. LIST the plans above the marker.

        Raises:
            Fenced: a newer writer exists.
            CheckpointHole: a plan is missing between others.
        """
        newest = self.checkpoint.newest_marker()
        self.ensure_newest()
        replays = tuple(self.checkpoint.plan_ids(above=-1 if newest is None else newest.batch_id))
        recovery = Recovery(newest, replays)
        for expected, found in enumerate(replays, start=recovery.next_batch_id):
            if expected != found:
                raise CheckpointHole(
                    f"offsets of batch {expected} are missing in {self.checkpoint.store.uri}, while batch {found} is "
                    f"planned. Restore offsets/{expected:020d}.json from a copy; if there is none, start a new "
                    f"checkpoint_location with continue_from=CheckpointAt({self.checkpoint.store.uri!r}, {expected - 1})."
                )
        return recovery

    def plan(self, plan: Plan) -> Plan:
        """Decide the input of a batch: put-if-absent of its planned offsets, where this writer's claim still is.

        A crash before it leaves nothing. A crash after it leaves a plan that the next start replays.

        Returns:
            The plan that holds: this one, or word for word that of a writer with the same or a lower epoch.

        Raises:
            Fenced: a newer writer planned this batch.
            CheckpointHole, ForeignObject: see :meth:`_ensure_claimed`.
        """
        self._ensure_claimed()
        decided = self.checkpoint.create_plan(plan)
        if decided.record.writer_epoch > self.writer_epoch:
            self.ensure_newest()
        return decided.record

    def commit(self, marker: Marker) -> Marker:
        """Decide the outcome of a batch. The caller has itself seen the batch before it published.

        1. Put-if-absent of the marker: the commit point. A crash before it leaves staged output that nothing
           names; the batch is replayed. A crash after it leaves a decided batch: the next start publishes it.
        2. Successor check. A frozen writer's delayed create can succeed after the original marker was swept. Then a newer
           writer, or this one, has gone past the batch. Who finds a newer writer publishes nothing.
        3. Whoever won the create: is its marker the original? See :meth:`ensure_original`.

        Returns:
            The marker that holds, to be published by the caller also when another attempt won.

        Raises:
            Fenced: a newer writer exists, or this one has itself gone past the batch.
        """
        decided = self.create_marker(marker)
        self.ensure_newest()
        self.ensure_original(marker.batch_id)
        return decided.record

    def decided(self, batch_id: int) -> Marker:
        """The marker of a batch that is known to be decided, to be published again.

        Raises:
            Fenced: a newer writer exists, or this one has itself gone past the batch.
            CheckpointHole: the marker is gone.
        """
        marker = self.checkpoint.read_marker(batch_id)
        self.ensure_newest()
        self.ensure_original(batch_id)
        if marker is None:
            raise CheckpointHole(f"the marker of batch {batch_id} vanished from {self.checkpoint.store.uri}.")
        return marker

    def ensure_undecided(self, batch_id: int) -> None:
        """A batch that still runs is not decided: what its worker misses was not swept behind its back.

        Raises:
            Fenced: it, or a later one, is decided. One LIST.
        """
        decided = next(self.checkpoint.marker_ids(above=batch_id - 1), None)
        if decided is not None:
            raise Fenced(
                f"batch {batch_id} of {self.checkpoint.store.uri} is decided, and batch {decided} has a marker. Nothing to do: "
                "this is a late worker of a run that has been repeated elsewhere."
            )

    def ensure_original(self, batch_id: int) -> None:
        """A marker that was just created or read is to be published only while no later batch is decided.

        Without this, a worker that its own runner has given up would do harm. It wakes after its driver, still the newest
        writer, has gone on and swept the marker. Then it creates the marker again, by rows that it stages now; or it reads
        what a replaced writer's delayed create has put there. The newest marker is never swept, so without a later one this
        is the original. With a later one, the batch was published.

        Raises:
            Fenced: a later batch is decided. One LIST.
        """
        later = next(self.checkpoint.marker_ids(above=batch_id), None)
        if later is not None:
            raise Fenced(
                f"batch {batch_id} of {self.checkpoint.store.uri} was decided and published long ago: batch {later} is "
                "decided, too. Nothing to do: this is a late worker of a run that has been repeated elsewhere."
            )

    def create_marker(self, marker: Marker) -> Decided[Marker]:
        """Step 1 of :meth:`commit`."""
        return self.checkpoint.create_marker(marker)


def marker_of_attempt(
    plan: Plan,
    attempt: Attempt,
    pieces: Iterable[Piece],
    committables: Mapping[str, tuple[Json, ...]],
    committed_at_ms: int,
    state: Mapping[str, Json] | None = None,
    *,
    times: Mapping[str, SourceTimes] | None = None,
    noted: Mapping[str, Noted] | None = None,
) -> Marker:
    """The marker of an attempt that read all of its plan. Pure.

    Args:
        plan: of the batch.
        attempt: that wins, if this is the first marker.
        pieces: what was read.
        committables: what each sink staged.
        committed_at_ms: for people.
        state: what operators remember behind the batch.
        times: what is remembered before it of each source with event time.
        noted: when records of the batch happened, by source.

    Raises:
        IncompleteBatch: the pieces do not tile the plan exactly once: a reader lost or repeated a range, or
            the runner lost or repeated a part of the input.
    """
    pieces = list(pieces)
    sources: dict[str, SourceCommit] = {}
    faults: list[str] = []
    for name, source in plan.sources.items():
        of_source = [piece for piece in pieces if piece.source == name]
        faults += [f"source {name!r}: {fault}" for fault in tiling_faults((p.read for p in of_source), source.ranges)]
        sources[name] = SourceCommit(
            source.next_offsets,
            tuple(sorted({*source.lost, *(lost for piece in of_source for lost in piece.lost)})),
            sum(piece.records_read for piece in of_source),
            sum(piece.bytes_read for piece in of_source),
            source.topic_ids,
            _times_behind((times or {}).get(name), source, plan.planned_at_ms, (noted or {}).get(name, {})),
        )
    faults += [f"source {piece.source!r} is not in the plan" for piece in pieces if piece.source not in plan.sources]
    if faults:
        raise IncompleteBatch(
            f"batch {plan.batch_id} was not committed, since what was read is not what was planned: "
            + "; ".join(faults[:5])
            + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
            + ". Nothing is lost: start again to replay the batch."
        )
    return Marker(
        plan.batch_id,
        "committed",
        attempt,
        sources,
        committables,
        committed_at_ms,
        plan_digest=plan.digest,
        state=state or {},
    )


def _times_behind(
    before: SourceTimes | None, source: SourcePlan, planned_at_ms: int, noted: Noted
) -> SourceTimes | None:
    if before is None:
        return None
    return before.behind(source.next_offsets, source.replaced, planned_at_ms, source.watermark_ms, noted)


def marker_of_resolution(
    plan: Plan, attempt: Attempt, outcome: Outcome, committed_at_ms: int, times: Mapping[str, SourceTimes] | None = None
) -> Marker:
    """The marker that passes a batch which cannot run, on the record. Pure.

    ``skipped`` goes on after the batch and records its ranges as lost; ``abandoned`` gives them back, to be planned
    again by the next batch. Neither raises a watermark: ``times``, what is remembered of sources with event time, is repeated.
    """
    sources: dict[str, SourceCommit] = {}
    for name, source in plan.sources.items():
        before = (times or {}).get(name)
        if outcome == "skipped":
            lost = (*source.lost, *source.ranges)
            after = None if before is None else before.without(source.replaced)
            sources[name] = SourceCommit(source.next_offsets, lost, 0, 0, source.topic_ids, after)
        else:
            sources[name] = SourceCommit(offsets_before(source), (), 0, 0, topic_ids_before(source), before)
    return Marker(plan.batch_id, outcome, attempt, sources, {}, committed_at_ms, plan_digest=plan.digest)


def offsets_before(source: SourcePlan) -> dict[TopicPartition, int]:
    """Where the source stood before the batch that ``source`` plans. Pure.

    A partition that the batch does not touch stands where it stood. A lost range ends where reading begins when
    retention cut the log's head; it ends at the old next offset when the log itself became shorter. Of a topic that was
    recreated it says itself where the source stood in the old one.
    """
    before = dict(source.next_offsets)
    first_read = {planned.topic_partition: planned.start for planned in sorted(source.ranges, reverse=True)}
    before.update(first_read)
    for lost in source.lost:
        topic_partition = lost.topic_partition
        if lost.topic in source.replaced:
            continue
        cut_by_retention = lost.stop <= first_read.get(topic_partition, source.next_offsets[topic_partition])
        before[topic_partition] = lost.start if cut_by_retention else lost.stop
    before = {one: offset for one, offset in before.items() if one.topic not in source.replaced}
    for topic, old in source.replaced.items():
        before.update({TopicPartition(topic, partition): offset for partition, offset in old.next_offsets.items()})
    return before


def topic_ids_before(source: SourcePlan) -> dict[str, str]:
    """The topics that :func:`offsets_before` is of. Pure."""
    return {**source.topic_ids, **{topic: old.topic_id for topic, old in source.replaced.items()}}
