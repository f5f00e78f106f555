"""The first batch of a stream that goes on from another one with state: it carries that state along, and does nothing else.

Offsets and state of the other stream are those of one marker, which this batch's plan names. So a crash, a replay or a second
driver cannot take the offsets of one batch and the state of another. The batch has no ranges and runs no step.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from beam_exactly_once.checkpoint import Attempt, Checkpoint, Plan, StreamWriter, marker_of_attempt
from beam_exactly_once.clock import Clock, now_ms
from beam_exactly_once.errors import CheckpointHole, ConfigurationError, PipelineChanged
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.pipelines.known_operators import KnownOperators
from beam_exactly_once.planning.continuing import CheckpointAt, carried_from, carried_marker, marker_at, stood_at
from beam_exactly_once.planning.source_planner import SourcePlanner
from beam_exactly_once.randomness import new_token
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.upkeep.carrying import copy_state

_LOGGER = logging.getLogger(__name__)


class CarriedBatch:
    """The batch of a new stream that carries state along, if another one has any.

    Args:
        writer: of the new stream.
        known: its operators.
        planners: of its sources.
        clock: for the times recorded.
    """

    def __init__(
        self, writer: StreamWriter, known: KnownOperators, planners: Mapping[str, SourcePlanner], clock: Clock
    ) -> None:
        self._writer = writer
        self._checkpoint = writer.checkpoint
        self._known = known
        self._planners = planners
        self._clock = clock

    def decide(self, continue_from: tuple[CheckpointAt, StoreLocation] | None, replays: Sequence[int]) -> bool:
        """Decide batch 0 of a stream that has no marker yet, if there is state to be carried along.

        1. Plan it: whose state, and where the sources stand. A crash before it leaves nothing, one after it a plan: every start
           carries on the same, or says what is in the way.
        2. Record sources and operators, as the other stream had them. A crash leaves some of them, to be found the same.
        3. Copy the state. A crash leaves objects that no marker names; a sweep removes them.
        4. Create the marker. A crash leaves a decided batch, as of any other stream.

        Args:
            continue_from: where the stream goes on from.
            replays: ids of the planned batches.

        Returns:
            Whether batch 0 is decided now.

        Raises:
            ConfigurationError: the plan carries state, and ``continue_from`` does not name where it is.
            PipelineChanged: an operator is missing or another one; or the stream began otherwise.
            CheckpointHole, CorruptObject: the other stream has swept what is needed, or something is damaged.
            Fenced: a newer writer exists.
        """
        plan = self._checkpoint.read_plan(0) if replays else None
        if continue_from is None:
            self._refuse_forgotten(plan)
            return False
        place, location = continue_from
        if plan is None or plan.carries is None:
            new = self._new_plan(place, location)
            if new is None:
                return False
            plan = self._writer.plan(new) if plan is None else plan
            if plan.carries is None:
                raise PipelineChanged(
                    f"batch 0 of {self._checkpoint.store.uri} is planned already, by a start that carried no state along. Start "
                    "with an empty checkpoint_location."
                )
        self._run(plan, location)
        return True

    def _refuse_forgotten(self, plan: Plan | None) -> None:
        if plan is not None and plan.carries is not None:
            place = f"CheckpointAt({plan.carries.location!r}, {plan.carries.batch_id})"
            raise ConfigurationError(
                f"batch 0 of {self._checkpoint.store.uri} carries state of another stream along, and is not committed yet. Give "
                f"continue_from={place} until it is, or start with an empty checkpoint_location."
            )

    def _new_plan(self, place: CheckpointAt, location: StoreLocation) -> Plan | None:
        """The plan that carries state along; None if there is none."""
        marker = marker_at(place, location)
        if not marker.state:
            return None
        elsewhere = _checkpoint_at(location)
        carried = self._known.carry(elsewhere, marker.state)
        if not carried:
            return None
        sources = {
            name: planner.behind(stood_at(marker, name, place.location)) for name, planner in self._planners.items()
        }
        known = self._known.known_as(marker.state, location.uri)
        carries = carried_from(elsewhere, marker, tuple(known[name] for name in carried))
        return Plan(0, self._writer.writer_epoch, now_ms(self._clock), sources, carries=carries)

    def _run(self, plan: Plan, location: StoreLocation) -> None:
        assert plan.carries is not None
        elsewhere = _checkpoint_at(location)
        marker = carried_marker(elsewhere, plan.carries)
        if plan.sources.keys() != self._planners.keys():
            raise PipelineChanged(
                f"batch 0 of {self._checkpoint.store.uri} is planned with the sources {', '.join(sorted(plan.sources))}, and "
                f"this pipeline has {', '.join(sorted(self._planners))}. Start it with those, or with an empty location."
            )
        carried = self._known.carry(elsewhere, {name: marker.state[name] for name in plan.carries.operators})
        known = self._known.known_as(plan.carries.operators, location.uri)
        for name, planner in self._planners.items():
            planner.record(self._checkpoint, plan.sources[name])
        self._known.record_carried(carried)
        attempt = Attempt(self._writer.writer_epoch, 0, new_token())
        state = {}
        for name in carried:
            of_other = StateList.from_json(marker.state[known[name]])
            copied = copy_state(name, of_other, attempt, source=elsewhere.store, target=self._checkpoint.store)
            state[name] = copied.to_json()
            _LOGGER.info(
                "operator %r goes on with %d keys of %s, in %d bytes",
                name,
                copied.keys,
                location.uri,
                copied.size_bytes,
            )
        times = {
            name: of_source.event_time for name, of_source in marker.sources.items() if of_source.event_time is not None
        }
        carried_on = marker_of_attempt(plan, attempt, (), {}, now_ms(self._clock), state, times=times)
        self._writer.commit(carried_on.following(None, {}))


def _checkpoint_at(location: StoreLocation) -> Checkpoint:
    checkpoint = Checkpoint.open_existing(location.store)
    if checkpoint is None:
        raise CheckpointHole(
            f"continue_from={location.uri} is empty: the checkpoint whose state is to be carried along is gone. Restore it "
            "from a copy."
        )
    return checkpoint
