"""When a row happened."""

import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.rows.event_times import checked_by, times_of_batch, times_of_rows

UTC = datetime.timezone.utc
AT = datetime.datetime(2026, 3, 1, 12, 0, 0, 1_999, tzinfo=UTC)
AT_MS = 1_772_366_400_001


class Click(NamedTuple):
    page: str
    at_ms: int


@pytest.mark.parametrize(
    "rows", [[{"at_ms": 5}, {"at_ms": -7}], [Click("a", 5), Click("b", -7)], [{"at_ms": 5}, Click("b", -7)]]
)
def test_a_column_of_rows_of_any_kind(rows: list[Any]) -> None:
    assert times_of_rows("at_ms", rows, step="windows").tolist() == [5, -7]


def test_a_function_gives_milliseconds_or_a_moment() -> None:
    assert times_of_rows(lambda row: row, [5, AT], step="windows").tolist() == [5, AT_MS]


def test_a_moment_is_one_in_any_zone() -> None:
    elsewhere = AT.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=30)))
    assert times_of_rows("at", [{"at": elsewhere}], step="windows").tolist() == [AT_MS]


def test_before_1970_parts_of_a_millisecond_are_cut_downwards() -> None:
    early = datetime.datetime(1969, 12, 31, 23, 59, 59, 999_500, tzinfo=UTC)
    in_arrow = pa.record_batch({"at": pa.array([early], pa.timestamp("us", "UTC"))})
    assert times_of_rows("at", [{"at": early}], step="windows").tolist() == [-1]
    assert times_of_batch("at", in_arrow, step="windows").tolist() == [-1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([5, AT_MS]),
        pa.array([5 * 10**6, AT_MS * 10**6 + 999_000], pa.timestamp("ns", "UTC")),
        pa.array([5, AT_MS], pa.timestamp("ms", "Asia/Kolkata")),
    ],
)
def test_a_column_of_arrow(column: pa.Array) -> None:
    times = times_of_batch("at", pa.record_batch({"at": column}), step="windows")
    assert times.dtype == np.int64
    assert times.tolist() == [5, AT_MS]


def test_a_function_of_an_arrow_batch() -> None:
    batch = pa.record_batch({"seconds": pa.array([1, 2], pa.int32())})
    assert times_of_batch(lambda one: pa.array([1000, 2000]), batch, step="windows").tolist() == [1000, 2000]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "NoneType"),
        (True, "bool"),
        (5.0, "float"),
        ("2026-03-01", "str"),
        (AT.replace(tzinfo=None), "without a zone"),
        (AT_MS * 1000, "micro- or nanoseconds"),
        (10**30, "micro- or nanoseconds"),
    ],
)
def test_what_is_no_time_is_refused(value: Any, said: str) -> None:
    with pytest.raises(UnfitRow, match=said) as refused:
        times_of_rows("at", [{"at": 5}, {"at": value}], step="windows")
    assert "windows" in str(refused.value)
    assert "2026-03-01" not in str(refused.value)  # values are not shown


def test_a_row_without_the_column_is_refused() -> None:
    with pytest.raises(UnfitRow, match="NoneType"):
        times_of_rows("at_ms", [{"at": 5}], step="windows")
    with pytest.raises(UnfitRow, match="no column 'at_ms'"):
        times_of_batch("at_ms", pa.record_batch({"at": pa.array([5])}), step="windows")


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([5, None]), "null in 1 rows"),
        (pa.array([5.0, 6.0]), "double"),
        (pa.array([5, 6], pa.timestamp("ms")), "timestamp"),
        (pa.array(["a", "b"]), "string"),
    ],
)
def test_a_column_of_arrow_that_says_no_time_is_refused(column: pa.Array, said: str) -> None:
    with pytest.raises(UnfitRow, match=said):
        times_of_batch("at", pa.record_batch({"at": column}), step="windows")


@pytest.mark.parametrize("by", [None, 5, "", ["at"]])
def test_what_says_no_time_is_refused_at_once(by: Any) -> None:
    with pytest.raises(ConfigurationError, match="event_time_by"):
        checked_by("event_time_by", by)
