"""ISO 8601 texts: the value that they spell, in a column of files and in one of a table, or refused; never a part of it."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.columns import batch_of_rows, fitted_batch
from beam_exactly_once.rows.iso_texts import day_of, moment_of, time_of
from beam_exactly_once.sinks.sql.types import column_type
from beam_exactly_once.sinks.sql.types.column import Misfit

ZONES = st.sampled_from([datetime.timezone.utc, datetime.timezone(datetime.timedelta(hours=-5, minutes=-30))])
FIRST, LAST = datetime.datetime(2, 1, 1), datetime.datetime(9998, 1, 1)
MOMENTS = st.datetimes(FIRST, LAST) | st.datetimes(FIRST, LAST, timezones=ZONES)
COLUMNS = {
    datetime.datetime: (pa.timestamp("us"), sa.DateTime()),
    datetime.date: (pa.date32(), sa.Date()),
    datetime.time: (pa.time64("us"), sa.Time()),
}


@given(st.one_of(MOMENTS, st.dates(), st.times()))
def test_a_text_is_the_value_that_it_spells_in_files_and_in_tables(
    value: datetime.datetime | datetime.date | datetime.time,
) -> None:
    arrow_type, sql_type = COLUMNS[type(value)]
    schema = pa.schema([("at", arrow_type)])
    rows = [{"at": None}, {"at": value.isoformat()}, {"at": value}]
    column = batch_of_rows(rows, schema).column("at")
    assert column[1].as_py() == column[2].as_py() is not None
    in_table = column_type(sql_type, "postgresql")
    assert in_table is not None
    staged = in_table.staged([value.isoformat(), value])
    assert staged[0].as_py() == staged[1].as_py()
    if not getattr(value, "tzinfo", None):
        assert staged[0].as_py() == column[1].as_py()


@given(st.from_regex(r"-?[0-9]{1,19}(\.[0-9]{1,6})?", fullmatch=True))
def test_a_number_as_a_text_is_no_date(text: str) -> None:
    """Python reads 1711010112345, milliseconds since 1970, as a moment of 1711, and 20240101 as a time of day."""
    for read in (moment_of, day_of, time_of):
        with pytest.raises(ValueError, match="not ISO 8601"):
            read(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-02-29T01:02:03Z", "2024-02-29T01:02:03+00:00"),
        ("2024-02-29 01:02:03.5+05", "2024-02-29T01:02:03.500000+05:00"),
        ("2024-02-29t01:02:03,000004z", "2024-02-29T01:02:03.000004+00:00"),
        ("2024-02-29T01:02-0530", "2024-02-29T01:02:00-05:30"),
        ("2024-02-29T01:02:03+00:53:28", "2024-02-29T01:02:03+00:53:28"),
        ("2024-02-29", "2024-02-29T00:00:00"),
    ],
)
def test_a_moment_is_read_alike_by_every_version_of_python(text: str, expected: str) -> None:
    assert moment_of(text).isoformat() == expected
    if len(text) > 10:
        assert time_of(text[11:]).isoformat() == expected[11:]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "2024-W01-1",
            "2024-02-30",
            "2024-02-29T24:00:00",
            "2024-02-29x01:02",
            "2024-02-29T01:02.5",
            "2024-02-29T01:02:03 ",
        ),
        *(
            "2024-02-29T",
            "2024-02-29T01",
            "２024-02-29",
            "2024-02-29T01:02:03+25:00",
            "2024-02-29\n",
            "2024-02-29T1:2:3",
            "",
        ),
    ],
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match="not ISO 8601"):
        moment_of(text)


@pytest.mark.parametrize("digits", range(1, 10))
def test_a_fraction_is_whole_or_refused(digits: int) -> None:
    text = f"2024-02-29T23:59:59.{'123456789'[:digits]}"
    if digits <= 6:
        assert moment_of(text).microsecond == int("123456"[:digits].ljust(6, "0"))
        assert time_of(text[11:]).microsecond == moment_of(text).microsecond
        assert moment_of(f"{text.ljust(29, '0')}Z").tzinfo == datetime.timezone.utc
        return
    with pytest.raises(ValueError, match="finer than a microsecond"):
        moment_of(text)
    with pytest.raises(UnfitRow, match=r"'at' is timestamp\[us\], the value is of type str \(the text is finer"):
        batch_of_rows([{"at": text}], pa.schema([("at", pa.timestamp("us"))]))
    in_table = column_type(sa.DateTime(), "postgresql")
    assert in_table is not None
    with pytest.raises(Misfit, match="finer than a microsecond"):
        in_table.staged([text])


def test_a_coarser_column_takes_no_part_of_a_text() -> None:
    schema = pa.schema([("at", pa.timestamp("s"))])
    assert batch_of_rows([{"at": "2024-02-29T23:59:59"}], schema).num_rows == 1
    with pytest.raises(UnfitRow, match="its unit is s"):
        batch_of_rows([{"at": "2024-02-29T23:59:59.5"}], schema)


@pytest.mark.parametrize(
    ("value", "arrow_type"),
    [
        ("4111-1111", pa.timestamp("us")),
        ("4111-1111", pa.date32()),
        ("4111-1111", pa.int64()),
        (b"4111\xff", pa.string()),
    ],
)
def test_an_error_has_no_value_in_it(value: object, arrow_type: pa.DataType) -> None:
    schema = pa.schema([("at", arrow_type)])
    with pytest.raises(UnfitRow) as of_row:
        batch_of_rows([{"at": value}], schema)
    batch = pa.record_batch({"at": [value]})
    with pytest.raises(UnfitRow) as of_batch:
        fitted_batch(batch, schema)
    assert "4111" not in f"{of_row.value} {of_batch.value}"
