"""What ``beam-exactly-once verify`` checks of state: the lists of retained markers, and every section that they name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from beam_exactly_once.checkpoint.findings import Check, in_parallel
from beam_exactly_once.checkpoint.verification import Contents
from beam_exactly_once.errors import BeamExactlyOnceError
from beam_exactly_once.state.groups.calls import CallEach
from beam_exactly_once.state.run import NEVER
from beam_exactly_once.state.section import fetch_from, read_section
from beam_exactly_once.state.state_list import Section, StateList
from beam_exactly_once.state.timers import due_rows


def verify_state(contents: Contents) -> Iterator[Check]:
    """Look at the state of every operator. Reads every section of the newest marker, and the lists of all that are retained.

    - A list holds nothing of earlier batches that the list before it lacks.
    - Each section is there, is what its digest says, and sorted.
    - Every operator goes on from batch to batch.
    - No timer that calls is behind the time up to which its batch fired, or before the time that is said to be the next.
    """
    markers = list(contents.retained_markers.values())
    operators = sorted({name for marker in markers for name in marker.state})
    definitions = contents.checkpoint.operators() if operators else {}
    for operator in operators:
        check = Check(f"state of operator {operator}")
        lists = [
            (marker.batch_id, StateList.from_json(marker.state[operator]))
            for marker in markers
            if operator in marker.state
        ]
        _check_lists(check, operator, lists, contents.newest_id)
        _check_sections(check, contents, lists[-1][1])
        if operator in definitions and definitions[operator][0]["kind"] == CallEach.kind and not check.faults:
            _check_timers(check, contents, lists[-1][1])
        yield check


def _check_lists(check: Check, operator: str, lists: list[tuple[int, StateList]], newest_id: int) -> None:
    last_id = lists[-1][0]
    if last_id != newest_id:
        check.fault(operator, f"its state ends with batch {last_id}, while batch {newest_id} is decided. {_RESTORE}")
    for (before_id, before), (batch_id, after) in pairwise(lists):
        check.examined += 1
        if after.next_due_ms is not None and after.next_due_ms <= (after.fired_ms or 0):
            check.fault(operator, f"a timer of batch {batch_id} is behind the time up to which it fired. {_RESTORE}")
        if batch_id != before_id + 1:
            continue
        own = f"/{batch_id:020d}-"
        strange = [key for key in sorted(after.object_keys - before.object_keys) if own not in key]
        if strange:
            check.fault(
                operator, f"batch {batch_id} names {strange[0]}, which the batch before did not have. {_RESTORE}"
            )


def _check_timers(check: Check, contents: Contents, newest: StateList) -> None:
    fetch = fetch_from(contents.checkpoint.store)
    for one in newest.slices:
        runs = [
            read_section(ref, fetch(ref.object_key, ref.offset, ref.size_bytes)).slice(one.first_hash, one.end_hash)
            for ref in one.sections
        ]
        before_ms = NEVER if one.next_due_ms is None else one.next_due_ms
        missed = sum(len(due.rows) for due in due_rows(runs, None, before_ms - 1))
        if missed:
            check.fault(
                f"hashes from {one.first_hash:x}",
                f"timers are due before the time that is said to be the next: {missed}. {_RESTORE}",
            )


def _check_sections(check: Check, contents: Contents, newest: StateList) -> None:
    fetch = fetch_from(contents.checkpoint.store)

    def fault_of(section: Section) -> str | None:
        try:
            read_section(section, fetch(section.object_key, section.offset, section.size_bytes))
        except BeamExactlyOnceError as error:
            return str(error)
        return None

    for section, fault in in_parallel(newest.sections, fault_of):
        check.examined += 1
        if fault is not None:
            check.fault(section.object_key, fault)


_RESTORE = "Restore the checkpoint from a copy."
