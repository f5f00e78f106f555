"""Passing a batch that cannot run, on the record: what ``beam-exactly-once resolve`` does.

Only the next batch to be decided can be passed, and only while it has no marker. Its plan proves that the batch
before it was published: a driver plans a batch only after it has seen that. So nothing need be published here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from beam_exactly_once.checkpoint.inspection import event_times, next_offsets, open_readable, topic_ids
from beam_exactly_once.checkpoint.layout import SINKS, offsets_key
from beam_exactly_once.checkpoint.location import Checkpoint
from beam_exactly_once.checkpoint.records import Attempt, Json, Marker, Outcome, Plan, Predecessor, SourceCommit
from beam_exactly_once.checkpoint.source_times import SourceTimes
from beam_exactly_once.checkpoint.writer import StreamWriter, marker_of_resolution
from beam_exactly_once.clock import Clock, now_ms
from beam_exactly_once.errors import ConfigurationError, CorruptObject
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.offsets import OffsetRange, TopicPartition
from beam_exactly_once.randomness import new_token
from beam_exactly_once.topics import TopicIds


@dataclass(frozen=True, slots=True)
class Proposal:
    """What passing a batch would do; nothing is written yet."""

    checkpoint: Checkpoint
    batch_id: int
    outcome: Outcome
    plan: Plan | None
    """None when the plan is unreadable: such a batch can only be abandoned, which needs nothing of it."""
    stands_at: Mapping[str, Mapping[TopicPartition, int]]
    """Next offsets of each source before the batch."""
    topic_ids: Mapping[str, TopicIds]
    """The topics that these are of."""
    times: Mapping[str, SourceTimes]
    """What is remembered of sources with event time before the batch, and so behind it: their watermarks stay as they are."""
    predecessor: Predecessor | None
    """What decided the batch before."""
    direct_shards: Mapping[str, int]
    """The shards of each sink that writes before the marker: they may have a receipt of this batch already."""
    state: Mapping[str, Json]
    """What operators remember before the batch, and so behind it: timers that it was to fire are due in the next one."""

    @property
    def ranges(self) -> list[tuple[str, OffsetRange]]:
        """What the batch was to read, by source."""
        if self.plan is None:
            return []
        return [(name, one) for name, source in sorted(self.plan.sources.items()) for one in source.ranges]

    @property
    def offsets(self) -> int:
        """How many offsets that is."""
        return sum(planned.size for _, planned in self.ranges)

    def marker(self, attempt: Attempt, committed_at_ms: int) -> Marker:
        """The marker that passes the batch."""
        if self.plan is not None:
            marker = marker_of_resolution(self.plan, attempt, self.outcome, committed_at_ms, self.times)
        else:
            sources = {
                name: SourceCommit(offsets, (), 0, 0, self.topic_ids.get(name, {}), self.times.get(name))
                for name, offsets in self.stands_at.items()
            }
            marker = Marker(self.batch_id, self.outcome, attempt, sources, {}, committed_at_ms)
        return replace(marker, state=self.state).following(self.predecessor, self.direct_shards)


def propose(store: ObjectStore, batch_id: int, outcome: Outcome) -> Proposal:
    """Find out what passing the batch would do. Writes nothing.

    Raises:
        ConfigurationError: this batch cannot be passed, or not with this outcome.
        CheckpointError: the checkpoint cannot be used.
    """
    checkpoint = open_readable(store)
    newest = checkpoint.newest_marker()
    newest_id = -1 if newest is None else newest.batch_id
    planned = list(checkpoint.plan_ids(above=newest_id))
    if batch_id <= newest_id:
        raise ConfigurationError(_decided_already(checkpoint, batch_id))
    if batch_id != newest_id + 1 or batch_id not in planned:
        raise ConfigurationError(
            f"batch {batch_id} of {store.uri} cannot be passed: only the first batch that is planned and not decided can, "
            + (f"which is batch {planned[0]}." if planned else "and there is none: the next start plans again.")
        )
    sinks = checkpoint.definitions(SINKS)
    direct_shards = {name: int(sink["shards"]) for name, sink in sinks.items() if sink.get("direct")}
    if outcome == "abandoned" and direct_shards:
        raise ConfigurationError(
            f"batch {batch_id} of {store.uri} cannot be abandoned: its sink has direct=True, so that rows of the batch may be "
            "there already, and the next batch would write them again. Use --skip, which leaves what is there."
        )
    if outcome == "abandoned" and planned[-1] > batch_id:
        raise ConfigurationError(
            f"batch {batch_id} of {store.uri} cannot be abandoned: batch {batch_id + 1} is planned already and goes on "
            f"where it ends, so its offsets would be read by none. Use --skip, which records them as lost."
        )
    plan = _readable_plan(checkpoint, batch_id, outcome)
    # Of a plan that cannot be read: sinks are recorded behind the batch that carries state along.
    carries = plan.carries is not None if plan is not None else batch_id == 0 and not sinks
    if carries:
        raise ConfigurationError(
            f"batch {batch_id} of {store.uri} cannot be passed: it carries the state of another stream along, and the "
            "stream would go on without. Nothing was written to its outputs: start it with an empty checkpoint_location."
        )
    stands_at, stands_in = next_offsets(checkpoint, newest), topic_ids(checkpoint, newest)
    times = event_times(checkpoint, newest)
    predecessor = None if newest is None else newest.as_predecessor
    state = {} if newest is None else newest.state
    return Proposal(checkpoint, batch_id, outcome, plan, stands_at, stands_in, times, predecessor, direct_shards, state)


def resolve(proposal: Proposal, *, owner: str, clock: Clock) -> Marker:
    """Do what was proposed.

    1. Claim the next writer epoch: a driver that still runs stops as fenced after its next marker.
       A crash after it leaves a claim, which does no harm.
    2. Look again. What the stream has done since is an error, not a surprise.
    3. Create the marker, and check for a successor. The next start goes on from it.

    Args:
        proposal: of :func:`propose`.
        owner: who claims, for people to read.
        clock: for the times recorded.

    Raises:
        ConfigurationError: a driver decided the batch, or changed what is planned, in the meantime.
        Fenced: a driver was started in the meantime.
    """
    checkpoint, batch_id = proposal.checkpoint, proposal.batch_id
    now = now_ms(clock)
    writer = StreamWriter.claim(checkpoint, owner=owner, claimed_at_ms=now)
    again = propose(checkpoint.store, batch_id, proposal.outcome)
    if (again.plan, again.stands_at) != (proposal.plan, proposal.stands_at):
        raise ConfigurationError(f"{checkpoint.store.uri} changed in the meantime. Look at it again, then decide.")
    marker = proposal.marker(Attempt(writer.writer_epoch, batch_id, new_token()), now)
    decided = writer.commit(marker)
    if decided.attempt != marker.attempt:
        raise ConfigurationError(_decided_already(checkpoint, batch_id))
    return decided


def _readable_plan(checkpoint: Checkpoint, batch_id: int, outcome: Outcome) -> Plan | None:
    try:
        return checkpoint.read_plan(batch_id)
    except CorruptObject as error:
        if outcome == "abandoned":
            return None
        raise ConfigurationError(
            f"batch {batch_id} cannot be skipped, since its plan does not say what that would lose: {error} "
            f"Without {offsets_key(batch_id)}, use --abandon: the next batch reads its offsets."
        ) from None


def _decided_already(checkpoint: Checkpoint, batch_id: int) -> str:
    return (
        f"batch {batch_id} of {checkpoint.store.uri} is decided: it has a commit marker, which never changes. Nothing was "
        "passed. If a part of its output is missing, `beam-exactly-once verify` names it, to be restored from a copy."
    )


def allow_rejecting(
    store: ObjectStore, batch_id: int, *, owner: str, clock: Clock, confirm: Callable[[], None]
) -> None:
    """Let the next start reject the rows of a committed batch that a sink's system refuses.

    The claim stops a driver that still runs. A start that publishes the batch finds the permission, and records what it leaves
    out below ``rejected/``.

    Args:
        store: the checkpoint location.
        batch_id: the newest batch.
        owner: who decides, for people to read.
        clock: for the times recorded.
        confirm: asks; called once it is clear that there is something to ask.

    Raises:
        ConfigurationError: the batch is not the newest, is not committed, or is published.
        Fenced: a driver was started in the meantime.
    """
    _refuse_rejecting(open_readable(store), batch_id)
    confirm()
    now = now_ms(clock)
    writer = StreamWriter.claim(open_readable(store), owner=owner, claimed_at_ms=now)
    _refuse_rejecting(writer.checkpoint, batch_id)
    writer.checkpoint.create_rejecting(batch_id, owner, now)
    writer.ensure_newest()


def _refuse_rejecting(checkpoint: Checkpoint, batch_id: int) -> None:
    newest = checkpoint.newest_marker()
    if newest is None or newest.batch_id != batch_id or newest.outcome != "committed":
        raise ConfigurationError(
            f"batch {batch_id} of {checkpoint.store.uri} is not the newest committed batch, so no sink waits to write it. "
            "--skip and --abandon are for a batch that is planned and not committed."
        )
    if checkpoint.is_published(newest):
        raise ConfigurationError(f"batch {batch_id} of {checkpoint.store.uri} is published: no sink refused it.")
