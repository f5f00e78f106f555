"""Records and chunks: columns in, records and Arrow out, cut by value."""

from __future__ import annotations

import pickle
import random

import pyarrow as pa
import pytest

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.kafka import EVENT_DATE, RECORD_SCHEMA, Chunk, Record, with_event_date
from beam_exactly_once.sinks.files.partitions import split_batch

RECORDS = [
    Record("orders", 3, 10, 1_000, 1, b"k", b"value", (("trace", b"\xff"), ("empty", None))),
    Record("orders", 3, 11, 1_001, 2, None, b"", ()),
    Record("orders", 3, 15, -1, 0, b"", None, (("trace", b""),)),
]


def test_a_record_has_defaults_for_everything() -> None:
    assert Record() == Record("", 0, 0, 0, 0, None, None, ())


def test_the_schema_has_the_records_columns_in_order() -> None:
    assert RECORD_SCHEMA.names == list(Record._fields)


def test_records_come_out_as_they_went_in() -> None:
    chunk = Chunk.from_records(RECORDS, 10, 20)

    assert list(chunk.records()) == RECORDS
    assert all(type(record) is Record for record in chunk.records())
    assert (chunk.topic, chunk.partition, chunk.start, chunk.stop) == ("orders", 3, 10, 20)
    assert len(chunk) == 3
    assert chunk.bytes == len(b"k") + len(b"value")
    assert repr(chunk) == "Chunk(orders-3[10, 20), 3 records)"


def test_the_event_date_is_the_utc_date_of_a_timestamp_that_is_one() -> None:
    times_ms = [0, 86_399_999, 86_400_000, 1_769_903_999_999, 253_402_300_799_999, -2, -86_400_000, -86_400_001, -1]
    records = [Record("orders", 3, number, time_ms, 1) for number, time_ms in enumerate(times_ms)]
    records.append(Record("orders", 3, len(records), 1_000, 0))
    batch = with_event_date(Chunk.from_records(records, 0, 20).to_arrow())

    assert batch.schema.names == [*RECORD_SCHEMA.names, EVENT_DATE]
    dates = [
        "1970-01-01",
        "1970-01-01",
        "1970-01-02",
        "2026-01-31",
        "9999-12-31",
        "1969-12-31",
        "1969-12-31",
        "1969-12-30",
    ]
    dates += [None, None]
    assert batch.column(EVENT_DATE).cast(pa.string()).to_pylist() == dates
    assert batch.column("offset").to_pylist() == list(range(len(records)))


@pytest.mark.parametrize(
    "timestamp", [253_402_300_800_000, 1_700_000_000_000_000, 1_700_000_000_000_000_000, 2**63 - 1, -(2**63)]
)
def test_an_event_date_that_is_beyond_all_years_makes_no_folder(timestamp: int) -> None:
    """Such as of a producer that counts microseconds or nanoseconds. It is not the folder of records without a timestamp."""
    batch = with_event_date(Chunk.from_records([Record("orders", 3, 0, timestamp, 1)], 0, 1).to_arrow())
    with pytest.raises(UnfitRow, match="'event_date' that is not within the years 1 to 9999"):
        split_batch(batch, [EVENT_DATE])


def test_arrow_columns_hold_the_same_values() -> None:
    batch = Chunk.from_records(RECORDS, 10, 20).to_arrow()

    assert batch.schema.equals(RECORD_SCHEMA)
    batch.validate(full=True)
    assert batch.to_pylist() == [
        {**record._asdict(), "headers": [{"key": name, "value": value} for name, value in record.headers]}
        for record in RECORDS
    ]


@pytest.mark.parametrize(
    "chunk", [Chunk.empty("orders", 3, 10, 20), Chunk.from_records([Record("orders", 3, 10)], 10, 20)]
)
def test_arrow_of_no_records_or_no_headers_has_the_schema_too(chunk: Chunk) -> None:
    batch = chunk.to_arrow()

    batch.validate(full=True)
    assert batch.schema.equals(RECORD_SCHEMA)
    assert batch.num_rows == len(chunk)
    assert pa.Table.from_batches([batch]).column("headers").to_pylist() == [[]] * len(chunk)


def test_a_chunk_without_records_still_counts() -> None:
    chunk = Chunk.empty("orders", 3, 10, 20)

    assert chunk
    assert (len(chunk), chunk.bytes, list(chunk.records())) == (0, 0, [])


@pytest.mark.parametrize(
    ("stop", "offsets"), [(20, [10, 11, 15]), (25, [10, 11, 15]), (16, [10, 11, 15]), (15, [10, 11]), (11, [10])]
)
def test_cut_drops_what_is_at_or_above_the_stop(stop: int, offsets: list[int]) -> None:
    chunk = Chunk.from_records(RECORDS, 10, 20)
    kept = chunk.cut(stop)

    assert kept.stop == min(stop, 20)
    assert list(kept.records()) == [record for record in RECORDS if record.offset in offsets]
    assert list(chunk.records()) == RECORDS


def test_a_cut_at_the_start_leaves_nothing_and_one_below_is_refused() -> None:
    chunk = Chunk.from_records(RECORDS, 10, 20)

    assert chunk.cut(10) == Chunk.empty("orders", 3, 10, 10)
    with pytest.raises(ValueError, match="start <= stop"):
        chunk.cut(9)


def test_chunks_survive_pickling() -> None:
    chunk = Chunk.from_records(RECORDS, 10, 20)
    copy = pickle.loads(pickle.dumps(chunk))

    assert copy == chunk
    assert copy != chunk.cut(15)
    assert list(copy.records()) == RECORDS


@pytest.mark.parametrize(
    ("records", "start", "stop", "message"),
    [
        (RECORDS, 11, 20, "outside of the chunk"),
        (RECORDS, 10, 15, "outside of the chunk"),
        (RECORDS, 20, 10, "start <= stop"),
        (RECORDS[::-1], 10, 20, "in order"),
        ([RECORDS[0], RECORDS[0]], 10, 20, "in order"),
        ([RECORDS[0], Record("orders", 4, 11)], 10, 20, "one partition"),
        ([], 10, 20, "must be one"),
    ],
)
def test_records_that_are_no_chunk_are_refused(records: list[Record], start: int, stop: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chunk.from_records(records, start, stop)


@pytest.mark.parametrize("seed", range(20))
def test_cutting_anywhere_loses_and_repeats_nothing(seed: int) -> None:
    random_numbers = random.Random(seed)
    offsets = sorted(random_numbers.sample(range(100), random_numbers.randint(1, 60)))
    records = [Record("t", 0, offset, value=b"%d" % offset) for offset in offsets]
    chunk = Chunk.from_records(records, 0, 100)
    stop = random_numbers.randint(1, 99)

    below = [record for record in records if record.offset < stop]
    assert list(chunk.cut(stop).records()) == below
    assert chunk.cut(stop).to_arrow().column("offset").to_pylist() == [record.offset for record in below]
