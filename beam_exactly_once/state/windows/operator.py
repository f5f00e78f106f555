"""``WindowEach``: what ``AggregateByWindow`` keeps of each window of a key, and how rows travel that go by event time."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.rows.event_times import By, times_of_rows
from beam_exactly_once.state.columns.folds import Folds
from beam_exactly_once.state.hashing import Numbers, hash_keys
from beam_exactly_once.state.keyed_chunk import Sorted, grouped_rows
from beam_exactly_once.state.keys import encode_keys
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
    arrow: None = None

    in_time = staticmethod(whatever_its_time)  # it is known which rows are late before they are grouped

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
    def lifted(self, values: list[Any]) -> list[Any]:
        """What travels in the place of the values of one key and window."""

    @abc.abstractmethod
    def falls(self, times_ms: Numbers, closed_ms: int | None, latest_ms: int) -> tuple[Falls, Numbers]:
        """Where rows fall, and which of them are late.

        Args:
            times_ms: when each row happened.
            closed_ms: up to where earlier batches have closed; None if nothing is closed.
            latest_ms: a row that happened later is from the future, and late.
        """

    def sorted_out(
        self,
        keys: Sequence[Any],
        values: Sequence[Any],
        *,
        hash_seed: str,
        closed_ms: int | None,
        latest_ms: int,
        operator: str,
    ) -> Sorted:
        """Rows by key and window, without those that come too late.

        Args:
            keys: of the rows.
            values: as many.
            hash_seed: of the operator.
            closed_ms: as of :meth:`falls`.
            latest_ms: as of :meth:`falls`.
            operator: its name.

        Raises:
            UnfitRow: a key cannot be stored, or a row has no time.
        """
        times_ms = times_of_rows(self.by, values, step=operator)
        falls, late_rows = self.falls(times_ms, closed_ms, latest_ms)
        encoded = encode_keys(keys, operator=operator)
        hashes = hash_keys(encoded, bytes.fromhex(hash_seed))
        of_rows = [values[row] for row in falls.rows.tolist()]
        columns = None if self.folds is None else self.folds.lifted([of_rows])
        chunk = grouped_rows(
            with_ends(encoded.take(pa.array(falls.rows)), falls.ends_ms),
            hash_seed,
            values=lambda: of_rows,
            columns=columns,
            folds=self.folds,
            hashes=hashes[falls.rows],
        )
        return Sorted(chunk, late_rows)


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
    def definition(self) -> Json:
        """Its windows, as a checkpoint holds them."""
        return self.windows.to_json() | ({"kept": "all"} if self.keeps_all else {})

    def lifted(self, values: list[Any]) -> list[Any]:
        """One accumulator."""
        return self.combine.lifted(values)

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
