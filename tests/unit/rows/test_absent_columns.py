"""A column of a schema that no row of a bundle has is refused, if rows have fields that the schema does not name."""

from __future__ import annotations

import dataclasses
from collections import UserDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.absent_columns import AbsentColumns

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


def looked_at(*chunks: list[Any], schema: pa.Schema = SCHEMA) -> AbsentColumns:
    columns = AbsentColumns(schema)
    for rows in chunks:
        columns.look(rows)
    return columns


@pytest.mark.parametrize(
    "row",
    [{"id": 1, "name": "a"}, UserDict(id=1, name="a"), Order(1, "a"), OrderData(1, "a"), beam.Row(id=1, name="a")],
    ids=lambda row: type(row).__name__,
)
def test_a_column_that_no_row_has_is_refused(row: Any) -> None:
    with pytest.raises(UnfitRow) as refused:
        looked_at([row, row], [row]).refuse()
    assert str(refused.value) == (
        "none of 3 rows has column 'idd' of schema=, and they have 'id', which it does not name: is it misspelt? Correct "
        "schema=, or say that rows may lack the column: pyarrow.field('idd', …, metadata={'may_be_absent': 'true'})."
    )


@pytest.mark.parametrize(
    "chunks",
    [
        [[{"name": "a"}]],
        [[{"id": 1}, {"idd": 2, "name": None}]],
        [[{"idd": 1, "name": "a"}], [{"id": 1}]],
        [[{"id": 1, "name": "a"}], [{"idd": 1}]],
        [["text", None, 7]],
        [],
    ],
    ids=[
        "no other field",
        "one row has them",
        "rows before had them",
        "rows behind have them",
        "no mappings",
        "no rows",
    ],
)
def test_rows_may_lack_a_column(chunks: list[list[Any]]) -> None:
    looked_at(*chunks).refuse()


STRUCT = pa.struct([("idd", pa.int64()), ("name", pa.string())])
IN = [
    pytest.param(lambda inner: inner, lambda one: one, id="struct"),
    pytest.param(pa.list_, lambda one: [None, one], id="list"),
    pytest.param(lambda inner: pa.list_(inner, 1), lambda one: (one,), id="list of a fixed size"),
    pytest.param(lambda inner: pa.large_list(pa.list_(inner)), lambda one: [[], [one]], id="list of lists"),
    pytest.param(lambda inner: pa.map_(pa.string(), inner), lambda one: {"k": one}, id="map"),
    pytest.param(lambda inner: pa.map_(pa.string(), inner), lambda one: [("k", one)], id="map of pairs"),
]


@pytest.mark.parametrize(("outer", "value"), IN)
@pytest.mark.parametrize("struct", [{"id": 1, "name": "x"}, [("id", 1), ("name", "x")]], ids=["mapping", "pairs"])
def test_a_field_that_no_struct_has_is_refused(outer: Any, value: Any, struct: Any) -> None:
    schema = pa.schema([("a", outer(STRUCT)), ("b", pa.int64())])
    rows: list[Any] = [{"a": None, "b": 1}, {"a": value(struct), "b": 1}, {"a": value(None), "b": 1}]
    with pytest.raises(UnfitRow) as refused:
        looked_at(rows, schema=schema).refuse()
    assert str(refused.value) == (
        "none of 3 rows has column 'a.idd' of schema=, and they have 'a.id', which it does not name: is it misspelt? Correct "
        "schema=, or say that rows may lack the column: pyarrow.field('idd', …, metadata={'may_be_absent': 'true'})."
    )
    looked_at(rows, [{"a": value({"idd": 1}), "b": 1}], schema=schema).refuse()
    looked_at(rows[:1], [{"a": value({"name": 1})}], schema=schema).refuse()


def test_a_field_of_a_struct_in_a_struct() -> None:
    schema = pa.schema([("a", pa.struct([("b", STRUCT), ("c", pa.int64())]))])
    with pytest.raises(UnfitRow, match=r"column 'a\.b\.idd' of schema=, and they have 'a\.b\.id', which"):
        looked_at([{"a": {"b": {"id": 1, "name": "x"}, "c": 1}}], schema=schema).refuse()
    with pytest.raises(UnfitRow, match=r"column 'a\.c' of schema=, and they have 'a\.d', which"):
        looked_at([{"a": {"b": {"idd": 1, "name": "x"}, "d": 1}}], schema=schema).refuse()


@pytest.mark.parametrize("value", [7, "text", [7], [(1,)], {"k": 7}, (1, "x"), [[1, 2, 3]]], ids=str)
@pytest.mark.parametrize(("outer", "_"), IN)
def test_what_says_no_names_is_not_looked_at(outer: Any, _: Any, value: Any) -> None:
    looked_at([{"a": value, "c": 1}], schema=pa.schema([("a", outer(pa.struct([("idd", pa.int64())])))]))


def test_a_field_of_a_struct_that_says_that_it_may_be_absent() -> None:
    field = STRUCT.field("idd").with_metadata({"may_be_absent": "true"})
    schema = pa.schema([("a", pa.struct([field, STRUCT.field("name")]))])
    looked_at([{"a": {"id": 1, "name": "a"}}], schema=schema).refuse()


def test_structs_behind_those_that_have_all_fields_cost_nothing() -> None:
    columns = looked_at([{"a": {"idd": 1}}, {"a": {"name": "x"}}], schema=pa.schema([("a", STRUCT)]))
    row = CountedRow({"a": {"id": 1}})
    columns.look([row] * 3)
    assert row.looks == 0


def test_a_field_that_says_that_it_may_be_absent() -> None:
    schema = SCHEMA.set(0, SCHEMA.field(0).with_metadata({"may_be_absent": "true"}))
    looked_at([{"id": 1, "name": "a"}], schema=schema).refuse()


def test_rows_behind_those_that_have_all_columns_cost_nothing() -> None:
    columns = looked_at([{"idd": 1, "name": "a"}])
    row = CountedRow({"id": 1})
    columns.look([row] * 3)
    assert row.looks == 0
