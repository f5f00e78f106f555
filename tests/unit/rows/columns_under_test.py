"""One value, or one column, on its way into a column of another type: as sinks take rows, and as they take Arrow batches."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import settings

from beam_exactly_once.rows.columns import batch_of_rows, fitted_batch

# Derandomised: the same examples in every run. No deadline: a slow machine is no fault.
repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=400)


def in_column(value: Any, arrow_type: pa.DataType) -> Any:
    (found,) = batch_of_rows([{"v": value}], pa.schema([("v", arrow_type)])).column(0).to_pylist()
    return found


def cast(values: pa.Array, arrow_type: pa.DataType) -> list[Any]:
    batch = pa.RecordBatch.from_arrays([values], names=["v"])
    found: list[Any] = fitted_batch(batch, pa.schema([("v", arrow_type)])).column(0).to_pylist()
    return found
