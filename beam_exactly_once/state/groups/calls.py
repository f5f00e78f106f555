"""What ``MapGroupsWithState`` does with keys: calls of the user's function, and what each leaves. Pure, but for the function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import Record
from beam_exactly_once.rows.event_times import By
from beam_exactly_once.rows.rejected import Rejected, is_of_row, isolated, rejected_of
from beam_exactly_once.state.groups.group_state import GroupState, Outcome, outcome_of
from beam_exactly_once.state.hashing import Numbers
from beam_exactly_once.state.ordering import Flags
from beam_exactly_once.state.run import NEVER
from beam_exactly_once.state.types import StateType
from beam_exactly_once.state.types.contract import StoredValues
from beam_exactly_once.state.updates import as_it_is, whatever_its_time


@dataclass(frozen=True)
class CallEach:
    """``MapGroupsWithState``: a function that sees the values and the state of a key, and is called at timeouts."""

    fn: Callable[[Any, list[Any], GroupState[Any]], Iterable[Any] | None]
    state_type: StateType
    rejects: bool = False
    """Whether what belongs to a key for which the function raises is rejected; else the batch fails."""
    by: By | None = None
    """When a value happened, if timeouts go by event time."""
    kind: str = field(default="map_groups_with_state", init=False)
    adds_up: bool = field(default=False, init=False)
    ttl_ms: None = field(default=None, init=False)
    folds: None = field(default=None, init=False)
    arrow: None = field(default=None, init=False)

    lifted = staticmethod(as_it_is)
    in_time = staticmethod(whatever_its_time)


class Call(NamedTuple):
    """For which key the function is called, and with what."""

    key: Any
    values: list[Any]
    """None of them at a timeout."""
    state: Any
    """None where there is none."""


@dataclass(slots=True)
class Calls:
    """What calls gave and left, call by call. Nothing is given of a call that failed."""

    outputs: list[list[Any]]
    outcomes: list[Outcome | None]
    """None where the call failed."""
    failed: dict[int, Exception]
    """Why, by the number of the call."""

    def fail(self, number: int, error: Exception) -> None:
        """Give nothing of this call."""
        self.outputs[number], self.outcomes[number], self.failed[number] = [], None, error


def made(operator: CallEach, calls: Iterable[Call], *, now_ms: int, watermark_ms: int | None, timed_out: bool) -> Calls:
    """Call the function, key by key.

    Raises:
        Anything that the function raises, unless it is to be rejected.
    """
    all_made = Calls([], [], {})
    for number, (key, values, value) in enumerate(calls):
        state: GroupState[Any] = GroupState(value, now_ms=now_ms, watermark_ms=watermark_ms, timed_out=timed_out)
        all_made.outputs.append([])
        all_made.outcomes.append(None)
        try:
            all_made.outputs[number] = _listed(operator.fn(key, values, state))
            all_made.outcomes[number] = outcome_of(state)
        except Exception as error:
            if not operator.rejects or not is_of_row(error):
                raise
            all_made.fail(number, error)
    return all_made


def stored(operator: CallEach, name: str, calls: Calls) -> list[StoredValues]:
    """The states that calls have updated, as they are stored, in order. A call whose state cannot be stored has failed.

    Raises:
        UnfitRow: one cannot be, and is not to be rejected.
    """
    updated = [number for number, one in enumerate(calls.outcomes) if one is not None and one.is_updated]
    values = [one.value for one in calls.outcomes if one is not None and one.is_updated]

    def encoded(start: int, stop: int) -> StoredValues:
        return operator.state_type.encode(values[start:stop], operator=name)

    if not operator.rejects:
        return [encoded(0, len(values))]
    return isolated(len(values), encoded, lambda place, error: calls.fail(updated[place], error), is_of_row)


class Left(NamedTuple):
    """What calls leave, one place a call."""

    updated: Flags
    removed: Flags
    due_ms: Numbers
    """``NEVER`` where there is no timeout."""


def left_by(calls: Calls, old_ms: Numbers, upper_ms: int, *, timed_out: bool) -> Left:
    """What calls leave of their keys.

    A timeout that is not set again is cleared. None is due at or before ``upper_ms``: the batch has fired that far, and calls a
    key once. A call that failed forgets its key at a timeout, which would be due again and again; with values it leaves the key
    as it was.

    Args:
        calls: all of them, those that failed among them.
        old_ms: when each key was due.
        upper_ms: up to where the batch fires.
        timed_out: whether they are calls of timeouts.
    """
    outcomes = calls.outcomes
    failed = np.array([one is None for one in outcomes], np.bool_)
    asked_ms = np.array(
        [NEVER if one is None or one.timeout_ms is None else one.timeout_ms for one in outcomes], np.int64
    )
    return Left(
        np.array([one is not None and one.is_updated for one in outcomes], np.bool_),
        np.array([timed_out if one is None else one.is_removed for one in outcomes], np.bool_),
        np.maximum(asked_ms if timed_out else np.where(failed, old_ms, asked_ms), upper_ms + 1),
    )


def rejected_rows(call: Call, error: Exception, *, step: str) -> list[Rejected]:
    """What belongs to a key for which the function raised and would be lost: its values; at a timeout its state, which goes."""
    rows: list[Any] = [value if isinstance(value, Record) else (call.key, value) for value in call.values]
    return [rejected_of(row, error, step=step) for row in rows or [{"key": call.key, "state": call.state}]]


def _listed(emitted: Iterable[Any] | None) -> list[Any]:
    """What a call gave, all of it, before anything is emitted.

    Raises:
        ConfigurationError: it is one value, which would be taken to pieces.
    """
    if isinstance(emitted, str | bytes | Mapping):
        raise ConfigurationError(
            f"fn of MapGroupsWithState gave a {type(emitted).__name__}; it must yield what it emits, or return a list."
        )
    return [] if emitted is None else list(emitted)
