"""``WindowEach``: what ``AggregateByWindow`` keeps of each window of a key, and how rows travel that go by event time."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.rows.event_times import By, times_of_batch, times_of_rows
from beam_exactly_once.state.arrow_rows import ArrowRows, tuples_of
from beam_exactly_once.state.columns.folds import Columns, Folds
from beam_exactly_once.state.hashing import Numbers, hash_keys
from beam_exactly_once.state.keyed_chunk import KeyedChunk, Sorted, grouped_rows
from beam_exactly_once.state.keys import encode_key_columns, encode_keys, repeating
from beam_exactly_once.state.ordering import Flags
from beam_exactly_once.state.run import Run
from beam_exactly_once.state.types import StateType
from beam_exactly_once.state.updates import CombineEach, whatever_its_time
from beam_exactly_once.state.windows.window_keys import ends_of, with_ends
from beam_exactly_once.state.windows.windows import Falls, Windows

Emit: TypeAlias = Literal["final", "updates", "all"]


class WindowResult(NamedTuple):
    """What came of one window of one key."""

    key: Any
    window_start_ms: int
    window_end_ms: int
    """The first millisecond behind the window."""
    value: Any


class ByEventTime(abc.ABC):
    """What operators have in common that keep rows apart by when they happened."""

    kind: str
    """The word for it in a definition."""
    by: By
    """When a value happened."""
    ttl_ms: None = None

    in_time = staticmethod(whatever_its_time)  # it is known which rows are late before they are grouped

    @property
    def arrow(self) -> ArrowRows | None:
        """How it takes batches of Arrow, if it takes them."""
        return None

    @property
    @abc.abstractmethod
    def state_type(self) -> StateType:
        """How states are stored."""

    @property
    @abc.abstractmethod
    def adds_up(self) -> bool:
        """Whether a window is emitted again when it changes."""

    @property
    def folds(self) -> Folds | None:
        """What does the same on columns of numbers, if there is something."""
        return None

    @abc.abstractmethod
    def lifted(self, chunk: KeyedChunk) -> KeyedChunk:
        """What travels in the place of the values of keys and windows."""

    @abc.abstractmethod
    def falls(self, times_ms: Numbers, closed_ms: int | None, latest_ms: int) -> tuple[Falls, Numbers]:
        """Where rows fall, and which of them are late.

        Args:
            times_ms: when each row happened.
            closed_ms: up to where earlier batches have closed; None if nothing is closed.
            latest_ms: a row that happened later is from the future, and late.
        """

    def sorted_out(self, rows: Any, *, hash_seed: str, closed_ms: int | None, latest_ms: int, operator: str) -> Sorted:
        """Rows by key and window, without those that come too late.

        Args:
            rows: a batch of Arrow, or keys and as many values.
            hash_seed: of the operator.
            closed_ms: as of :meth:`falls`.
            latest_ms: as of :meth:`falls`.
            operator: its name.

        Raises:
            UnfitRow: a key cannot be stored, a row has no time, or a column cannot be combined.
        """
        times_ms = self._times_of(rows, operator)
        falls, late_rows = self.falls(times_ms, closed_ms, latest_ms)
        encoded, columns, values = self._taken(rows, falls.rows, operator)
        keys = repeating(encoded)
        is_repeating = pa.types.is_dictionary(keys.type)
        each, at = (keys.dictionary, keys.indices.to_numpy()[falls.rows]) if is_repeating else (keys, falls.rows)
        chunk = grouped_rows(
            with_ends(each.take(pa.array(at)), falls.ends_ms),
            hash_seed,
            values=values,
            columns=columns,
            folds=self.folds,
            hashes=hash_keys(each, bytes.fromhex(hash_seed))[at],
        )
        return Sorted(chunk, late_rows)

    def _times_of(self, rows: Any, operator: str) -> Numbers:
        if self.arrow is None:
            return times_of_rows(self.by, rows[1], step=operator)
        self.arrow.columns(rows, operator)  # which refuses what is no batch
        return times_of_batch(self.by, rows, step=operator)

    def _taken(self, rows: Any, at: Numbers, operator: str) -> tuple[pa.Array, Columns | None, Callable[[], list[Any]]]:
        """The keys of all rows, encoded; of those at some places accumulators, if columns have them, and values."""
        if self.arrow is None:
            keys, given = rows
            values = [given[row] for row in at.tolist()]
            columns = None if self.folds is None else self.folds.lifted([values])
            return encode_keys(keys, operator=operator), columns, lambda: values
        key_columns, value_columns = self.arrow.columns(rows, operator)
        taken = [column.take(pa.array(at)) for column in value_columns]
        encoded = encode_key_columns(key_columns, operator=operator)
        return encoded, self.arrow.folds.lifted(taken), lambda: tuples_of(taken)


class CombineInWindows(ByEventTime):
    """``AggregateByWindow``: a ``CombineFn`` whose accumulators are of one key and one window."""

    combine: CombineEach
    emit: Emit
    kind: str = "aggregate_by_window"

    @property
    def state_type(self) -> StateType:
        """Of accumulators."""
        return self.combine.state_type

    @property
    def keeps_all(self) -> bool:
        """Whether windows never close."""
        return self.emit == "all"

    @abc.abstractmethod
    def spans_of(self, run: Run) -> tuple[Numbers, Numbers]:
        """Where the windows of rows of state start and end."""


@dataclass(frozen=True)
class WindowEach(CombineInWindows):
    """With windows that stay as they are."""

    combine: CombineEach
    windows: Windows
    by: By
    emit: Emit

    @property
    def adds_up(self) -> bool:
        """A window that is emitted again has what it had before, and more."""
        return self.emit != "final"

    @property
    def folds(self) -> Folds | None:
        """Of the function."""
        return self.combine.folds

    @property
    def arrow(self) -> ArrowRows | None:
        """Of the function."""
        return self.combine.arrow

    @property
    def definition(self) -> Json:
        """Its windows, as a checkpoint holds them."""
        return self.windows.to_json() | ({"kept": "all"} if self.keeps_all else {})

    def lifted(self, chunk: KeyedChunk) -> KeyedChunk:
        """One accumulator of each."""
        return self.combine.lifted(chunk)

    def falls(self, times_ms: Numbers, closed_ms: int | None, latest_ms: int) -> tuple[Falls, Numbers]:
        """The open windows of rows."""
        return open_windows(self.windows, times_ms, None if self.keeps_all else closed_ms, latest_ms)

    def spans_of(self, run: Run) -> tuple[Numbers, Numbers]:
        """Keys have the ends."""
        ends_ms = ends_of(run.keys)
        return ends_ms - self.windows.size_ms, ends_ms


def open_windows(windows: Windows, times_ms: Numbers, closed_ms: int | None, latest_ms: int) -> tuple[Falls, Numbers]:
    """The open windows of rows, and the rows that have none.

    Args:
        windows: all of them.
        times_ms: when each row happened.
        closed_ms: windows that end no later are closed; None if none is.
        latest_ms: a row that happened later is in none.
    """
    falls = windows.of(times_ms)
    is_open: Flags = times_ms[falls.rows] <= latest_ms
    if closed_ms is not None:
        is_open &= falls.ends_ms > closed_ms
    if is_open.all():
        return falls, np.zeros(0, np.int64)
    rows = falls.rows[is_open]
    has_open = np.zeros(len(times_ms), np.bool_)
    has_open[rows] = True
    return Falls(rows, falls.ends_ms[is_open]), np.flatnonzero(~has_open)
