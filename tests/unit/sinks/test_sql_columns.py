"""A column of an Arrow batch is staged as its values are one by one, or refused as they are."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.sinks.sql.table import Column, SqlTable
from beam_exactly_once.sinks.sql.types import column_type

NO_UTF8 = pa.array([b"\xff"]).view(pa.string())
BEYOND = pa.array([2**62], pa.int64()).view(pa.timestamp("us"))
GIVEN: list[tuple[Any, pa.Array]] = [
    (sa.BigInteger(), pa.array([1, None, 2**63 - 1])),
    (sa.BigInteger(), pa.array([1, None], pa.int16())),
    (sa.SmallInteger(), pa.array([1, None])),
    (sa.SmallInteger(), pa.array([2**15])),
    (sa.BigInteger(), pa.array([2**63], pa.uint64())),
    (sa.BigInteger(), pa.array([1.0])),
    (sa.Double(), pa.array([0.1, None])),
    (sa.Double(), pa.array([1, 2**53 + 1])),
    (sa.REAL(), pa.array([1e300])),
    (sa.Boolean(), pa.array([True, None])),
    (sa.Boolean(), pa.array([1])),
    (sa.Numeric(5, 2), pa.array([Decimal("1.25"), None])),
    (sa.Numeric(5, 2), pa.array([Decimal("1.255")])),
    (sa.Numeric(), pa.array([Decimal("1.255")])),
    (sa.Text(), pa.array(["a", None, ""])),
    (sa.Text(), pa.array(["a\0"])),
    (sa.Text(), NO_UTF8),
    (sa.VARCHAR(3), pa.array(["üüü", None])),
    (sa.VARCHAR(3), pa.array(["abcd"])),
    (sa.CHAR(3), pa.array(["ab "])),
    (sa.LargeBinary(), pa.array([b"\0", None])),
    (sa.Date(), pa.array([datetime.date(2024, 2, 29), None])),
    (sa.Date(), pa.array([2**30], pa.int32()).view(pa.date32())),
    (sa.DateTime(), pa.array([datetime.datetime(2024, 2, 29, 1, 2, 3, 4), None])),
    (sa.DateTime(), BEYOND),
    (postgresql.TIMESTAMP(precision=0), pa.array([datetime.datetime(2024, 2, 29, 1, 2, 3, 4)])),
    (sa.DateTime(timezone=True), pa.array([datetime.datetime(2024, 2, 29)], pa.timestamp("us", "UTC"))),
    (postgresql.JSONB(), pa.array(["a", None])),
    (sa.Uuid(), pa.array(["00000000-0000-0000-0000-00000000000A", None])),
]


@pytest.mark.parametrize(("declared", "given"), GIVEN, ids=lambda one: str(getattr(one, "type", one)))
@pytest.mark.parametrize("is_required", [False, True])
def test_a_column_is_staged_as_its_values_are(declared: Any, given: pa.Array, is_required: bool) -> None:
    kind = column_type(declared, "postgresql")
    assert kind is not None
    table = SqlTable("t", (Column("v", repr(declared), kind, is_required, False),), is_whole=True)
    batch = pa.RecordBatch.from_arrays([given], names=["v"])
    try:
        expected = table.block_of_rows(batch.to_pylist())
    except (UnfitRow, ValueError, OverflowError):  # some of them are no values of Python
        with pytest.raises(UnfitRow):
            table.block_of_batch(batch)
    else:
        assert table.block_of_batch(batch).equals(expected)
