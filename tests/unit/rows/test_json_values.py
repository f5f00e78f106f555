"""Whatever a row holds can be shown in JSON."""

from __future__ import annotations

import datetime
import json
import math
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.rows.json_values import shown

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=200)

UNITS = ("s", "ms", "us", "ns")
COUNTED = [
    *(pa.timestamp(unit, zone) for unit in UNITS for zone in (None, "UTC", "Nowhere/Land")),
    *(pa.duration(unit) for unit in UNITS),
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time64("ns")),
]
"""Types whose values are numbers, which Arrow does not check."""


def counted(count: int, kind: pa.DataType) -> pa.Array:
    return pa.array([count], pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([datetime.timedelta(seconds=1, microseconds=500_000)]), 1.5),
        (pa.array([2**62], pa.duration("us")), str(datetime.timedelta(microseconds=2**62))),
        (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001 (timestamp[ns])"),
        (pa.array([2**60], pa.timestamp("us")), f"<value out of range: {2**60}> (timestamp[us])"),
        (pa.array([3], pa.duration("ns")), "3 (duration[ns])"),
        (pa.array([datetime.datetime(2026, 1, 2, 3)]), "2026-01-02T03:00:00"),
        (pa.array([datetime.time(1, 2, 3)]), "01:02:03"),
        (pa.array([Decimal("1.50")]), "1.50"),
        (pa.array([b"\xff"]), "/w=="),
        (pa.array([math.nan]), "nan"),
        (pa.array([[{"a": [b"\xff"]}, None]]), [{"a": ["/w=="]}, None]),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [["k", 1]]),
        (pa.array([(1, 2, 3)], pa.month_day_nano_interval()), [1, 2, 3]),
        (pa.array([uuid.UUID(int=1).bytes], pa.uuid()), str(uuid.UUID(int=1))),
    ],
    ids=lambda given: str(given.type) if isinstance(given, pa.Array) else "",
)
def test_a_value_is_shown(column: pa.Array, expected: Any) -> None:
    assert shown(column) == expected


@repeatable
@given(st.sampled_from(COUNTED), st.integers(-(2**63) + 1, 2**63 - 1), st.booleans())
def test_a_number_that_is_no_moment_is_shown(kind: pa.DataType, count: int, in_list: bool) -> None:
    column = counted(count % 2**31 if kind.bit_width == 32 else count, kind)
    if in_list:
        column = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), column)
    assert json.loads(json.dumps(shown(column), allow_nan=False)) == shown(column)
