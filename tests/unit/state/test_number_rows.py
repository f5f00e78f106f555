"""Numbers by columns have the bytes that each accumulator has by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.state import tagged
from beam_exactly_once.state.columns.folds import FoldName, Folds
from beam_exactly_once.state.columns.number_rows import decode_numbers

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=60)

NAMES = st.sampled_from(["sum", "min", "max", "count", "mean"])
FOLDS = st.builds(lambda name: Folds((name,)), NAMES) | st.builds(
    lambda names: Folds(tuple(names), is_tuple=True), st.lists(NAMES, min_size=1, max_size=4)
)
INTS = st.integers(-(1 << 63), (1 << 63) - 1)


@repeatable
@given(FOLDS, st.lists(st.tuples(INTS, st.floats(allow_nan=False)), min_size=1, max_size=5), st.booleans())
def test_columns_have_the_bytes_of_each_accumulator(folds: Folds, rows: list[tuple[int, float]], floats: bool) -> None:
    values = [row[1] if floats else row[0] for row in rows]
    columns = folds.lifted([values] * len(folds.names))
    assert columns is not None
    stored = folds.encoded(columns)
    assert stored.to_pylist() == [tagged.encode(one, tagged.PLAIN) for one in folds.accumulators(columns)]
    read = folds.decoded(pa.concat_arrays([stored, stored]).slice(1))
    assert read is not None
    assert [one.tolist() for one in read] == [np.concatenate([one, one])[1:].tolist() for one in columns]


@pytest.mark.parametrize(
    ("name", "accumulators"),
    [
        ("sum", [[1], [0.5]]),
        ("sum", [[1], [1, 2]]),
        ("sum", [[1 << 63]]),
        ("sum", [(1,)]),
        ("mean", [(1, 2), (0.5, 2)]),
        ("mean", [(1, True)]),
        ("count", ["12345678"]),
        ("max", [[float("nan")]]),
        ("max", []),
    ],
)
def test_what_is_no_column_of_numbers_is_left_to_others(name: FoldName, accumulators: list[Any]) -> None:
    assert Folds((name,)).decoded(tagged.encode_column(accumulators, tagged.PLAIN)) is None


def test_a_slice_of_a_column_is_read_where_it_lies() -> None:
    column = tagged.encode_column([[number] for number in range(9)], tagged.PLAIN)
    found = decode_numbers((b"l", (None,)), column.slice(3, 2))
    assert found is not None
    assert found[0].tolist() == [3, 4]
