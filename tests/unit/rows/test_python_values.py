"""What can be read as Python values is let through, what cannot is found: by comparison with the reading itself."""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.python_values import refuse_unreadable

TYPES = [
    pa.date32(),
    *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "No/Where")),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    pa.time64("ns"),
    pa.int64(),
]
COUNTS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**6), st.integers(-800_000, 3_000_000))


@given(st.sampled_from(TYPES), st.lists(COUNTS, max_size=4), st.booleans())
def test_what_is_let_through_is_what_can_be_read(
    arrow_type: pa.DataType, counts: list[int | None], nested: bool
) -> None:
    integer = pa.int32() if arrow_type == pa.date32() else pa.int64()
    if arrow_type == pa.date32():
        counts = [None if one is None else max(-(2**31), min(2**31 - 1, one)) for one in counts]
    if arrow_type == pa.time64("ns"):
        counts = [None if one is None else abs(one) % (86_400 * 10**9) for one in counts]
    column = pa.array(counts, integer).view(arrow_type)
    if nested:
        column = pa.StructArray.from_arrays([column], ["inner"])
    batch = pa.record_batch({"at": column})
    with contextlib.suppress(Exception):
        batch.to_pylist()
        refuse_unreadable(batch)
        return
    with pytest.raises(UnfitRow, match="column 'at' is of type"):
        refuse_unreadable(batch)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
        pa.array([2**31 - 1], pa.int32()).view(pa.date32()),
        pa.array([0], pa.timestamp("us", "No/Where")),
        pa.array([[1]], pa.list_(pa.timestamp("ns"))),
    ],
    ids=lambda column: str(column.type),
)
def test_no_value_is_in_the_message(column: Any) -> None:
    with pytest.raises(UnfitRow) as raised:
        refuse_unreadable(pa.record_batch({"at": column}))
    assert "1700000000" not in str(raised.value)
