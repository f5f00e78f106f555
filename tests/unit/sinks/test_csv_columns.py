"""What is in CSV can be read again, and a dictionary is the values that its rows have: those that none has count for nothing."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.sinks.files.text_lines import csv_columns

# Derandomised: the same examples in every run. No deadline: a slow machine is no fault.
repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=200)

YEAR_10000 = 2_932_897
DAYS = pa.array([1, YEAR_10000, None], pa.int32()).view(pa.date32())
TEXTS = pa.array([b"a", b"\xff", None])


def columns(*given: pa.Array) -> pa.RecordBatch | None:
    try:
        return csv_columns(pa.RecordBatch.from_arrays(list(given), names=["x", "i"][: len(given)]))
    except UnfitRow:
        return None


@repeatable
@given(st.sampled_from([DAYS, TEXTS]), st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=3), st.booleans())
@example(DAYS, [0], True)
@example(TEXTS, [0], True)
@example(DAYS, [2], False)
def test_a_dictionary_is_the_values_of_its_rows(values: pa.Array, rows: list[int | None], with_another: bool) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array(rows, pa.int8()), values)
    others = [pa.array(range(len(rows)))] if with_another else []
    assert columns(column, *others) == columns(column.dictionary_decode(), *others)


@pytest.mark.parametrize(("values", "row"), [(DAYS, 1), (TEXTS, 1), (DAYS, 2)], ids=["year", "bytes", "null alone"])
def test_what_a_row_has_is_refused(values: pa.Array, row: int) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, row]), values)
    assert columns(column.slice(0, 1)) is not None
    assert columns(column) is None


YEAR_1 = -62_135_596_800
"""In seconds of UTC, as the others."""
YEAR_10000_S = 253_402_300_800
YEAR_1800 = -5_364_662_400
UNITS = {"s": 1, "ms": 10**3, "us": 10**6}


def moments(*seconds: int, zone: str | None, unit: str = "s") -> pa.Array:
    return pa.array([one * UNITS[unit] for one in seconds], pa.int64()).view(pa.timestamp(unit, zone))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    ("second", "zone"),
    [
        (YEAR_1, "America/New_York"),
        (YEAR_1 + 3600, "Etc/GMT+9"),
        (YEAR_10000_S - 1, "Asia/Tokyo"),
        (YEAR_10000_S - 3600, "Etc/GMT-2"),
        (YEAR_10000_S, "America/New_York"),
        (YEAR_1800, "America/New_York"),
        (YEAR_1800, "Europe/Amsterdam"),
        (0, "Africa/Monrovia"),
    ],
)
def test_a_moment_that_its_zone_says_in_no_common_way_is_refused(second: int, zone: str, unit: str) -> None:
    assert columns(moments(10**9, zone=zone, unit=unit)) is not None
    assert columns(moments(10**9, second, zone=zone, unit=unit)) is None


@pytest.mark.parametrize(
    ("second", "zone"),
    [
        (YEAR_1, "UTC"),
        (YEAR_1, "Etc/GMT-9"),
        (YEAR_1 + 36_000, "Etc/GMT+9"),
        (YEAR_10000_S - 1, "America/New_York"),
        (YEAR_10000_S - 9 * 3600 - 1, "Asia/Tokyo"),
        (YEAR_10000_S - 1, None),
        (YEAR_1800, "UTC"),
        (0, "Asia/Kolkata"),
    ],
)
def test_a_moment_at_the_edge_stays(second: int, zone: str | None) -> None:
    assert columns(moments(10**9, second, zone=zone)) is not None


@repeatable
@given(
    st.integers(YEAR_1 - 10**5, YEAR_10000_S + 10**5)
    | st.integers(YEAR_1 - 10**5, YEAR_1 + 10**5)
    | st.integers(YEAR_10000_S - 10**5, YEAR_10000_S + 10**5)
    | st.integers(YEAR_1800, 10**8),
    st.sampled_from(["UTC", "America/New_York", "Asia/Tokyo", "Africa/Monrovia", "Pacific/Kiritimati", "Etc/GMT+12"]),
)
def test_a_moment_of_csv_is_read_again(second: int, zone: str) -> None:
    given_batch = columns(moments(second, zone=zone), pa.array([1]))
    if given_batch is None:
        return
    text = io.BytesIO()
    pa.csv.write_csv(given_batch, text)
    read = pa.csv.read_csv(
        io.BytesIO(text.getvalue()),
        convert_options=pa.csv.ConvertOptions(
            column_types={"x": pa.timestamp("s", "UTC")}, timestamp_parsers=["%Y-%m-%d %H:%M:%S%z", pa.csv.ISO8601]
        ),
    )
    assert read["x"].combine_chunks().view(pa.int64()).to_pylist() == [second]
