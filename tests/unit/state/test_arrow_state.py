"""Typed state: a dict comes back as it was, or is refused; versions add and drop fields."""

from __future__ import annotations

import datetime
import math
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import ConfigurationError, PipelineChanged, UnfitRow
from beam_exactly_once.state.definition import refuse_changed_state
from beam_exactly_once.state.types import VALUE_MAX_BYTES, ArrowState
from beam_exactly_once.state.types.arrow_state import joined

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=60)

UTC = datetime.timezone.utc
SCHEMA = pa.schema(
    [
        ("n", pa.int32()),
        ("ratio", pa.float64()),
        ("name", pa.string()),
        ("raw", pa.binary()),
        ("at", pa.timestamp("ms", "UTC")),
        ("amount", pa.decimal128(10, 2)),
        ("tags", pa.list_(pa.struct([("k", pa.string()), ("v", pa.int64())]))),
    ]
)
ROWS = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-(1 << 31), (1 << 31) - 1),
        "ratio": st.none() | st.floats(allow_nan=False),
        "name": st.none() | st.text(),
        "raw": st.none() | st.binary(),
        "at": st.none() | st.integers(0, 1 << 40).map(lambda ms: datetime.datetime.fromtimestamp(ms // 1000, UTC)),
        "amount": st.none() | st.decimals(-1000, 1000, places=2),
        "tags": st.none() | st.lists(st.fixed_dictionaries({"k": st.text(), "v": st.none() | st.integers(0, 9)})),
    }
)


