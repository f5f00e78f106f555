"""Which partitions of a source the watermark waits for, batch after batch, with Kafka in memory; no graph runs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from beam_exactly_once import EventTime, Record, TopicPartition
from beam_exactly_once.checkpoint import Attempt, Plan, SourceCommit, SourcePlan, marker_of_attempt
from beam_exactly_once.checkpoint.records import Piece
from beam_exactly_once.checkpoint.source_times import Noted, PartitionTimes, SourceTimes
from beam_exactly_once.kafka import Chunk, KafkaSettings, selection_of
from beam_exactly_once.planning import BatchLimits, LogSource
from beam_exactly_once.planning.source_planner import SourcePlanner
from beam_exactly_once.planning.start import FromEarliest
from beam_exactly_once.planning.time_notes import TimeNotes, timestamps_of
from beam_exactly_once.testing import MemoryKafka
from support.checkpoints import fresh_checkpoint
from support.faulty_store import ManualClock

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)
SETTINGS = KafkaSettings("in-memory:9092")


class TimedSource:
    """``orders`` with two partitions; times are in seconds. A driver starts anew for each batch."""

    def __init__(self) -> None:
        self.cluster = MemoryKafka({"orders": 2})
        self.event_time = EventTime(out_of_order_s=10)
        self.batches: list[tuple[SourcePlan, SourceCommit]] = []

    def happen(self, partition: int, *times_s: float, topic: str = "orders") -> None:
        """Records that happened then."""
        self.cluster.append(Record(topic, partition, timestamp_ms=int(at_s * 1000)) for at_s in times_s)

    def run_at(self, at_s: float, topics: Sequence[str] = ("orders",), max_batch_offsets: int | None = None) -> None:
        """Plan a batch then, and commit it, whatever it reads."""
        limits = BatchLimits(max_batch_offsets)
        spec = LogSource(
            "kafka", SETTINGS, selection_of(topics, None), FromEarliest(), limits, "skip", event_time=self.event_time
        )
        with self.cluster.serving():
            planner = SourcePlanner(spec, ManualClock(), may_wait=False)
        planner.take_position(fresh_checkpoint(), None)
        if self.batches:
            planner.advance(self.batches[-1][1])
        planner.refresh()
        at_ms = int(at_s * 1000)
        plan = Plan(len(self.batches), 1, at_ms, {"kafka": planner.plan(at_ms)})
        source = plan.sources["kafka"]
        assert planner.times is not None
        marker = marker_of_attempt(
            plan,
            Attempt(1, plan.batch_id, "a"),
            [Piece("kafka", one, one.size, 0) for one in source.ranges],
            {},
            at_ms,
            times={"kafka": planner.times},
            noted={"kafka": self._noted(source, self.event_time.latest_ms(at_ms))},
        )
        self.batches.append((source, marker.sources["kafka"]))

    def _noted(self, source: SourcePlan, latest_ms: int) -> Noted:
        notes = TimeNotes()
        for one in source.ranges:
            records = self.cluster.records_of(one.topic_partition, one.start, one.stop, one.size)
            chunk = Chunk.from_records(records, one.start, one.stop)
            notes.note_all((one.topic, one.partition), timestamps_of(chunk), latest_ms)
        return notes.taken()

    def watermarks_s(self) -> list[float | None]:
        """Of each batch."""
        times = [plan.watermark_ms for plan, _ in self.batches]
        return [None if at_ms is None else at_ms / 1000 for at_ms in times]

    def held_by(self) -> list[TopicPartition | None]:
        return [plan.held_by for plan, _ in self.batches]

    def times(self) -> SourceTimes:
        """Behind the newest batch."""
        times = self.batches[-1][1].event_time
        assert times is not None
        return times


@pytest.fixture
def source() -> TimedSource:
    return TimedSource()


def test_a_partition_without_records_is_idle_after_a_while_and_joins_again(source: TimedSource) -> None:
    """apache/beam#40176: a partition that never had a record kept the watermark from coming any further."""
    for at_s in (100, 130, 160, 190):
        source.happen(0, at_s)
        source.run_at(at_s)
    source.happen(1, 10)
    source.happen(0, 200)
    source.run_at(200)
    assert source.watermarks_s() == [None, None, 120, 150, 150]
    assert source.held_by() == [P0, P1, P0, P0, P1]


def test_a_partition_with_records_that_are_not_read_yet_is_not_idle(source: TimedSource) -> None:
    """They may be old; so the time since its last record says nothing."""
    source.happen(1, 100)
    source.happen(0, 100)
    source.run_at(100)
    source.happen(1, 101)
    source.happen(0, 1000)
    source.run_at(1000)
    assert source.watermarks_s() == [None, 90]
    source.happen(0, 1010)
    source.run_at(1010)
    assert source.watermarks_s()[-1] == 91


