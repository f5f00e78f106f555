"""Streams with event time: what a batch notes, what the next one's watermark is, and what restarts, replays and passing keep."""

from __future__ import annotations

import pytest

from beam_exactly_once.checkpoint.source_times import PartitionTimes
from beam_exactly_once.offsets import TopicPartition
from support.timers.event_stream import EventStream, ms_of

pytestmark = pytest.mark.runs_on("DirectRunner")

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)


@pytest.fixture
def stream() -> EventStream:
    return EventStream()


def test_the_slowest_partition_is_waited_for(stream: EventStream) -> None:
    stream.happen(0, 100, 130, 110)
    stream.happen(1, 50)
    stream.run_at(200)
    stream.happen(0, 131)
    stream.run_at(210)
    stream.happen(1, 125)
    stream.run_at(220)
    stream.happen(1, 0)
    stream.run_at(230)
    assert stream.watermarks_s() == [None, 40, 40, 115]
    assert [plan.held_by for plan in stream.planned()] == [P0, P1, P1, P1]
    newest = stream.committed()[-1].event_time
    assert newest is not None
    assert newest.watermark_ms == ms_of(115)
    assert newest.partitions == {P0: PartitionTimes(ms_of(131), ms_of(210)), P1: PartitionTimes(ms_of(125), ms_of(230))}


def test_streams_without_event_time_store_nothing_of_it(stream: EventStream) -> None:
    stream.happen(0, 100)
    stream.run_at(200, event_time=None)
    assert "event_time" not in stream.committed()[0].to_json()
    assert not {"watermark_ms", "held_by"} & stream.planned()[0].to_json().keys()
