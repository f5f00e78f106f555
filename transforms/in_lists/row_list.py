"""Rows that travel in lists.

Beam calls every step once a row, which costs about as much as what many steps do. It can also hand on batches of rows, to steps
that take them. So where the rows of a stream go from step to step, each step gets a DoFn that takes lists of them; steps,
collections and their types stay as they are. What takes rows one by one still gets them one by one, from Beam.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import length_hint
from typing import Any, Protocol, TypeAlias, runtime_checkable

import apache_beam as beam
from apache_beam.runners.common import DoFnSignature
from apache_beam.runners.worker.statesampler import get_current_tracker
from apache_beam.typehints.batch import BatchConverter

Noting: TypeAlias = Callable[[Callable[[], int]], object]
"""Is given a function that tells which record of a chunk is at hand."""


class RowList:
    """Rows in order, and of which record of a chunk each was made. Nothing of it is changed once it is made.

    Args:
        rows: themselves.
        places: for each row, which record of the chunk it is of.
        noting: takes note of where a step is.
    """

    __slots__ = ("noting", "places", "rows")

    def __init__(self, rows: list[Any], places: Sequence[int], noting: Noting) -> None:
        self.rows = rows
        self.places = places
        self.noting = noting

    def walk(self) -> Iterator[Any]:
        """The rows one by one. A step that fails meanwhile is at the record of the row that was taken last."""
        rows = iter(self.rows)
        self.note(rows)
        return rows

    def note(self, walk: Iterator[Any]) -> None:
        """It is ``walk`` that goes on."""
        self.noting(lambda: self.places[max(0, len(self.rows) - length_hint(walk) - 1)])

    def made(self, rows: list[Any], places: Sequence[int]) -> RowList:
        """Other rows that were made of these."""
        return RowList(rows, places, self.noting)


class _RowLists(BatchConverter):
    """What Beam asks about lists of rows: all lists are of one kind, whatever is in them."""

    def __init__(self) -> None:
        super().__init__(RowList, Any)

    def __eq__(self, other: object) -> bool:
        return type(other) is _RowLists

    def __hash__(self) -> int:
        return hash(_RowLists)

    def produce_batch(self, elements: Sequence[Any]) -> RowList:
        """Rows that came one by one."""
        return RowList(list(elements), range(len(elements)), _noting_nothing)

    def explode_batch(self, batch: RowList) -> Iterator[Any]:
        """One by one."""
        return batch.walk()

    def get_length(self, batch: RowList) -> int:
        """How many elements a collection has more."""
        return len(batch.rows)

    def estimate_byte_size(self, batch: RowList) -> int:
        """Not known: to ask would cost as much as a step."""
        return 0


def _noting_nothing(where: Callable[[], int]) -> None:
    """Nobody has read these rows."""


def step_state() -> AbstractContextManager[Any]:
    """The state of a step while it processes: where Beam counts what its function counts.

    Beam itself enters it for single rows alone. To be called in ``start_bundle``, which runs in the state of the step's start.
    """
    tracker = get_current_tracker()
    if tracker is None:
        return nullcontext()
    start = tracker.current_state()
    state: AbstractContextManager[Any] = tracker.scoped_state(
        start.name_context, "process", metrics_container=start.metrics_container
    )
    return state


@runtime_checkable
class CanBeInLists(Protocol):
    """A DoFn of the library of which there is one for lists of rows."""

    def in_lists(self) -> beam.DoFn:
        """It; it takes single rows as well."""


def with_dofn(step: beam.ParDo, dofn: Any) -> beam.ParDo:
    """A copy of ``step`` whose DoFn takes lists of rows, or gives them, or both. The user's own transform stays as it is."""
    copied = copy.copy(step)
    dofn.input_batch_converter = _RowLists() if dofn._process_batch_defined else None
    dofn.output_batch_converter = _RowLists() if dofn._can_yield_batches else None
    copied.fn = copied.dofn = copied._cached_fn = dofn
    copied._signature = DoFnSignature(dofn)
    return copied
