"""A column of a schema that no row has is spoken of once; what is written does not depend on it."""

from __future__ import annotations

import dataclasses
import logging
from collections import UserDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once.rows import absent_columns
from beam_exactly_once.rows.absent_columns import LOOKS, AbsentColumns

SCHEMA = pa.schema([("idd", pa.int64()), ("name", pa.string())])


class Order(NamedTuple):
    id: int
    name: str


@dataclasses.dataclass
class OrderData:
    id: int
    name: str


class CountedRow(Mapping[str, Any]):
    """Counts how often it is looked at."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.looks = 0

    def __getitem__(self, name: str) -> Any:
        self.looks += 1
        return self.fields[name]

    def __iter__(self) -> Iterator[str]:
        self.looks += 1
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absent_columns, "_said", set())


def said(caplog: pytest.LogCaptureFixture, *chunks: list[Any], schema: pa.Schema = SCHEMA) -> list[str]:
    columns = AbsentColumns(schema, "orders")
    with caplog.at_level(logging.WARNING):
        for rows in chunks:
            columns.look(rows)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "row",
    [{"id": 1, "name": "a"}, UserDict(id=1, name="a"), Order(1, "a"), OrderData(1, "a"), beam.Row(id=1, name="a")],
    ids=lambda row: type(row).__name__,
)
def test_a_column_that_no_row_has_is_spoken_of_once(row: Any, caplog: pytest.LogCaptureFixture) -> None:
    (message,) = said(caplog, [row, row], [row])
    assert message.startswith(
        "sink 'orders': no row so far has column 'idd' of schema=, and rows have 'id', which it does not"
    )
    assert "pyarrow.field('idd', …, metadata={'may_be_absent': 'true'})" in message
    assert said(caplog, [row]) == [message]  # by another bundle of the process


@pytest.mark.parametrize(
    "chunks",
    [
        [[{"name": "a"}]],
        [[{"id": 1}, {"idd": 2, "name": None}]],
        [[{"idd": 1, "name": "a"}], [{"id": 1}]],
        [["text", None, 7]],
    ],
    ids=["no other field", "one row has them", "rows before had them", "no rows"],
)
def test_rows_may_lack_a_column(chunks: list[list[Any]], caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, *chunks) == []


def test_a_field_that_says_that_it_may_be_absent(caplog: pytest.LogCaptureFixture) -> None:
    schema = SCHEMA.set(0, SCHEMA.field(0).with_metadata({"may_be_absent": "true"}))
    assert said(caplog, [{"id": 1, "name": "a"}], schema=schema) == []


@pytest.mark.parametrize(
    "before",
    [[{"idd": 1, "name": "a"}], [{"id": 1}], [{"name": "a"}] * LOOKS],
    ids=["all columns were seen", "it was spoken of", "many rows were looked at"],
)
def test_later_rows_cost_nothing(before: list[Any]) -> None:
    columns = AbsentColumns(SCHEMA, "orders")
    columns.look(before)
    row = CountedRow({"id": 1})
    columns.look([row] * 3)
    assert row.looks == 0
