"""What a row is, to every sink the same."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pytest
import sqlalchemy as sa

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.kafka import Record
from beam_exactly_once.rows.columns import batch_of_rows
from beam_exactly_once.rows.fields import columns_of, fields_of, has_field
from beam_exactly_once.sinks.files.json_lines import json_lines
from beam_exactly_once.sinks.kafka.rows import batch_of, staged_schema
from beam_exactly_once.sinks.sql.table import Column, SqlTable
from beam_exactly_once.sinks.sql.types import column_type

FIELDS = {"key": "k", "value": "v"}
SCHEMA = pa.schema([("value", pa.string()), ("key", pa.string()), ("other", pa.string())])


class Pair(NamedTuple):
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Slotted:
    key: str
    value: str


@dataclass
class Open:
    key: str
    value: str


class SaysAsDict:
    """Has its fields nowhere else."""

    def as_dict(self) -> dict[str, str]:
        return dict(FIELDS)


class SaysUnderscoreAsDict:
    def _asdict(self) -> OrderedDict[str, str]:
        return OrderedDict(FIELDS)


class Attributes:
    """Says nowhere which fields it has."""

    def __init__(self) -> None:
        self.key = "k"
        self.value = "v"


ROWS = [
    FIELDS,
    OrderedDict(FIELDS),
    MappingProxyType(FIELDS),
    Pair("k", "v"),
    Slotted("k", "v"),
    Open("k", "v"),
    beam.Row(key="k", value="v"),
    SaysAsDict(),
    SaysUnderscoreAsDict(),
]
NO_ROWS: list[Any] = ["text", b"bytes", 7, None, ["k", "v"], ("k", "v"), object(), Open, Pair]


def named(row: Any) -> str:
    return type(row).__name__


def sql_table() -> SqlTable:
    text = column_type(sa.Text(), "sqlite")
    assert text is not None
    return SqlTable("t", tuple(Column(name, "TEXT", text, False, False) for name in ("value", "key")), True)


@pytest.mark.parametrize("row", ROWS, ids=named)
class TestRows:
    def test_it_says_which_fields_it_has(self, row: Any) -> None:
        assert dict(fields_of(row) or {}) == FIELDS
        assert has_field(row, "value")
        assert not has_field(row, "other")
        assert columns_of([row, row], ["value", "other"]) == [["v", "v"], [None, None]]
        assert columns_of([row], ["key", "value"]) in ([["k"], ["v"]], [("k",), ("v",)])

    def test_files_with_a_schema_take_it(self, row: Any) -> None:
        (found,) = batch_of_rows([row], SCHEMA).to_pylist()
        assert found == {**FIELDS, "other": None}

    def test_json_takes_it(self, row: Any) -> None:
        assert json.loads(json_lines([row])) == FIELDS

    def test_json_takes_it_inside_another(self, row: Any) -> None:
        assert json.loads(json_lines([{"a": [row]}]))["a"] in ([FIELDS], [["k", "v"]])

    def test_a_table_takes_it(self, row: Any) -> None:
        assert sql_table().block_of_rows([row]).to_pylist() == [FIELDS]

    def test_a_topic_takes_it(self, row: Any) -> None:
        (found,) = batch_of([row], staged_schema(False, ())).to_pylist()
        assert (found["key"], found["value"]) == (b"k", b"v")


@pytest.mark.parametrize("row", NO_ROWS, ids=named)
class TestWhatIsNoRow:
    def test_it_has_no_fields(self, row: Any) -> None:
        assert fields_of(row) is None

    def test_sinks_refuse_it(self, row: Any) -> None:
        with pytest.raises(UnfitRow, match="Give it"):
            json_lines([row])
        with pytest.raises(UnfitRow, match="Give it"):
            sql_table().block_of_rows([row])


def test_attributes_are_fields_where_they_are_asked_for_by_name() -> None:
    row = Attributes()
    assert fields_of(row) is None
    assert has_field(row, "value")
    (found,) = batch_of_rows([row], SCHEMA).to_pylist()
    assert found == {**FIELDS, "other": None}
    assert batch_of([row], staged_schema(False, ())).num_rows == 1


def test_a_kafka_record_is_one_whose_headers_json_shows_by_name() -> None:
    record = Record("orders", 0, key=b"k", value=b"v", headers=(("source", b"shop"),))
    assert fields_of(record) == record._asdict()
    written = json.loads(json_lines([record]))
    assert (written["value"], written["headers"]) == ("v", [{"key": "source", "value": "shop"}])
