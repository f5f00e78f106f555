"""A column of a dictionary is in CSV, or is refused, as the values that its rows have: those that none has count for nothing."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.sinks.files.text_lines import csv_columns

# Derandomised: the same examples in every run. No deadline: a slow machine is no fault.
repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=200)

YEAR_10000 = 2_932_897
DAYS = pa.array([1, YEAR_10000, None], pa.int32()).view(pa.date32())
TEXTS = pa.array([b"a", b"\xff", None])


def columns(*given: pa.Array) -> pa.RecordBatch | None:
    try:
        return csv_columns(pa.RecordBatch.from_arrays(list(given), names=["x", "i"][: len(given)]))
    except UnfitRow:
        return None


@repeatable
@given(st.sampled_from([DAYS, TEXTS]), st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=3), st.booleans())
@example(DAYS, [0], True)
@example(TEXTS, [0], True)
@example(DAYS, [2], False)
def test_a_dictionary_is_the_values_of_its_rows(values: pa.Array, rows: list[int | None], with_another: bool) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array(rows, pa.int8()), values)
    others = [pa.array(range(len(rows)))] if with_another else []
    assert columns(column, *others) == columns(column.dictionary_decode(), *others)


@pytest.mark.parametrize(("values", "row"), [(DAYS, 1), (TEXTS, 1), (DAYS, 2)], ids=["year", "bytes", "null alone"])
def test_what_a_row_has_is_refused(values: pa.Array, row: int) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, row]), values)
    assert columns(column.slice(0, 1)) is not None
    assert columns(column) is None
