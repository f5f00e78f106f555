"""A read that goes on: every record once, whatever a runner splits; turns that end; times that Beam's windows can trust."""

from __future__ import annotations

import random

import pytest

from beam_exactly_once import EventTime, Record
from beam_exactly_once.clock import now_ms
from beam_exactly_once.errors import DataLoss, UnknownTopic
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.planning.time_notes import TimesBy, timestamps_of
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.reading import follow_ranges, read_ranges
from beam_exactly_once.transforms.reading.follow_ranges import ReadTimes, _GrowingRanges
from beam_exactly_once.transforms.reading.growing_range import NO_END
from beam_exactly_once.transforms.reading.range_group import PlannedRange, RangeGroup
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
    assert [rest > 0 for rest in follower.rests_s] == [False, True, True]
    follower.clock.seconds += follow_ranges.QUIET_S
    follower.turn()
    assert follower.rests_s[-1] > follow_ranges.POLL_S

    monkeypatch.setattr(follow_ranges, "MAX_PROCESS_BYTES", 10)
    cluster.append(records(30))
    follower.turn()
    assert follower.turns[-1] == 10

    monkeypatch.setattr(follow_ranges, "MAX_PROCESS_BYTES", 1 << 20)
    monkeypatch.setattr(follow_ranges, "MAX_PROCESS_S", 0.0)
    follower.turn()
    assert follower.turns[-1] == 0


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


@pytest.mark.parametrize("by", ["timestamp", "function"])
def test_the_watermark_stays_behind_the_latest_record_and_goes_on_where_a_partition_is_idle(
    cluster: MemoryKafka, by: str
) -> None:
    event_time = EventTime(None if by == "timestamp" else of_key, out_of_order_s=10, idle_s=60, future_s=0)
    times_of = timestamps_of if by == "timestamp" else TimesBy(of_key, as_arrow=False)
    follower = Follower(cluster, ReadTimes(event_time, times_of))
    start_ms = now_ms(follower.clock)

    def send(*seconds: int) -> None:
        for one in seconds:
            at_ms = start_ms + 1000 * one
            cluster.append(records(1, timestamp_ms=at_ms if by == "timestamp" else 0, key=b"%d" % at_ms))

    send(-100, -50, -70, 3600)  # the last one is from the future
    follower.turn()
    follower.clock.seconds += 59
    follower.turn()
    assert follower.reached_ms == [start_ms - 60_000] * 2  # quiet, but not for so long
    follower.clock.seconds += 1
    follower.turn()
    assert follower.reached_ms[-1] == start_ms + 50_000
    send(20)  # late, as it is
    follower.turn()
    assert follower.reached_ms[-1] == start_ms + 50_000


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
