"""Rows of PostgreSQL's binary COPY: each value has the bytes that its documentation says, also of slices and beside nulls."""

from __future__ import annotations

import datetime
import decimal
import struct
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.sinks.sql.binary_copy import binary_rows, is_known

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=100)


def sent(types: dict[str, str], **columns: pa.Array) -> list[list[bytes | None]]:
    """The bytes of each value, row by row."""
    rows = bytes(binary_rows(pa.record_batch(columns), types))
    found, at = [], 0

    def values() -> Iterator[bytes | None]:
        nonlocal at
        (count,) = struct.unpack_from(">h", rows, at)
        at += 2
        for _ in range(count):
            (length,) = struct.unpack_from(">i", rows, at)
            at += 4 + max(length, 0)
            yield None if length < 0 else rows[at - length : at]

    while at < len(rows):
        found.append(list(values()))
    return found


def number_of(sent: bytes | None) -> Decimal | None:
    if sent is None:
        return None
    groups, weight, sign, _ = struct.unpack_from(">hhHh", sent)
    digits = struct.unpack(f">{groups}h", sent[8:])
    with decimal.localcontext(decimal.Context(prec=100)):
        size = sum(
            (Decimal(digit) * Decimal(10_000) ** (weight - place) for place, digit in enumerate(digits)), Decimal()
        )
        return -size if sign else size


@repeatable
@given(st.data())
def test_decimals_of_any_type(data: st.DataObject) -> None:
    precision = data.draw(st.integers(1, 38))
    scale = data.draw(st.integers(0, precision))
    most = 10**precision - 1
    counts = data.draw(st.lists(st.none() | st.sampled_from([0, most, -most]) | st.integers(-most, most), min_size=1))
    with decimal.localcontext(decimal.Context(prec=50)):
        values = [None if count is None else Decimal(count).scaleb(-scale) for count in counts]
    first = data.draw(st.integers(0, len(values) - 1))
    column = pa.array(values, pa.decimal128(precision, scale)).slice(first)
    assert [number_of(value) for (value,) in sent({"v": "numeric"}, v=column)] == values[first:]


MOMENT = datetime.datetime(1999, 12, 31, 23, 59, 59, 999999)


@pytest.mark.parametrize(
    ("declared", "column", "expected"),
    [
        ("bool", pa.array([True, False]), [b"\1", b"\0"]),
        ("int2", pa.array([-2], pa.int16()), [b"\xff\xfe"]),
        ("int8", pa.array([2**63 - 1]), [b"\x7f" + b"\xff" * 7]),
        ("float4", pa.array([0.1]), [struct.pack(">f", 0.1)]),
        ("float8", pa.array([0.1]), [struct.pack(">d", 0.1)]),
        (
            "date",
            pa.array([datetime.date(2000, 1, 2), datetime.date(1, 1, 1)]),
            [b"\0\0\0\1", struct.pack(">i", -730119)],
        ),
        ("time", pa.array([datetime.time(0, 0, 1)]), [struct.pack(">q", 10**6)]),
        ("timestamp", pa.array([MOMENT]), [struct.pack(">q", -1)]),
        ("timestamptz", pa.array([MOMENT], pa.timestamp("us", "UTC")), [struct.pack(">q", -1)]),
        ("bytea", pa.array([b"\xff", b""]), [b"\xff", b""]),
        ("text", pa.array(["ü", ""]), ["ü".encode(), b""]),
        ("jsonb", pa.array(['{"a":1}']), [b'\1{"a":1}']),
        ("uuid", pa.array([str(uuid.UUID(int=10))]), [uuid.UUID(int=10).bytes]),
    ],
)
def test_values_of_each_type_beside_nulls(declared: str, column: pa.Array, expected: list[Any]) -> None:
    assert is_known(column.type, declared)
    with_nulls = pa.concat_arrays([pa.nulls(2, column.type), column, pa.nulls(1, column.type)]).slice(1)
    for values, bytes_sent in ((column, expected), (with_nulls, [None, *expected, None])):
        numbers = pa.array(range(len(values)), pa.int32())
        types = {"before": "int4", "v": declared, "behind": "text"}
        rows = sent(types, before=numbers, v=values, behind=numbers.cast(pa.string()))
        of_numbers = [(struct.pack(">i", one), b"%d" % one) for one in range(len(values))]
        assert rows == [[first, value, last] for value, (first, last) in zip(bytes_sent, of_numbers, strict=True)]


@pytest.mark.parametrize(
    ("kind", "declared"),
    [
        (pa.int64(), "int4"),
        (pa.string(), "numeric"),
        (pa.decimal256(50, 2), "numeric"),
        (pa.timestamp("us"), "timestamptz"),
        (pa.timestamp("ms"), "timestamp"),
        (pa.list_(pa.int32()), "_int4"),
        (pa.string(), "inet"),
        (pa.string(), ""),
    ],
)
def test_other_types_go_as_text(kind: pa.DataType, declared: str) -> None:
    assert not is_known(kind, declared)
