"""A write-ahead log that is read on and on: what comes, what a sweep took, a log that was wiped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once import EventTime, ReadFromWal
from beam_exactly_once.clock import SYSTEM_CLOCK
from beam_exactly_once.errors import DataLoss, UnknownTopic
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.planning.start import start_of
from beam_exactly_once.planning.time_notes import timestamps_of
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.reading.find_partitions import FindPartitions
from beam_exactly_once.transforms.reading.follow_ranges import ReadTimes
from beam_exactly_once.transforms.reading.growing_range import NO_END
from support.unbounded.follower import Follower
from support.unbounded.search import Search, found
from support.wal.streams import LOG, append, location, numbers

TIMES = ReadTimes(EventTime(out_of_order_s=0), timestamps_of)


class Reader(Follower):
    """Of partition 0, from its beginning."""

    def __init__(self, folder: Path, **arguments: Any) -> None:
        settings, _ = ReadFromWal(f"{folder}/{LOG}").log_in(None)
        where = OffsetRange(LOG, 0, 0, NO_END)
        log_id = location(folder).log_id
        super().__init__(MemoryKafka({}), TIMES, settings=settings, whole=where, topic_id=log_id, **arguments)
        # Records carry the real time of their arrival, and what is from the future moves no watermark.
        self.clock.seconds = (SYSTEM_CLOCK.utc_now() - self.clock.utc_now()).total_seconds()

    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]


def test_records_come_as_they_are_appended_with_the_time_of_their_arrival(tmp_path: Path) -> None:
    append(tmp_path, numbers(range(3)))
    reader = Reader(tmp_path)
    reader.turn()
    assert reader.values() == numbers(range(3))
    assert reader.reached_ms == [reader.records[-1].timestamp_ms]
    reader.turn()
    append(tmp_path, numbers(range(3, 9)))
    reader.turn()
    assert reader.turns == [3, 0, 6]
    assert reader.values() == numbers(range(9))


def test_a_log_that_is_wiped_and_made_anew_is_an_error_or_passed_over(tmp_path: Path) -> None:
    """Though the reader has nothing left, and the new log is as long as the old one."""
    append(tmp_path, numbers(range(3)))
    readers = [Reader(tmp_path), Reader(tmp_path), Reader(tmp_path, on_data_loss="skip")]
    for one in readers:
        one.turn()
    shutil.rmtree(tmp_path / LOG)
    with pytest.raises(UnknownTopic, match="holds no write-ahead log"):
        readers[0].turn()
    append(tmp_path, numbers(range(10, 14)))
    with pytest.raises(DataLoss, match="hooks: deleted and made anew while it was read"):
        readers[1].turn()
    readers[2].turn()
    assert readers[2].values() == numbers(range(3))
    assert readers[2].waiting == []


def test_partitions_of_a_log_are_found_as_their_writers_start(tmp_path: Path) -> None:
    append(tmp_path, numbers(range(3)))
    settings, selection = ReadFromWal(f"{tmp_path}/{LOG}").log_in(None)
    search = Search(MemoryKafka({}), selection, start_of("latest"), ReadTimes(), settings=settings)
    assert isinstance(search.doing, FindPartitions)
    assert found(search.look()) == [(LOG, 0, 4)]
    append(tmp_path, numbers(range(3)), partition=1)
    assert found(search.look()) == [(LOG, 1, 0)]
    assert search.look() == []
