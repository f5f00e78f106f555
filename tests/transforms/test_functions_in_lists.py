"""Functions over lists of rows, driven by hand: what one step gives for single rows, it gives for a list of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows, TimestampedValue
from apache_beam.utils.windowed_value import HomogeneousWindowedBatch

from beam_exactly_once.transforms.in_lists import functions
from beam_exactly_once.transforms.in_lists.functions import function_in_lists
from beam_exactly_once.transforms.in_lists.row_list import RowList

ROWS = list(range(10))


class Shown:
    """Where a step is, as the reader would be told."""

    which: Callable[[], int] | None = None

    def note(self, which: Callable[[], int]) -> None:
        self.which = which


def twice(row: int) -> Iterator[int]:
    yield row
    yield row


class Halves:
    def __call__(self, row: int) -> list[float]:
        return [row / 2]


def given(step: beam.ParDo, rows: RowList) -> list[Any]:
    """What a step hands on of a list: lists, or rows with times of their own."""
    dofn = function_in_lists(step)
    assert dofn is not None
    dofn.start_bundle()
    return list(dofn.process_batch(rows))  # type: ignore[call-overload]


def row_list(shown: Shown | None = None, places: list[int] | None = None) -> RowList:
    return RowList(list(ROWS), range(len(ROWS)) if places is None else places, (shown or Shown()).note)


STEPS: dict[str, beam.PTransform] = {
    "Map": beam.Map(lambda row: row + 1),
    "Map to None": beam.Map(lambda row: None),
    "Map with a default": beam.Map(lambda row, more=3: row + more),
    "Map of a builtin": beam.Map(str),
    "Filter": beam.Filter(lambda row: row % 3),
    "Filter that drops nothing": beam.Filter(lambda row: True),
    "FlatMap": beam.FlatMap(lambda row: [row] * (row % 4)),
    "FlatMap of a generator": beam.FlatMap(twice),
    "FlatMap of None": beam.FlatMap(lambda row: None if row % 2 else (row,)),
    "FlatMap of text": beam.FlatMap(lambda row: f"<{row}>"),
    "FlatMap of an object": beam.FlatMap(Halves()),
    "MapTuple": beam.MapTuple(lambda row, other: row + other),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_list_becomes_what_its_rows_become(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "MAX_MADE_ROWS", 3)
    step, rows = STEPS[name], row_list()
    if name == "MapTuple":
        rows = rows.made([(row, 1) for row in ROWS], rows.places)
    one_by_one = [(made, place) for place, row in enumerate(rows.rows) for made in step.fn.process(row) or ()]
    lists = given(step, rows)
    assert [pair for made in lists for pair in zip(made.rows, made.places, strict=True)] == one_by_one
    assert all(made.rows for made in lists) or not one_by_one
    assert rows.rows[:1] in ([0], [(0, 1)])  # as it was


def test_what_says_more_of_a_row_than_its_value_goes_alone() -> None:
    def said(row: int) -> Any:
        return {
            0: TimestampedValue(row, 5),
            1: GlobalWindows.windowed_value(row, 7),
            2: TaggedOutput("None", row),
            3: TaggedOutput("an output that the step does not have", row),
        }.get(row, row)

    lists = given(beam.Map(said), row_list())
    assert [type(one) for one in lists] == [HomogeneousWindowedBatch] * 2 + [RowList] * 7
    assert [one.timestamp for one in lists[:2]] == [5, 7]
    assert [one.values.rows for one in lists[:2]] + [one.rows for one in lists[2:]] == [
        [row] for row in ROWS if row != 3
    ]


@pytest.mark.parametrize("kind", [beam.Map, beam.Filter, beam.FlatMap])
def test_a_step_that_fails_is_at_the_record_of_its_row(kind: Any) -> None:
    shown = Shown()
    places = [3 * place for place in range(len(ROWS))]
    with pytest.raises(ZeroDivisionError):
        given(kind(lambda row: [1 // (row - 6)]), row_list(shown, places))
    assert shown.which is not None
    assert shown.which() == 18


@pytest.mark.parametrize("kind", [beam.Map, beam.Filter, beam.FlatMap])
def test_a_function_that_raises_what_ends_an_iterator_fails(kind: Any) -> None:
    with pytest.raises((StopIteration, RuntimeError)):
        given(kind(lambda row: next(iter([[row]] if row < 6 else []))), row_list())


def test_a_step_that_goes_on_behind_others_is_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "MAX_MADE_ROWS", 1)
    shown = Shown()
    step = function_in_lists(beam.FlatMap(lambda row: [1 // (row - 6)]))
    assert step is not None
    step.start_bundle()
    lists = step.process_batch(row_list(shown))  # type: ignore[call-overload]
    with pytest.raises(ZeroDivisionError):
        all(made.walk() for made in lists)
    assert shown.which is not None
    assert shown.which() == 6


@pytest.mark.parametrize(
    "step",
    [
        beam.Map(lambda row, more: row + more, 3),
        beam.Map(lambda row, more: row + more, more=3),
        beam.Map(lambda row, time=beam.DoFn.TimestampParam: row),
        beam.FlatMap(lambda row, window=beam.DoFn.WindowParam: [row]),
        beam.ParDo(beam.transforms.core.DoFn()),
    ],
)
def test_where_beam_does_more_than_to_call_a_function_rows_stay_single(step: beam.ParDo) -> None:
    assert function_in_lists(step) is None
