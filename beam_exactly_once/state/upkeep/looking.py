"""What people ask of state: which operators there are, what one remembers of a key, and all of it. Reads only."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.checkpoint import Checkpoint, Marker
from beam_exactly_once.checkpoint.inspection import open_readable
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.rows.json_values import shown_value
from beam_exactly_once.state import tagged
from beam_exactly_once.state.definition import OperatorDefinition, recorded_definition
from beam_exactly_once.state.hashing import hash_keys
from beam_exactly_once.state.joins.operator import JoinEach
from beam_exactly_once.state.joins.subkeys import places_in, times_of
from beam_exactly_once.state.keys import decode_keys, encode_key
from beam_exactly_once.state.merging import merged
from beam_exactly_once.state.ordering import flags
from beam_exactly_once.state.run import NEVER, Run
from beam_exactly_once.state.section import runs_of
from beam_exactly_once.state.state_list import Slice, StateList
from beam_exactly_once.state.upkeep.reading import fetch_behind
from beam_exactly_once.state.windows.operator import CombineInWindows
from beam_exactly_once.state.windows.slides import SlideEach
from beam_exactly_once.state.windows.window_keys import ends_of, user_keys

_OF_WINDOWS = (CombineInWindows.kind, SlideEach.kind)


@dataclass(frozen=True, slots=True)
class OperatorSummary:
    """An operator, as a marker has it."""

    name: str
    kind: str
    state: str
    keys: int
    size_bytes: int
    sections: int
    objects: int
    slices: int
    max_sections_a_slice: int
    """A look-up reads so many at the most."""
    next_due_ms: int | None
    """No window closes, no row is given alone and no timeout is called before it; None if nothing waits."""

    def to_json(self) -> Json:
        """For machines."""
        return {field: getattr(self, field) for field in self.__slots__}


@dataclass(frozen=True, slots=True)
class RememberedKey:
    """What is remembered of one key."""

    key: Any
    value: Any
    """Without the code that wrote it: the bytes of a coder in base64."""
    version: int
    """Of the state type that wrote it."""
    expires_at_ms: int | None
    at_ms: int | None = None
    """Where its window ends, or when the row happened that waits to be joined."""

    def to_json(self) -> Json:
        """For machines. What JSON does not know is text, bytes in base64; an int may have any size."""
        stored = {"key": shown_value(self.key), "value": shown_value(self.value)}
        at = {} if self.at_ms is None else {"at_ms": self.at_ms}
        return {**stored, **at, "version": self.version, "expires_at_ms": self.expires_at_ms}


class StateView:
    """The state of a stream behind one batch.

    Args:
        store: the checkpoint location.
        batch_id: a batch whose marker is retained; None is the newest.

    Raises:
        ConfigurationError: there is no such marker.
        CheckpointError: the checkpoint cannot be used.
    """

    def __init__(self, store: ObjectStore, batch_id: int | None = None) -> None:
        self._checkpoint: Checkpoint = open_readable(store)
        marker = self._checkpoint.newest_marker() if batch_id is None else self._checkpoint.read_marker(batch_id)
        if marker is None:
            which = (
                "no batch is decided yet"
                if batch_id is None
                else f"batch {batch_id} has no marker any more, or not yet"
            )
            raise ConfigurationError(
                f"{store.uri}: {which}. `beam-exactly-once status {store.uri}` shows the batches it has."
            )
        self.marker: Marker = marker
        self._recorded = self._checkpoint.operators() if marker.state else {}

    def operators(self) -> list[OperatorSummary]:
        """Of every operator, how much it remembers."""
        return operators_behind(self._checkpoint, self.marker)

    def of_key(self, operator: str, key: Any) -> list[RememberedKey]:
        """What an operator remembers of a key: one thing, or one for each window, or each row that waits to be joined.

        Reads the sections of one slice.

        Raises:
            ConfigurationError: there is no such operator.
            UnfitRow: this is not a key.
            CheckpointHole, CorruptObject: a section is gone, or damaged.
            SweptMeanwhile: the stream has swept one meanwhile.
        """
        state = self._list_of(operator)
        encoded = pa.array([encode_key(key, operator=operator)], pa.large_binary())
        definition = self._definition(operator, state)
        (key_hash,) = hash_keys(encoded, definition.seed).tolist()
        of_slice = next(one for one in state.slices if one.first_hash <= key_hash < one.end_hash)
        if not of_slice.sections:
            return []
        run = self._run_of(of_slice, state.fired_ms)
        # By their bytes: to Python, 1, True and 1.0 are one key.
        rows = np.flatnonzero(flags(pc.equal(_keys_of(run, definition), encoded[0])))
        return list(_remembered(run.rows_at(rows), definition))

    def all_keys(self, operator: str) -> Iterator[RememberedKey]:
        """All that an operator remembers, slice by slice.

        Raises:
            ConfigurationError: there is no such operator.
            CheckpointHole, CorruptObject: a section is gone, or damaged.
            SweptMeanwhile: the stream has swept one meanwhile.
        """
        state = self._list_of(operator)
        for one in filter(lambda one: one.sections, state.slices):
            yield from _remembered(self._run_of(one, state.fired_ms), self._definition(operator, state))

    def _definition(self, operator: str, state: StateList) -> OperatorDefinition:
        return recorded_definition(self._checkpoint, self._recorded, operator, state.generation)

    def _list_of(self, operator: str) -> StateList:
        if operator not in self.marker.state:
            names = ", ".join(sorted(self.marker.state)) or "none"
            raise ConfigurationError(
                f"there is no operator {operator!r} behind batch {self.marker.batch_id}: there are {names}."
            )
        return StateList.from_json(self.marker.state[operator])

    def _run_of(self, one: Slice, fired_ms: int | None) -> Run:
        """What is alive of a slice: what has expired goes only when its rows are merged."""
        run = merged(runs_of(one, fetch_behind(self._checkpoint, self.marker.batch_id)), drop_tombstones=True)
        return run if fired_ms is None else run.rows_at(np.flatnonzero(run.expiry_ms > fired_ms))


def _remembered(run: Run, definition: OperatorDefinition) -> Iterator[RememberedKey]:
    rows = decode_keys(_keys_of(run, definition)), _values(run, definition.state), _times_of(run, definition)
    for key, value, at_ms, version, expiry in zip(*rows, run.versions.tolist(), run.expiry_ms.tolist(), strict=True):
        yield RememberedKey(key, value, version, None if expiry == NEVER else expiry, at_ms)


def _keys_of(run: Run, definition: OperatorDefinition) -> pa.LargeBinaryArray:
    """The keys of users, encoded: those of windows have the window's end behind them."""
    return user_keys(run.keys) if definition.kind in _OF_WINDOWS else run.keys