def test_what_an_open_transaction_hides_is_waited_for(source: TimedSource) -> None:
    """Found by a look behind the last stable offset, where the partition seems to be read to its end."""
    source.happen(0, 100)
    source.happen(1, 100)
    source.run_at(100)
    source.cluster.begin_transaction("orders", 1)
    source.happen(1, 105)
    source.happen(0, 1000)
    source.run_at(1000)
    source.happen(0, 1001)
    source.run_at(1001)
    source.cluster.end_transaction("orders", 1)
    source.run_at(1002)
    assert source.watermarks_s() == [None, 90, 90, 90]
    source.happen(0, 1003)
    source.run_at(1070)
    assert source.watermarks_s()[-1] == 991


def test_a_new_partition_joins_without_lowering_it_and_one_that_is_left_out_is_not_waited_for(
    source: TimedSource,
) -> None:
    both = {"topics": ["orders", "more"]}
    for at_s in (100, 101):
        source.happen(0, at_s)
        source.happen(1, at_s)
        source.run_at(at_s)
    source.cluster.add_partitions("more", 1)
    source.happen(0, 50, topic="more")
    source.run_at(400, **both)
    source.happen(0, 51, topic="more")
    source.run_at(401, **both)
    assert source.watermarks_s() == [None, 90, 90, 90]
    assert source.held_by()[2:] == [TopicPartition("more", 0)] * 2
    source.happen(0, 500)
    source.happen(1, 500)
    source.run_at(500)
    source.happen(0, 501)
    source.run_at(501)
    assert source.watermarks_s()[-2:] == [91, 490]


def test_a_topic_that_is_recreated_begins_anew_and_the_watermark_stays(source: TimedSource) -> None:
    source.happen(0, 1000)
    source.happen(1, 1000)
    source.run_at(1000)
    source.happen(0, 1001)
    source.run_at(1001)
    source.cluster.delete_topic("orders")
    source.cluster.add_partitions("orders", 1)
    source.happen(0, 5)
    source.run_at(1002)
    assert source.watermarks_s() == [None, 990, 990]
    assert source.times().partitions == {P0: PartitionTimes(5_000, 1_002_000)}


def test_one_record_from_the_future_does_not_end_the_time_of_a_stream(source: TimedSource) -> None:
    """pinpoint-apm/pinpoint#7635, turbolytics/sql-flow#358: all that came behind one record of a wrong clock was late."""
    year_s = 365 * 86_400
    source.happen(0, 100, year_s, 3700)
    source.happen(1, *range(100))
    source.run_at(100)
    source.happen(0, 101, 3702)
    source.run_at(101)
    source.happen(0, 102)
    source.run_at(102)
    assert source.watermarks_s() == [None, 89, 89]
    assert source.times().partitions[P0].max_ms == 3_700_000
    assert source.times().future_records == 2


def test_all_are_idle_and_nothing_is_read(source: TimedSource) -> None:
    """A batch without ranges has a watermark, too: the largest of the partitions."""
    source.happen(0, 100)
    source.happen(1, 40)
    source.run_at(100)
    source.run_at(159)
    source.run_at(160)
    assert source.watermarks_s() == [None, 30, 90]
    assert source.held_by() == [P0, P1, None]


def test_who_must_be_waited_for_for_ever_is(source: TimedSource) -> None:
    source.event_time = EventTime(out_of_order_s=10, idle_s=None)
    source.happen(0, 100)
    source.run_at(100)
    source.run_at(10**6)
    assert (source.watermarks_s(), source.held_by()) == ([None, None], [P0, P1])


def test_a_lower_delay_raises_it_and_a_higher_one_never_lowers_it(source: TimedSource) -> None:
    source.happen(0, 100)
    source.happen(1, 100)
    source.run_at(100)
    for out_of_order_s in (10, 50, 5):
        source.event_time = EventTime(out_of_order_s=out_of_order_s)
        source.run_at(101)
    assert source.watermarks_s() == [None, 90, 90, 95]


def test_a_batch_that_reads_a_part_waits_for_the_rest(source: TimedSource) -> None:
    source.happen(0, 100, 200, 300)
    source.happen(1, 100, 101, 102)
    for at_s in (1000, 2000, 3000):
        source.run_at(at_s, max_batch_offsets=2)
    source.run_at(4000)
    assert source.watermarks_s() == [None, 90, 91, 290]
