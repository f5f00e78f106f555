"""``Map``, ``Filter`` and ``FlatMap`` of plain functions, over lists of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import compress, islice
from operator import truth
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.core import CallableWrapperDoFn, _DoFnParam
from apache_beam.transforms.window import GlobalWindows, TimestampedValue
from apache_beam.utils.windowed_value import HomogeneousWindowedBatch, WindowedValue

from beam_exactly_once.transforms.in_lists.row_list import RowList, step_state

MAX_MADE_ROWS = 1000
"""Rows in a list that a ``FlatMap`` gives: enough to hide the cost of a call, whatever one row becomes."""
_MAIN = "None"
"""How Beam tags the only output of a step."""
_MORE_THAN_ROWS = (TaggedOutput, WindowedValue, TimestampedValue)
"""What a function may return that says more of a row than its value."""


def _same(row: Any) -> Any:
    return row


def _code(step: beam.ParDo) -> Any:
    return step.fn._fn.__code__


# A wrapper around the user's function is made by beam.Map if its code is.
_MAPS = {_code(beam.Map(_same)), _code(beam.Map(lambda row, *more: row))}
_FILTERS = {_code(beam.Filter(_same))}


def function_in_lists(step: beam.ParDo) -> CallableWrapperDoFn | None:
    """A DoFn that calls the function of ``step`` for each row of a list; None if Beam does more than to call it."""
    dofn = step.fn
    if type(step) is not beam.ParDo or type(dofn) is not CallableWrapperDoFn:
        return None
    if step.args or step.kwargs or step.side_inputs:
        return None
    if any(isinstance(default, _DoFnParam) for default in dofn._inspect_process()[1]):
        return None
    code = getattr(dofn._fn, "__code__", None)
    kind = _MapOfLists if code in _MAPS else _FilterOfLists if code in _FILTERS else _FlatMapOfLists
    made = kind.__new__(kind)
    made.__dict__.update(dofn.__dict__)
    return made


class _OfLists(CallableWrapperDoFn):
    """Takes single rows as well, as before."""

    def start_bundle(self) -> None:
        """Find where the function's counters count."""
        self._state = step_state()

    def process_batch(self, rows: RowList) -> Iterable[Any]:
        """Call the function for each row."""
        with self._state:
            made = self.made_of(rows)
        return handed_on(made)

    def made_of(self, rows: RowList) -> RowList:
        """What is made of all of them."""
        raise NotImplementedError


def _wrapped_by(wrapper: Any) -> Any:
    """The user's function in a wrapper of Beam's."""
    (cell,) = wrapper.__closure__
    return cell.cell_contents


class _MapOfLists(_OfLists):
    def made_of(self, rows: RowList) -> RowList:
        call = _wrapped_by(self._fn)
        # Not map(), which would end, without a word, where the function raises StopIteration.
        return rows.made([call(row) for row in rows.walk()], rows.places)


class _FilterOfLists(_OfLists):
    def made_of(self, rows: RowList) -> RowList:
        call = _wrapped_by(self._fn)
        kept = [truth(call(row)) for row in rows.walk()]
        if all(kept):
            return rows
        return rows.made(list(compress(rows.rows, kept)), list(compress(rows.places, kept)))


class _FlatMapOfLists(_OfLists):
    """Rows are handed on while the function still makes others: one row may become more than memory holds."""

    def process_batch(self, rows: RowList) -> Iterator[Any]:
        """Call the function for each row."""
        lists = self._lists(rows)
        while (made := self._next(lists)) is not None:
            yield from handed_on(made)

    def _next(self, lists: Iterator[RowList]) -> RowList | None:
        with self._state:
            return next(lists, None)

    def _lists(self, rows: RowList) -> Iterator[RowList]:
        made: list[Any] = []
        places: list[int] = []
        walk = rows.walk()
        for row, place in zip(walk, rows.places, strict=True):
            of_row = self.process(row)
            more = iter(() if of_row is None else of_row)
            while some := list(islice(more, MAX_MADE_ROWS)):
                made += some
                places += [place] * len(some)
                if len(made) >= MAX_MADE_ROWS:
                    yield rows.made(made, places)
                    rows.note(walk)  # others have walked through what was made
                    made, places = [], []
        if made:
            yield rows.made(made, places)


def handed_on(made: RowList) -> Iterable[Any]:
    """What Beam is given of what a function made: one list, or each row alone where some say more than their value."""
    if not made.rows:
        return []
    if any(issubclass(kind, _MORE_THAN_ROWS) for kind in {*map(type, made.rows)}):
        return _one_by_one(made)
    return [made]


def _one_by_one(made: RowList) -> Iterator[Any]:
    """Each with what it says of itself, as Beam takes it from single rows."""
    for row, place in zip(made.rows, made.places, strict=True):
        if isinstance(row, TaggedOutput):
            if row.tag != _MAIN:
                continue  # of an output that the step does not have
            row = row.value
        if isinstance(row, WindowedValue):
            of_value = made.made([row.value], [place])
            yield HomogeneousWindowedBatch.of(of_value, row.timestamp, row.windows, row.pane_info)
        elif isinstance(row, TimestampedValue):
            yield GlobalWindows.windowed_batch(made.made([row.value], [place]), row.timestamp)
        else:
            yield made.made([row], [place])
