"""Ids that a start recovers are the same however they are read."""

from __future__ import annotations

import pytest

from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.wal import recovered_ids
from beam_exactly_once.wal.ids import content_of, stored_id
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter


def test_ids_are_recovered_alike_one_by_one_and_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    location = WalLocation.create(MemoryStore("memory://side-by-side"))
    writer = PartitionWriter(location, 0, owner="old", id_window=2000)
    writer.page_offsets = 64
    writer.claim()
    for first in range(0, 1000, 7):
        ids = [b"%d" % number for number in range(first, first + 7)]
        writer.begin(NewRecords.of([NewRecord(b"x", 0, stored_id("log", one), content_of(one), one) for one in ids]))
        writer.put()
        if first < 700:
            writer.put_page()
    one_by_one = [
        recovered_ids.recover_ids(location, 0, writer.end, required=wanted, wanted=wanted) for wanted in (0, 500, 900)
    ]

    monkeypatch.setattr(recovered_ids, "_at_once", lambda location: 4)

    for wanted, expected in zip((0, 500, 900), one_by_one, strict=True):
        assert recovered_ids.recover_ids(location, 0, writer.end, required=wanted, wanted=wanted) == expected
