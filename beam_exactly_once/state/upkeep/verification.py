"""What ``beam-exactly-once verify`` checks of state: the lists of retained markers, and every section that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from beam_exactly_once.checkpoint import layout
from beam_exactly_once.checkpoint.findings import Check
from beam_exactly_once.checkpoint.location import OperatorRecord
from beam_exactly_once.checkpoint.verification import Contents
from beam_exactly_once.errors import BeamExactlyOnceError, CheckpointError, SweptMeanwhile
from beam_exactly_once.object_store.side_by_side import side_by_side
from beam_exactly_once.state.groups.calls import CallEach
from beam_exactly_once.state.run import NEVER
from beam_exactly_once.state.section import Fetch, read_section, runs_of
from beam_exactly_once.state.state_list import HASHES, Section, StateList
from beam_exactly_once.state.timers import due_rows
from beam_exactly_once.state.upkeep.reading import fetch_behind


@dataclass(frozen=True, slots=True)
class _Behind:
    """What an operator remembers behind a batch; None if it is not there."""

    batch_id: int
    list: StateList | None


def verify_state(contents: Contents) -> Iterator[Check]:
    """Look at the state of every operator. Reads every section of the newest marker, and the lists of all that are retained.

    - The slices of a list hold every hash once.
    - A list holds nothing of earlier batches that the list before it lacks, and no timer that fired there fires again.
    - Each section is there, is what its digest says, and sorted.
    - Every operator goes on from batch to batch, unless it was dropped on purpose.
    - No timer that calls is behind the time up to which its batch fired, or before the time that is said to be the next.
    """
    markers = list(contents.retained_markers.values())
    operators = sorted({name for marker in markers for name in marker.state})
    try:
        recorded = contents.checkpoint.operators() if operators else {}
    except CheckpointError:  # among the definitions, which were looked at
        recorded = None
    for operator in operators:
        check = Check(f"state of operator {operator}")
        behind = [
            _Behind(marker.batch_id, StateList.from_json(marker.state[operator]) if operator in marker.state else None)
            for marker in markers
        ]
        for before, after in pairwise([None, *behind]):
            assert after is not None
            _check_list(check, operator, before, after)
            if recorded is not None:
                _check_generations(check, operator, recorded.get(operator, {}), before, after)
        last = next(one.list for one in reversed(behind) if one.list is not None)
        fetch = fetch_behind(contents.checkpoint, next(one.batch_id for one in reversed(behind) if one.list is last))
        _check_sections(check, fetch, last)
        of_operator = {} if recorded is None else recorded.get(operator, {})
        definition = of_operator.get(last.generation, OperatorRecord()).definition
        if definition is not None and definition["kind"] == CallEach.kind and not check.faults:
            _check_timers(check, fetch, last)
        yield check


def _check_list(check: Check, operator: str, before: _Behind | None, after: _Behind) -> None:
    """One list, and that it follows the one before."""
    if after.list is None:
        return
    check.examined += 1
    if after.list.fired_ms is not None and after.list.is_due(after.list.fired_ms):
        check.fault(operator, f"a timer of batch {after.batch_id} is behind the time up to which it fired. {_RESTORE}")
    firsts = [one.first_hash for one in after.list.slices]
    if firsts[:1] != [0] or any(one >= other for one, other in pairwise([*firsts, HASHES])):
        check.fault(
            operator, f"the slices of its list in batch {after.batch_id} do not hold every hash once. {_RESTORE}"
        )
    if before is None or before.list is None or before.batch_id + 1 != after.batch_id:
        return
    if before.list.generation != after.list.generation:
        return
    own = f"/{after.batch_id:020d}-"
    strange = [key for key in sorted(after.list.object_keys - before.list.object_keys) if own not in key]
    if strange:
        check.fault(
            operator, f"batch {after.batch_id} names {strange[0]}, which the batch before did not have. {_RESTORE}"
        )
    if before.list.fired_ms is not None and (after.list.fired_ms is None or after.list.fired_ms < before.list.fired_ms):
        check.fault(
            operator,
            f"batch {after.batch_id} says that timers have fired up to {after.list.fired_ms}, the batch before up to "
            f"{before.list.fired_ms}: they would fire again. {_RESTORE}",
        )


def _check_generations(
    check: Check, operator: str, recorded: Mapping[int, OperatorRecord], before: _Behind | None, after: _Behind
) -> None:
    """That what a list is of is defined, and that no list ends unless the operator was dropped."""
    if after.list is not None and recorded.get(after.list.generation, OperatorRecord()).definition is None:
        key = layout.operator_key(operator, after.list.generation)
        check.fault(
            key, f"it is missing, though batch {after.batch_id} has state that is sorted by its seed. {_RESTORE}"
        )
    if before is None or before.list is None or before.batch_id + 1 != after.batch_id:
        return
    ended = before.list.generation
    goes_on = after.list is not None and after.list.generation == ended
    if not goes_on and not recorded.get(ended, OperatorRecord()).is_dropped:
        check.fault(
            operator,
            f"its state ends with batch {before.batch_id}, while batch {after.batch_id} is decided, and nobody has dropped it. "
            f"{_RESTORE}",
        )


def _check_timers(check: Check, fetch: Fetch, newest: StateList) -> None:
    for one in newest.slices:
        before_ms = NEVER if one.next_due_ms is None else one.next_due_ms
        with suppress(SweptMeanwhile):
            missed = sum(len(due.rows) for due in due_rows(runs_of(one, fetch), None, before_ms - 1))
            if missed:
                check.fault(
                    f"hashes from {one.first_hash:x}",
                    f"timers are due before the time that is said to be the next: {missed}. {_RESTORE}",
                )


def _check_sections(check: Check, fetch: Fetch, newest: StateList) -> None:
    def fault_of(section: Section) -> str | None:
        try:
            read_section(section, fetch(section.object_key, section.offset, section.size_bytes))
        except SweptMeanwhile:
            return None
        except BeamExactlyOnceError as error:
            return str(error)
        return None

    for section, fault in side_by_side(fault_of, newest.sections):
        check.examined += 1
        if fault is not None:
            check.fault(section.object_key, fault)


_RESTORE = "Restore the checkpoint from a copy."
