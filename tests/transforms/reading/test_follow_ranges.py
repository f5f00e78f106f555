"""A read that goes on: every record once, whatever a runner splits; turns that end; times that Beam's windows can trust."""

from __future__ import annotations

import random
from typing import Any

import pytest
from apache_beam.transforms.window import GlobalWindow

from beam_exactly_once import EventTime, Record
from beam_exactly_once.clock import now_ms
from beam_exactly_once.errors import DataLoss, UnknownTopic
from beam_exactly_once.kafka import Chunk
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.planning.time_notes import TimesBy, timestamps_of
from beam_exactly_once.testing import MemoryKafka, memory_kafka
from beam_exactly_once.transforms.reading import follow_ranges, read_ranges
from beam_exactly_once.transforms.reading.follow_ranges import ReadTimes, _GrowingRanges
from beam_exactly_once.transforms.reading.growing_range import NO_END
from beam_exactly_once.transforms.reading.range_group import PlannedRange, RangeGroup
from beam_exactly_once.transforms.reading.read_ranges import explode
from support.unbounded.follower import WHOLE, Follower, records


@pytest.fixture
def cluster() -> MemoryKafka:
    return MemoryKafka({"orders": 1})


@pytest.mark.parametrize("seed", range(20))
def test_every_record_once_whatever_is_split_and_whenever_it_comes(
    seed: int, cluster: MemoryKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_ = random.Random(seed)
    monkeypatch.setattr(read_ranges, "MAX_CHUNK_RECORDS", 7)
    monkeypatch.setattr(follow_ranges, "MAX_PROCESS_RECORDS", 30)
    follower = Follower(cluster, random_=random_)
    for _ in range(10):
        cluster.append(records(random_.randint(0, 40)))
        cluster.skip("orders", 0, random_.randint(0, 5))
        follower.turn()
    for _ in range(200):
        follower.turn()
    present = [one.offset for one in cluster.records_of(WHOLE.topic_partition, 0, 10_000, 10_000)]
    assert follower.offsets() == present
    assert sum(1 for one, _ in follower.waiting if one.stop == NO_END) == 1


def test_a_turn_ends_where_nothing_is_left_and_by_records_bytes_and_time(
    cluster: MemoryKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ranges, "MAX_CHUNK_RECORDS", 10)
    monkeypatch.setattr(follow_ranges, "MAX_PROCESS_RECORDS", 20)
    follower = Follower(cluster)
    cluster.append(records(30))
    follower.turn()
    follower.turn()
    follower.turn()
    assert follower.turns == [20, 10, 0]
    follower.clock.seconds += follow_ranges.QUIET_S
    follower.turn()
    assert [rest > 0 for rest in follower.rests_s] == [False, True, True, True]
    assert follower.rests_s[-1] > follower.settings.rest_s

    monkeypatch.setattr(follow_ranges, "MAX_PROCESS_BYTES", 10)
    cluster.append(records(30))
    follower.turn()
    assert follower.turns[-1] == 10

    monkeypatch.setattr(follow_ranges, "MAX_PROCESS_BYTES", 1 << 20)
    monkeypatch.setattr(follow_ranges, "MAX_PROCESS_S", 0.0)
    follower.turn()
    assert follower.turns[-1] == 0


def test_slow_steps_behind_a_reader_end_its_turn_too(cluster: MemoryKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have what was read, one chunk, then two, then four; nothing is read after the second is over."""
    monkeypatch.setattr(read_ranges, "MAX_CHUNK_RECORDS", 10)
    follower = Follower(cluster, seconds_a_chunk=0.3)
    cluster.append(records(200))
    follower.turn()
    assert follower.turns == [70]
    follower.seconds_a_chunk = 5
    follower.turn()
    assert follower.turns == [70, 10]
    assert follower.offsets() == list(range(80))


def test_a_drain_ends_what_has_no_end() -> None:
    provider, group = _GrowingRanges(), RangeGroup((PlannedRange(WHOLE),))
    assert provider.truncate(group, WHOLE) is None
    rest = OffsetRange("orders", 0, 3, 9)
    assert provider.truncate(group, rest) == rest


def test_without_event_time_the_clock_counts(cluster: MemoryKafka) -> None:
    follower = Follower(cluster)
    follower.turn()
    follower.clock.seconds += 5
    cluster.append(records(1, timestamp_ms=1))
    follower.turn()
    assert follower.reached_ms[1] - follower.reached_ms[0] == 5000


@pytest.mark.parametrize("by", ["create time", "append time", "function"])
def test_the_watermark_stays_behind_the_latest_record_and_goes_on_where_a_partition_is_idle(
    cluster: MemoryKafka, by: str
) -> None:
    event_time = EventTime(of_key if by == "function" else None, out_of_order_s=10, idle_s=60, future_s=0)
    times_of = TimesBy(of_key, as_arrow=False) if by == "function" else timestamps_of
    follower = Follower(cluster, ReadTimes(event_time, times_of))
    start_ms = now_ms(follower.clock)

    def send(*seconds: int) -> None:
        for one in seconds:
            at_ms = start_ms + 1000 * one
            at = {"timestamp_ms": 0 if by == "function" else at_ms, "timestamp_type": 2 if by == "append time" else 1}
            cluster.append(records(1, **at, key=b"%d" % at_ms))

    send(-100, -50, -70, 3600)  # the last one is from the future
    follower.turn()
    assert follower.first_ms == [start_ms - 100_000]  # what a chunk is stamped with: no record of it is earlier
    follower.clock.seconds += 59
    follower.turn()
    assert follower.reached_ms == [start_ms - 60_000] * 2  # quiet, but not for so long
    follower.clock.seconds += 1
    follower.turn()
    assert follower.reached_ms[-1] == start_ms + 50_000
    send(20)  # late, as it is
    follower.turn()
    assert follower.reached_ms[-1] == start_ms + 50_000


def test_records_are_stamped_as_they_are_told() -> None:
    given = [Record("orders", 0, timestamp_ms=one, key=b"%d" % (2 * one), value=b"") for one in (7000, 5000)]
    chunk = Chunk.from_records([one._replace(offset=offset) for offset, one in enumerate(given)], 0, 2)

    by_key = explode(as_arrow=False, timed=True, by=of_key)
    assert [one.timestamp.micros // 1000 for one in by_key.fn.process(chunk)] == [14000, 10000]
    by_kafka = explode(as_arrow=False, timed=True)
    assert [one.timestamp.micros // 1000 for one in by_kafka.fn.process(chunk, GlobalWindow())] == [7000, 5000]


def of_key(record: Record) -> int:
    return int(record.key or b"")


def test_what_retention_took_is_an_error_or_on_record(cluster: MemoryKafka, caplog: pytest.LogCaptureFixture) -> None:
    cluster.append(records(10))
    cluster.delete_records("orders", 0, 4)
    with pytest.raises(DataLoss):
        Follower(cluster).turn()
    follower = Follower(cluster, on_data_loss="skip")
    follower.turn()
    assert follower.offsets() == list(range(4, 10))
    assert "no longer has the offsets" in caplog.text


@pytest.mark.parametrize("is_new", [True, False])
def test_a_topic_that_is_gone_or_made_anew_is_an_error_or_passed_over(
    is_new: bool, cluster: MemoryKafka, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.append(records(3))
    followers = [Follower(cluster), Follower(cluster, on_data_loss="skip")]
    for one in followers:
        one.turn()
    cluster.delete_topic("orders")
    if is_new:
        cluster.add_partitions("orders", 1)
        cluster.append(records(7))
    with pytest.raises(DataLoss if is_new else UnknownTopic):
        followers[0].turn()
    followers[1].turn()
    assert followers[1].waiting == []
    assert followers[1].offsets() == [0, 1, 2]
    assert "topic orders is gone, or another one now" in caplog.text


@pytest.mark.parametrize("happens_in_chunk", [1, 2, 3])
def test_a_topic_that_is_made_anew_within_a_turn_is_an_error_or_passed_over(
    happens_in_chunk: int, cluster: MemoryKafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Chunk 1 is proved alone, 2 and 3 together. What was read and not proved is not given out."""
    monkeypatch.setattr(read_ranges, "MAX_CHUNK_RECORDS", 10)
    next_chunk = memory_kafka._MemoryLog.next_chunk
    chunks_read = 0

    def make_anew(self: Any, *asked: Any) -> Chunk:
        nonlocal chunks_read
        chunks_read += 1
        if chunks_read == happens_in_chunk:
            cluster.delete_topic("orders")
            cluster.add_partitions("orders", 1)
            cluster.append(records(100, key=b"new"))
        return next_chunk(self, *asked)

    monkeypatch.setattr(memory_kafka._MemoryLog, "next_chunk", make_anew)
    cluster.append(records(100, key=b"old"))
    follower = Follower(cluster, on_data_loss="skip")
    follower.turn()
    proved = 0 if happens_in_chunk == 1 else 10
    assert [(one.offset, one.key) for one in follower.records] == [(offset, b"old") for offset in range(proved)]
    assert follower.waiting == []
    assert f"what it had of partition orders-0 from offset {proved} on is lost" in caplog.text

    cluster.delete_topic("orders")
    cluster.add_partitions("orders", 1)
    cluster.append(records(100))
    chunks_read = 0
    failing = Follower(cluster)
    with pytest.raises(DataLoss, match="orders: deleted and made anew while it was read"):
        failing.turn()
    assert len(failing.records) == proved