def _times_of(run: Run, definition: OperatorDefinition) -> list[int | None]:
    if definition.kind in _OF_WINDOWS:
        return [None if end_ms == NEVER else end_ms for end_ms in ends_of(run.keys).tolist()]
    if definition.kind == JoinEach.kind:
        return list(times_of(places_in(run.subkeys)).tolist())
    return [None] * len(run)


def operators_behind(checkpoint: Checkpoint, marker: Marker) -> list[OperatorSummary]:
    """Of every operator, how much it remembers, as a marker says.

    Raises:
        CheckpointHole: a definition is gone.
    """
    recorded = checkpoint.operators() if marker.state else {}
    found = []
    for name, stored in sorted(marker.state.items()):
        state = StateList.from_json(stored)
        definition = recorded_definition(checkpoint, recorded, name, state.generation)
        counts = state.keys, state.size_bytes, len(state.sections), len(state.object_keys), len(state.slices)
        most = max(len(one.sections) for one in state.slices)
        found.append(OperatorSummary(name, definition.kind, definition.state, *counts, most, state.next_due_ms))
    return found


def _values(run: Run, state: str) -> list[Any]:
    """The values of a run, without the code that wrote them; None of a key that has a timeout alone."""
    if not np.count_nonzero(run.versions):
        return []
    if run.values.null_count:
        there = iter(_values(run.rows_at(np.flatnonzero(flags(run.values.is_valid()))), state))
        return [next(there) if valid else None for valid in run.values.is_valid().to_pylist()]
    match state:
        case "json":
            return list(map(orjson.loads, run.values.to_pylist()))
        case "accumulator":
            return tagged.decode_column(run.values)
        case "coder":
            return [base64.b64encode(value).decode() for value in run.values.to_pylist()]
        case _:
            values: list[Any] = run.values.to_pylist()
            return values
