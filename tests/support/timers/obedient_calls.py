"""A function of keys that does what its values say, and the same with a plain dict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from beam_exactly_once import GroupState, JsonState
from beam_exactly_once.state.groups.calls import CallEach
from support.timers.operator_in_memory import OperatorInMemory

DOES = ("update", "keep", "remove", "fail", "unfit")
NONE = -1_000
"""Of delays: no timeout."""
DELAYS = (NONE, NONE, -5, 0, 1, 10, 25)


def obey(key: int, values: list[Any], state: GroupState[Any]) -> Iterator[Any]:
    """Does what the least of its values says; at a timeout what the state says."""
    do, delay, then = ordered(values, state.value)
    yield key, sorted(values), None if state.value is None else state.value["calls"], state.timed_out, state.now_ms
    if do == "fail":
        raise ValueError("as it was told")
    if do == "unfit":
        state.update({"calls": float("nan")})
    if do == "update":
        state.update({"calls": calls_of(state.value) + 1, "then": list(then)})
    if do == "remove":
        state.remove()
    if delay != NONE:
        state.set_timeout(state.now_ms + delay)


def ordered(values: list[Any], value: Any) -> Any:
    if values:
        return min(values)
    return ("remove", NONE, ("remove", NONE)) if value is None else (*value["then"], ["remove", NONE])


def calls_of(value: Any) -> int:
    return 0 if value is None else value["calls"]


@dataclass
class Entry:
    value: Any = None
    due_ms: int | None = None


class Oracle:
    """The same with a dict."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.now_ms = 0

    def batch(self, pairs: list[tuple[int, Any]], planned_at_ms: int) -> tuple[list[Any], int]:
        """What the calls of a batch give, and how many rows are rejected."""
        self.now_ms = now = max(self.now_ms, planned_at_ms)
        rows: dict[int, list[Any]] = defaultdict(list)
        for key, value in pairs:
            rows[key].append(value)
        due = {key for key, one in self.entries.items() if one.due_ms is not None and one.due_ms <= now}
        given, rejected = [], 0
        for key in sorted({*rows, *due}):
            entry, values = self.entries.pop(key, Entry()), rows.get(key, [])
            do, delay, then = ordered(values, entry.value)
            if do in ("fail", "unfit"):
                rejected += len(values) or 1
                if values and entry != Entry():
                    self.entries[key] = Entry(entry.value, None if entry.due_ms is None else max(entry.due_ms, now + 1))
                continue
            given.append((key, sorted(values), None if entry.value is None else calls_of(entry.value), not values, now))
            value = {
                "update": {"calls": calls_of(entry.value) + 1, "then": then},
                "keep": entry.value,
                "remove": None,
            }[do]
            due_ms = None if delay == NONE else max(now + delay, now + 1)
            if value is not None or due_ms is not None:
                self.entries[key] = Entry(value, due_ms)
        return given, rejected


class Both:
    """An operator and its oracle, batch by batch."""

    def __init__(self) -> None:
        self.operator = OperatorInMemory(CallEach(obey, JsonState(), rejects=True))
        self.oracle = Oracle()

    def run(self, pairs: list[tuple[int, Any]], planned_at_ms: int, shards: int = 2) -> None:
        """A batch of both, which must give and leave the same."""
        found = self.operator.run(pairs, planned_at_ms, shards=shards)
        given, rejected = self.oracle.batch(pairs, planned_at_ms)
        entries = self.oracle.entries
        assert (sorted(found.rows), len(found.rejected)) == (given, rejected)
        assert self.operator.remembered() == {key: (plain(one.value), one.due_ms) for key, one in entries.items()}
        assert self.operator.state.keys == len(entries)
        next_due_ms = min((one.due_ms for one in entries.values() if one.due_ms is not None), default=None)
        assert self.operator.state.next_due_ms == next_due_ms


def plain(value: Any) -> Any:
    """As JSON has it."""
    return None if value is None else {**value, "then": list(value["then"])}
