"""JSON becomes columns a chunk at a time; the record that does not fit is rejected, or named, and the others stay together."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from beam_exactly_once import ExactlyOnceStream, JsonDecoder, ReadFromKafka, WriteToFiles
from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.testing import run_in_memory

SCHEMA = pa.schema([("n", pa.int64()), ("amount", pa.decimal128(6, 2))])
BAD = {17: b'{"n":1.5,"amount":1}', 500: b'{"n":1,"amount":1.005}', 501: b'{"n":1,"n":2}', 999: None}
VALUES = [BAD.get(number, b'{"n":%d,"amount":0.1}' % number) for number in range(1200)]


def even(rows: pa.RecordBatch) -> pa.RecordBatch:
    return rows.filter(pc.equal(pc.bit_wise_and(rows["n"], 1), 0))


def read(stream: ExactlyOnceStream, **arguments: Any) -> Any:
    decoder = JsonDecoder(SCHEMA, record_columns=["offset"])
    return stream | ReadFromKafka("localhost:9092", ["orders"], decoder=decoder, as_arrow=True, **arguments)


def test_what_does_not_fit_is_rejected_and_all_else_is_columns() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        rows, rejected = read(stream, on_error="reject")
        _ = rows | beam.Map(even) | WriteToFiles("/lake/orders", name="orders")
        _ = rejected | WriteToFiles("/lake/bad", name="bad")

    run = run_in_memory(build, {"orders": [VALUES]})
    expected = [{"n": n, "amount": Decimal("0.10"), "offset": n} for n in range(0, 1200, 2) if n not in BAD]
    assert sorted(run.rows("orders"), key=lambda row: row["n"]) == expected
    assert {row["offset"]: row["value"] for row in run.rows("bad")} == BAD


def test_the_record_that_does_not_fit_is_named() -> None:
    def build(stream: ExactlyOnceStream) -> None:
        _ = read(stream) | WriteToFiles("/lake/orders")

    with pytest.raises(UnfitRow, match=r"cannot decode record orders-0 at offset 17: .* column 'n' is int64"):
        run_in_memory(build, {"orders": [VALUES]})
