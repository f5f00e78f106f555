"""Streams with event time: what a batch notes, what the next one's watermark is, and what restarts, replays and passing keep."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from beam_exactly_once import CheckpointAt, EventTime, ReadFromKafka, Record
from beam_exactly_once.checkpoint.resolution import propose, resolve
from beam_exactly_once.checkpoint.source_times import PartitionTimes, SourceTimes, TimeReached
from beam_exactly_once.clock import SYSTEM_CLOCK
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.ending import ends_with, kill
from support.timers.event_stream import EventStream, ms_of

pytestmark = pytest.mark.runs_on("DirectRunner")

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)


@pytest.fixture
def stream() -> EventStream:
    return EventStream()


def newest_times(stream: EventStream) -> SourceTimes:
    times = stream.committed()[-1].event_time
    assert times is not None
    return times


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
    assert newest_times(stream) == SourceTimes(
        {P0: PartitionTimes(ms_of(131), ms_of(210)), P1: PartitionTimes(ms_of(125), ms_of(230))}, ms_of(115)
    )
    assert stream.progress[-1].event_time == {"kafka": TimeReached(ms_of(115), P1, ms_of(230), 0)}
    assert stream.progress[0].event_time == {"kafka": TimeReached(None, P0, ms_of(200), 0)}


def test_streams_without_event_time_store_nothing_of_it(stream: EventStream) -> None:
    stream.happen(0, 100)
    stream.run_at(200, event_time=None)
    assert "event_time" not in stream.committed()[0].to_json()
    assert not {"watermark_ms", "held_by"} & stream.planned()[0].to_json().keys()


def test_a_source_that_no_longer_notes_times_keeps_its_watermark(stream: EventStream) -> None:
    stream.happen(0, 100)
    stream.happen(1, 100)
    for at_s, event_time in ((100, {}), (101, {}), (102, {"event_time": None}), (103, {})):
        stream.run_at(at_s, **event_time)
        stream.happen(0, 100 + at_s)
    assert stream.watermarks_s() == [None, 90, 90, 90]


# -- restarts, replays, batches that are passed ----------------------------------------------------------------------


def test_a_replay_has_the_watermark_of_its_plan_whatever_is_set_and_passed_meanwhile(stream: EventStream) -> None:
    stream.happen(0, 100)
    stream.happen(1, 100)
    stream.run_at(100)
    stream.happen(0, 200)
    with watching(StoreCalls(KillPoint("put_if_absent", "offsets/", 1), kill)), ends_with("killed here"):
        stream.run_at(200)
    stream.happen(1, 900)
    stream.run_at(900, event_time=EventTime(out_of_order_s=0, idle_s=1, future_s=0))
    assert stream.watermarks_s() == [None, 90, 100]
    before = stream.committed()[1].event_time
    assert before is not None
    assert before.watermark_ms == ms_of(90)
    assert before.partitions == {P0: PartitionTimes(ms_of(200), ms_of(200)), P1: PartitionTimes(ms_of(100), ms_of(100))}


@pytest.mark.parametrize("outcome", ["skipped", "abandoned"])
def test_a_batch_that_is_passed_leaves_the_time_as_it_was(stream: EventStream, outcome: Any) -> None:
    stream.happen(0, 100)
    stream.happen(1, 100)
    stream.run_at(100)
    before = newest_times(stream)
    stream.happen(0, 200)
    with watching(StoreCalls(KillPoint("put_if_absent", "offsets/", 1), kill)), ends_with("killed here"):
        stream.run_at(200)
    resolve(propose(stream.store(), 1, outcome), owner="a test", clock=SYSTEM_CLOCK)
    assert newest_times(stream) == before
    stream.happen(0, 201)
    stream.run_at(201)
    assert stream.watermarks_s() == [None, 90, 90]
    assert newest_times(stream).partitions[P0].max_ms == ms_of(201)


def test_who_goes_on_elsewhere_takes_the_time_along(stream: EventStream) -> None:
    stream.happen(0, 100)
    stream.happen(1, 80)
    stream.run_at(100)
    stream.happen(1, 90)
    stream.run_at(101)
    old, stream.location = stream.location, f"{stream.location}-new"
    stream.arguments = {"continue_from": CheckpointAt(old)}
    stream.happen(1, 120)
    stream.run_at(102)
    assert stream.watermarks_s() == [80]
    assert newest_times(stream).partitions == {
        P0: PartitionTimes(ms_of(100), ms_of(100)),
        P1: PartitionTimes(ms_of(120), ms_of(102)),
    }


# -- by what is decoded ----------------------------------------------------------------------------------------------


def orders(stream: EventStream, partition: int, *at_ms: Any) -> None:
    """Records that say themselves when they happened, whatever Kafka thinks."""
    stream.cluster.append(
        Record("orders", partition, timestamp_ms=ms_of(10_000), value=orjson.dumps({"at": one})) for one in at_ms
    )


def decoded(record: Record) -> Any:
    return orjson.loads(record.value or b"")


def decoded_batch(records: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([orjson.loads(value.as_py()) for value in records.column("value")])


def a_second_later(batch: pa.RecordBatch) -> pa.Array:
    return pc.add(batch.column("at"), 1000)


BY = pytest.mark.parametrize(
    "read",
    [
        pytest.param({"decoder": decoded, "by": "at"}, id="column"),
        pytest.param({"decoder": decoded, "by": lambda row: row["at"]}, id="function"),
        pytest.param({"decoder": decoded_batch, "as_arrow": True, "by": "at"}, id="column-of-batch"),
        pytest.param({"by": lambda record: decoded(record)["at"]}, id="function-of-record"),
        pytest.param(
            {"by": lambda batch: decoded_batch(batch).column("at"), "as_arrow": True}, id="function-of-records"
        ),
    ],
)


def arguments(read: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in read.items() if name != "by"}
    return {**given, "event_time": EventTime(read["by"], out_of_order_s=10)}


@BY
def test_the_time_is_that_of_the_row(stream: EventStream, read: dict[str, Any]) -> None:
    orders(stream, 0, ms_of(100), ms_of(50), ms_of(99_999))
    orders(stream, 1, ms_of(70))
    stream.run_at(100, **arguments(read))
    assert newest_times(stream) == SourceTimes(
        {P0: PartitionTimes(ms_of(100), ms_of(100)), P1: PartitionTimes(ms_of(70), ms_of(100))}, None, 1
    )


@BY
def test_a_row_without_a_time_fails_its_batch_and_is_named(stream: EventStream, read: dict[str, Any]) -> None:
    orders(stream, 0, ms_of(100), "yesterday")
    named = r"\[0, 2\)" if "as_arrow" in read and "decoder" not in read else "record orders-0 at offset 1"
    with pytest.raises(Exception, match=named):
        stream.run_at(100, **arguments(read))


@pytest.mark.parametrize(
    "read",
    [{"decoder": decoded, "by": "at"}, {"decoder": decoded_batch, "as_arrow": True, "by": a_second_later}],
    ids=["records", "arrow"],
)
def test_a_row_without_a_time_is_rejected_like_one_that_cannot_be_decoded(
    stream: EventStream, read: dict[str, Any]
) -> None:
    def build(both: Any) -> None:
        rows, rejected = both
        for label, collection in (("Rows", rows), ("Rejected", rejected)):
            _ = collection | label >> beam.Map(lambda _: ())

    later_ms = 1000 if "as_arrow" in read else 0
    orders(stream, 0, ms_of(100), None, ms_of(90))
    orders(stream, 1, None)
    stream.run_at(100, build, **arguments(read), on_error="reject")
    assert stream.progress[-1].records_rejected == {"decode_records": 2}
    assert newest_times(stream).partitions == {
        P0: PartitionTimes(ms_of(100) + later_ms, ms_of(100)),
        P1: PartitionTimes(None, ms_of(100)),
    }


# -- what is refused -------------------------------------------------------------------------------------------------


def test_a_record_without_a_timestamp_is_an_error(stream: EventStream) -> None:
    stream.happen(0, 100)
    stream.cluster.append([Record("orders", 0, timestamp_ms=-1, value=b"x")])
    with pytest.raises(Exception, match=r"record orders-0 at offset 1 has no timestamp in Kafka.* Give by="):
        stream.run_at(100)
    stream.run_at(100, event_time=EventTime(lambda record: 5, out_of_order_s=0))
    assert newest_times(stream).partitions[P0].max_ms == 5


def test_event_time_needs_a_stream_and_rows_to_take_it_from() -> None:
    event_time = EventTime(out_of_order_s=1)
    with pytest.raises(
        ConfigurationError, match=r"event_time= of ReadFromKafka makes the watermark of an ExactlyOnceStream"
    ):
        _ = beam.Pipeline() | ReadFromKafka("memory:9092", ["orders"], stop="latest", event_time=event_time)
    with pytest.raises(ConfigurationError, match="event_time=30 must be an EventTime, such as"):
        ReadFromKafka("memory:9092", ["orders"], event_time=30)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigurationError, match="without decoder= of ReadFromKafka there are only records, with topic, "
    ):
        ReadFromKafka("memory:9092", ["orders"], event_time=EventTime("at", out_of_order_s=1))