def versions_of(*versions: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array(versions, np.uint8)


@repeatable
@given(st.lists(ROWS, max_size=4))
def test_a_dict_comes_back(rows: list[dict[str, Any]]) -> None:
    state = ArrowState(SCHEMA)
    column, kept = state.encode(rows, operator="counts")
    assert column.type == state.arrow_type
    read = state.decode(column, versions_of(*[1] * len(rows)), operator="counts")
    assert read == kept == rows


@pytest.mark.parametrize(
    ("fields", "value", "said"),
    [
        ({"n": pa.int64()}, {"n": 1.5}, "field 'n' is of type float, and int64 would change it"),
        ({"n": pa.int64()}, {"n": "hidden"}, "field 'n' is of type str"),
        ({"n": pa.int8()}, {"n": 300}, "field 'n' is of type int, and int8"),
        ({"n": pa.float32()}, {"n": 0.1}, "field 'n' is of type float, and float"),
        (
            {"at": pa.timestamp("s")},
            {"at": datetime.datetime(2026, 1, 1, 0, 0, 0, 5)},
            "field 'at' is of type datetime",
        ),
        ({"day": pa.date32()}, {"day": datetime.datetime(2026, 1, 1, 5)}, "field 'day'"),
        ({"n": pa.decimal128(5, 1)}, {"n": Decimal("1.25")}, "field 'n' is of type Decimal"),
        ({"n": pa.list_(pa.int64())}, {"n": (1,)}, "field 'n' is of type tuple"),
        ({"n": pa.int64()}, {"n": 1, "hidden": 2}, "the schema has n only"),
        ({"n": pa.int64(), "m": pa.int64()}, {"n": 1}, "it has no field 'm'"),
        ({"n": pa.int64()}, [("n", 1)], "it is not a dict"),
        ({"n": pa.int64()}, None, "it is not a dict"),
        ({"n": pa.string()}, {"n": "\ud800"}, "field 'n' is of type str"),
        ({"n": pa.struct([("a", pa.int64())])}, {"n": {"b": 1}}, "field 'n' is of type dict"),
    ],
    ids=str,
)
def test_what_a_column_would_change_is_refused_without_its_value(
    fields: dict[str, pa.DataType], value: Any, said: str
) -> None:
    state = ArrowState(pa.schema(list(fields.items())))
    with pytest.raises(UnfitRow) as refused:
        state.encode([dict.fromkeys(fields), value], operator="counts")
    assert str(refused.value).startswith("operator 'counts': a state of type ")
    assert said in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_nan_is_a_number_of_a_column() -> None:
    (kept,) = ArrowState(pa.schema([("x", pa.float64())])).encode([{"x": math.nan}], operator="counts").values
    assert math.isnan(kept["x"])


def test_versions_add_and_drop_fields() -> None:
    first = ArrowState(pa.schema([("n", pa.int64()), ("old", pa.string())]))
    one = first.encode([{"n": 1, "old": "a"}, {"n": 2, "old": "b"}], operator="counts").column
    second = ArrowState(
        pa.schema([("n", pa.int64()), ("new", pa.int64())]),
        version=2,
        upgrades={1: lambda row: {**row, "new": len(row["old"]) + (row["new"] or 0)}},
    )
    other = second.encode([{"n": 3, "new": 7}], operator="counts").column
    whole = joined([other, one, other])
    read = second.decode(whole, versions_of(2, 1, 1, 2), operator="counts")
    assert read == [{"n": 3, "new": 7}, {"n": 1, "new": 1}, {"n": 2, "new": 1}, {"n": 3, "new": 7}]
    assert second.decode(one, versions_of(1, 1), operator="counts") == [{"n": 1, "new": 1}, {"n": 2, "new": 1}]
    refuse_changed_state("counts", [first.to_definition(), second.to_definition()], second)
    tombstones = pa.nulls(1, first.arrow_type)
    assert joined([tombstones, other, one.slice(1)]).to_pylist() == [
        None,
        {"n": 3, "old": None, "new": 7},
        {"n": 2, "old": "b", "new": None},
    ]


def test_columns_of_one_version_are_joined_as_they_are() -> None:
    for column in (pa.array([b"a", b"b"], pa.large_binary()), pa.array([], pa.large_binary())):
        whole = joined([column, column])
        assert (whole.type, whole.to_pylist()) == (pa.large_binary(), column.to_pylist() * 2)
        assert isinstance(whole, pa.Array)


def test_a_version_of_newer_code_is_refused() -> None:
    state = ArrowState(pa.schema([("n", pa.int64())]))
    column = state.encode([{"n": 1}], operator="counts").column
    with pytest.raises(PipelineChanged, match="operator 'counts': its state has values of version 2"):
        state.decode(column, versions_of(2), operator="counts")


def same(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (
            ArrowState(pa.schema([("n", pa.int64())])),
            r"its fields were others \(m\). Raise version= and give upgrades=\{1: …\}",
        ),
        (
            ArrowState(pa.schema([("n", pa.string()), ("m", pa.int64())])),
            "field 'n' was int64, and is string. Give it another name",
        ),
        (
            ArrowState(pa.schema([("n", pa.string())]), version=2, upgrades={1: same}),
            "field 'n' was int64, and is string",
        ),
        (ArrowState(pa.schema([("n", pa.int64())]), version=2), "with upgrades from"),
    ],
)
def test_a_schema_that_cannot_read_the_old_one_is_refused_at_start(now: ArrowState, said: str) -> None:
    stored = ArrowState(pa.schema([("n", pa.int64()), ("m", pa.int64())])).to_definition()
    with pytest.raises(PipelineChanged, match=said):
        refuse_changed_state("counts", [stored], now)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ArrowState({"n": pa.int64()}), "must be a pyarrow.Schema"),
        (lambda: ArrowState(pa.schema([])), "with fields"),
        (lambda: ArrowState(pa.schema([("n", pa.int64()), ("n", pa.int64())])), "names a field twice"),
        (lambda: ArrowState(pa.schema([pa.field("n", pa.int64(), nullable=False)])), "n of schema= has nullable=False"),
        (lambda: ArrowState(SCHEMA, version=2, upgrades={2: same}), "without a hole"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_wrong_argument_is_refused_where_it_is_given(make: Callable[[], ArrowState], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make()


def test_a_large_state_is_refused_among_small_ones() -> None:
    state = ArrowState(pa.schema([("raw", pa.binary())]))
    half = {"raw": b"x" * (VALUE_MAX_BYTES // 2)}
    assert len(state.encode([half] * 4, operator="counts").column) == 4
    with pytest.raises(UnfitRow, match="operator 'counts': the state of one key has"):
        state.encode([half, {"raw": b"x" * (VALUE_MAX_BYTES + 1)}, half], operator="counts")


def test_a_state_type_travels_to_workers() -> None:
    state = ArrowState(SCHEMA, version=2, upgrades={1: same})
    assert pickle.loads(pickle.dumps(state)) == state
    assert state.to_definition()["fields"]["at"] == "timestamp[ms, tz=UTC]"
