"""Rows are told apart by their values, whatever their order and however they are cut."""

from __future__ import annotations

import datetime
import random
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from beam_exactly_once.rows.digests import RowsDigest, digest_of
from beam_exactly_once.rows.shards import shards_by, shards_by_content

SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("flag", pa.bool_()),
        ("ratio", pa.float64()),
        ("amount", pa.decimal128(18, 4)),
        ("day", pa.date32()),
        ("moment", pa.timestamp("us", "UTC")),
        ("text", pa.string()),
        ("raw", pa.binary()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("tags", pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))),
        ("nothing", pa.null()),
    ]
)


def row_of(number: int) -> dict[str, Any]:
    return {
        "number": number,
        "flag": number % 2 == 0,
        "ratio": number / 7,
        "amount": Decimal(number) / 10,
        "day": datetime.date(2026, 1, 1) + datetime.timedelta(number),
        "moment": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=number),
        "text": f"number {number}",
        "raw": bytes([number % 256]),
        "kind": "even" if number % 2 == 0 else "odd",
        "tags": [{"key": "n", "value": b"%d" % number}],
        "nothing": None,
    }


def batch_of(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=schema)


ROWS = [row_of(number) for number in range(100)]


def test_neither_order_nor_cuts_count() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    shuffled = random.Random(seed).sample(ROWS, len(ROWS))
    whole = batch_of(shuffled)
    cut = [whole.slice(0, 13), whole.slice(13, 50), whole.slice(63)]
    assert digest_of(cut) == digest_of([batch_of(ROWS)])
    assert digest_of(cut).rows == 100


@pytest.mark.parametrize("column", [name for name in SCHEMA.names if name != "nothing"])
@pytest.mark.parametrize("to", ["another value", "null"])
def test_every_column_counts(column: str, to: str) -> None:
    other = row_of(54)[column] if to == "another value" else None
    changed = [{**row, column: other} if row["number"] == 53 else row for row in ROWS]
    assert digest_of([batch_of(changed)]).digest != digest_of([batch_of(ROWS)]).digest


def test_a_row_more_a_row_less_a_row_twice() -> None:
    digests = {
        digest_of([batch_of(rows)])
        for rows in (ROWS, ROWS[1:], [*ROWS, ROWS[0]], [*ROWS[1:], ROWS[1]], [*ROWS, ROWS[0], ROWS[0]])
    }
    assert len(digests) == 5
    assert digest_of([]) == digest_of([batch_of([])])


def test_values_do_not_run_into_each_other() -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.string())])
    rows = [{"a": "xy", "b": "z"}, {"a": "x", "b": "yz"}, {"a": "xyz", "b": None}, {"a": "xyz", "b": ""}]
    assert len({digest_of([batch_of([row], schema)]) for row in rows}) == 4


def test_a_row_has_its_shard_wherever_it_stands_and_shards_are_even() -> None:
    alone = [shards_by_content(batch_of([row]), 4).to_pylist()[0] for row in ROWS]
    backwards = shards_by_content(batch_of(ROWS[::-1]), 4).to_pylist()
    assert backwards[::-1] == alone
    assert min(alone.count(shard) for shard in range(4)) >= 10


def test_another_process_finds_the_same() -> None:
    program = (
        "import pyarrow as pa; from beam_exactly_once.rows.digests import *; "
        "from beam_exactly_once.rows.shards import *; "
        "batch = pa.RecordBatch.from_pydict({'text': ['a', 'b', None]}); "
        "print(digest_of([batch]), shards_by_content(batch, 1000).to_pylist())"
    )
    batch = pa.RecordBatch.from_pydict({"text": ["a", "b", None]})
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"{digest_of([batch])} {shards_by_content(batch, 1000).to_pylist()}"


def test_shards_never_change() -> None:
    """A batch that a direct sink wrote in part is written again by a later version of this library."""
    assert shards_by([b"", b"a", b"b", b"17"], 1000).to_pylist() == [138, 719, 615, 811]
    batch = pa.RecordBatch.from_pydict({"id": pa.array([1, None], pa.int64()), "name": ["x", "y"]})
    assert shards_by_content(batch, 1000).to_pylist() == [337, 665]
    assert digest_of([batch]) == RowsDigest(2, "187f496b713c7de927b77915c3445bf7")
