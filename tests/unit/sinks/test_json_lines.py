"""What JSON lines cannot hold is a row that does not fit, never another value."""

from __future__ import annotations

import datetime
import math
import uuid
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.sinks.files.json_lines import json_lines, json_lines_of_batch

# Derandomised: the same examples in every run. No deadline: a slow machine is no fault.
repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=200)

MOMENT = datetime.datetime(2024, 1, 1, 0, 0, 0, 86_399)


@dataclass
class Point:
    x: float


@dataclass
class Hidden:
    _id: int
    at: Any = MOMENT
    _points: list[Any] = field(default_factory=list)


class Kind(Enum):
    ONE = 1
    SAME = MOMENT
    NAN = math.nan
    DICT = {1: "a", "1": "b"}  # noqa: RUF012
    POINT = Point(math.inf)


class Numbers(list[float]):
    """A list that says of itself that it is another type."""


class NoMoment(datetime.datetime):
    """As NaT of pandas."""

    def __ne__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize(
    "row",
    [
        {"n": math.nan},
        {"n": math.inf},
        {"n": [1.5, -math.inf]},
        {"n": {"deep": [{"er": math.nan}]}},
        {"n": (math.nan,), "none": None},
        {"n": math.nan, "none": None, "text": "null"},
        {"n": np.array([1.5, math.nan])},
        {"n": np.float32("inf")},
        {"n": Point(math.nan)},
        {1: "a", "1": "b"},
        {"n": {True: 1, "true": 2}},
        {"n": {None: 1, "null": 2}},
        {"n": Kind.NAN},
        {"n": Kind.DICT},
        {"n": Kind.POINT},
        {"n": Hidden(1, _points=[math.nan])},
        {"n": Numbers([math.nan])},
        {"n": {math.nan: 1}},
        {"n": {math.inf: 1}},
        {"n": {Kind.NAN: 1}},
        {"n": {Kind.ONE: 1, "1": 2}},
        {"n": {Kind.ONE: 1, 1: 2}},
        {"n": {MOMENT: 1, MOMENT.isoformat(): 2}},
        {"n": {Kind.SAME: 1, MOMENT: 2}},
        {"n": {1e-7: 1, "1e-7": 2}},
        {"n": np.datetime64(1, "ns")},
        {"n": np.array([0, 1], "datetime64[ns]")},
        {"n": [Point(np.datetime64(1, "ps"))]},  # type: ignore[arg-type]
        {"n": np.datetime64("NaT", "us")},
        {"n": np.datetime64(2**62, "D")},
        {"n": np.datetime64(2**62, "Y")},
        {"n": np.datetime64("0000-12-31", "s")},
        {"n": NoMoment(2024, 1, 1)},
        {"n": {NoMoment(2024, 1, 1): 1}},
    ],
    ids=str,
)
def test_what_json_cannot_say_is_refused(row: dict[Any, Any]) -> None:
    with pytest.raises(UnfitRow):
        json_lines([{"id": 1}, row])


@pytest.mark.parametrize(
    "value",
    [
        datetime.time(0, 0, 0, 86_399),
        datetime.time(1, 2, 3, 50_000),
        datetime.datetime(1900, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(minutes=53, seconds=28))),
        datetime.datetime(2026, 1, 1, 0, 0, 0, 86_399, datetime.timezone.utc),
        datetime.date(1, 1, 1),
    ],
    ids=str,
)
def test_dates_and_times_are_iso_8601_with_all_their_digits(value: Any) -> None:
    for row in ({"at": value}, {"at": value, "bytes": b"x"}):
        assert orjson.loads(json_lines([row]))["at"] == value.isoformat()


def test_a_duration_that_a_number_of_seconds_cannot_say() -> None:
    with pytest.raises(UnfitRow, match="'lasted'"):
        json_lines([{"lasted": datetime.timedelta(days=999_999_999, microseconds=1)}])


def test_a_batch_with_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(UnfitRow, match=r"'n'.*NaN"):
        json_lines_of_batch(pa.RecordBatch.from_pydict({"n": [1.5, math.nan]}))


@pytest.mark.parametrize("row", [{"a": None, "b": [None, 1.5]}, {"a": "null"}, {1: "a", 2: {True: None}}], ids=str)
def test_nulls_and_other_keys_stay(row: dict[Any, Any]) -> None:
    names = {str(key): value for key, value in row.items()}
    assert orjson.loads(json_lines([row])) == {**names, **({"2": {"true": None}} if 2 in row else {})}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Hidden(1), {"_id": 1, "at": MOMENT.isoformat(), "_points": []}),
        (
            [Hidden(1, None, [Hidden(2, 1.5)])],
            [{"_id": 1, "at": None, "_points": [{"_id": 2, "at": 1.5, "_points": []}]}],
        ),
        (Hidden(1, b"x"), {"_id": 1, "at": "x", "_points": []}),
        (np.datetime64(1000, "ns"), "1970-01-01T00:00:00.000001"),
        (np.datetime64(3, "10ms"), "1970-01-01T00:00:00.030000"),
        (np.array(["2024-01-01", "9999-12-31"], "datetime64[D]"), ["2024-01-01T00:00:00", "9999-12-31T00:00:00"]),
        (
            [np.float64(1.5), np.float32(0.1), np.int64(7), np.uint64(2**64 - 1), np.True_],
            [1.5, 0.1, 7, 2**64 - 1, True],
        ),
        (np.array([[1, 2]]), [[1, 2]]),
        ({Kind.ONE: 1, "2": 2}, {"1": 1, "2": 2}),
        ({MOMENT: 1, MOMENT.time(): 2}, {MOMENT.isoformat(): 1, MOMENT.time().isoformat(): 2}),
        ({uuid.UUID(int=1): Kind.ONE}, {str(uuid.UUID(int=1)): 1}),
        ({1e-7: 1, "1e-07": 2}, {"1e-7": 1, "1e-07": 2}),
    ],
    ids=str,
)
def test_nothing_is_lost(value: Any, expected: Any) -> None:
    for row in ({"v": value}, {"v": value, "bytes": b"x"}, {"v": {"in": [value]}}):
        (found, *_) = orjson.loads(json_lines([row])).values()
        assert found == (expected if row["v"] is value else {"in": [expected]})


KEYS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([1.0, 1e-7, 0.5, math.nan, math.inf])
    | st.sampled_from(list(Kind)[:3])
    | st.sampled_from([MOMENT, MOMENT.date(), MOMENT.time(), uuid.UUID(int=1)])
    | st.sampled_from(
        ["null", "true", "1", "1.0", "1e-7", "nan", MOMENT.isoformat(), str(MOMENT.time()), str(uuid.UUID(int=1))]
    )
)


@repeatable
@given(st.dictionaries(KEYS, st.integers(), max_size=5))
def test_a_mapping_keeps_all_its_values_or_is_refused(value: dict[Any, int]) -> None:
    try:
        line = json_lines([{"v": value}])
    except UnfitRow:
        return
    assert list(orjson.loads(line)["v"].values()) == list(value.values())


@repeatable
@given(
    st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from(["Y", "M", "W", "D", "h", "s", "ms", "us", "ns", "ps", "7ms"])
)
def test_a_moment_of_numpy_comes_back_or_is_refused(count: int, unit: str) -> None:
    for moment in (np.datetime64(count, unit), np.datetime64(count % 2**20, unit)):  # type: ignore[call-overload]
        try:
            found = orjson.loads(json_lines([{"v": moment}]))["v"]
        except UnfitRow:
            continue
        assert np.datetime64(found, "us").astype(moment.dtype) == moment
        assert np.datetime64(found, "us") == moment
