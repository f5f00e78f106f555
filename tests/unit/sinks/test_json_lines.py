"""What JSON lines cannot hold is a row that does not fit, never another value."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.sinks.files.json_lines import json_lines, json_lines_of_batch


@dataclass
class Point:
    x: float


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
