"""Segments as bytes: what goes in comes out, up to the limits, and what was altered does not."""

from __future__ import annotations

import random

import pytest

from beam_exactly_once.errors import CorruptObject, NewerFormat
from beam_exactly_once.wal import sealed
from beam_exactly_once.wal.ids import content_of, entries_of, stored_id
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.segments import (
    MAX_PAYLOAD_BYTES,
    MAX_SEGMENT_BYTES,
    MAX_SEGMENT_RECORDS,
    SegmentHeader,
    decode_header,
    decode_ids,
    decode_segment,
    encode_segment,
    size_bytes,
)

LOG = "log"


def header(count: int) -> SegmentHeader:
    return SegmentHeader("records", 3, 10**15, count, 10**15 - 1, 10**13, id_window=10**6, ids_from=10**15)


def a_record(chance: random.Random) -> NewRecord:
    texts = [None, b"", b"\0\xff", chance.randbytes(chance.randint(0, 300))]
    sent = chance.choice(texts)
    ids = () if sent is None else (stored_id(LOG, sent), content_of(sent))
    names = ["", "é", "name", "name"]
    headers = tuple((chance.choice(names), chance.choice(texts)) for _ in range(chance.choice((0, 0, 3))))
    return NewRecord(chance.choice(texts), chance.randint(-5, 2**40), *ids)._replace(key=sent, headers=headers)


@pytest.mark.parametrize("seed", range(10))
def test_records_come_back_as_they_are(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    records = [a_record(chance) for _ in range(chance.choice((1, 2, 50)))]
    columns = NewRecords.of(records)
    data = encode_segment(LOG, header(len(records)), columns)

    found = decode_segment(data, where="here", log_id=LOG)

    assert found.header == header(len(records)) == decode_header(data[:4096], where="here", log_id=LOG)
    headers = found.headers or [()] * len(records)
    rows = list(zip(found.values, found.arrived_ms, found.keys, headers, strict=True))
    assert rows == [(one.value, one.arrived_ms, one.key, one.headers) for one in records]
    ids = entries_of(10**15, columns.ids, columns.contents)
    assert decode_ids(data, where="here", log_id=LOG) == (found.header, ids)
    assert len(data) <= 4096 + size_bytes(columns)


def test_a_segment_of_the_greatest_size_fits_one_request() -> None:
    full = NewRecord(b"", 0, headers=(("name", b"value"),))
    full = full._replace(value=b"x" * (MAX_PAYLOAD_BYTES - size_bytes(NewRecords.of([full]))))
    most = [NewRecord(b"x" * 100, 0, stored_id(LOG, b"1"), content_of(b"1"), b"k")] * MAX_SEGMENT_RECORDS
    assert size_bytes(NewRecords.of(most)) <= MAX_PAYLOAD_BYTES

    for records in ([full], most):
        data = encode_segment(LOG, header(len(records)), NewRecords.of(records))
        assert len(data) <= MAX_SEGMENT_BYTES
        assert len(decode_segment(data, where="here", log_id=LOG).values) == len(records)
    with pytest.raises(ValueError, match="larger than 8000000"):
        encode_segment(LOG, header(1), NewRecords.of([NewRecord(b"x" * MAX_SEGMENT_BYTES, 0)]))


def test_every_flipped_bit_of_a_segment_is_seen() -> None:
    records = [NewRecord(b"a", 1, key=b"k"), NewRecord(b"b", 2, headers=(("n", b"v"),))]
    data = encode_segment(LOG, header(2), NewRecords.of(records))
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 1 << at % 8
        with pytest.raises((CorruptObject, NewerFormat), match=r"^here "):
            decode_segment(bytes(altered), where="here", log_id=LOG)


def test_a_segment_of_another_log_or_a_newer_format_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_segment("other", header(1), NewRecords.of([NewRecord(b"a", 1)]))
    with pytest.raises(CorruptObject, match="of log other"):
        decode_segment(data, where="here", log_id=LOG)
    monkeypatch.setattr(sealed, "MIN_READER_VERSION", 9)
    newer = encode_segment(LOG, header(1), NewRecords.of([NewRecord(b"a", 1)]))
    with pytest.raises(NewerFormat, match="needs a reader of format version 9"):
        decode_segment(newer, where="here", log_id=LOG)
    with pytest.raises(NewerFormat, match="needs a reader of format version 9"):
        sealed.unseal(sealed.seal("floor", LOG, {}), where="here", kind="floor", log_id=LOG)


def test_a_small_object_of_another_kind_or_log_is_named() -> None:
    data = sealed.seal("floor", LOG, {"offset": 3})
    assert sealed.unseal(data, where="here", kind="floor", log_id=LOG) == {"offset": 3}
    altered = data.replace(b'"offset":3', b'"offset":4')
    for wrong in ((data, "sweep", LOG), (data, "floor", "other"), (altered, "floor", LOG), (data[:-1], "floor", LOG)):
        with pytest.raises(CorruptObject, match="is not a whole record"):
            sealed.unseal(wrong[0], where="here", kind=wrong[1], log_id=wrong[2])
