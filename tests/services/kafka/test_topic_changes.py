"""Topics of a real broker that are deleted, recreated, matched by a pattern, or read at another isolation level, at
every moment of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from beam_exactly_once import AvailableNow, BatchProgress, EventTime, ProcessingTime, Trigger
from beam_exactly_once.clock import SYSTEM_CLOCK, now_ms
from beam_exactly_once.errors import DataLoss, IncompleteBatch, UnknownTopic
from beam_exactly_once.kafka import KafkaSettings, open_kafka_log
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.streams.file_stream import FileStream, on_first_records
from services.streams.topics import Topic

pytestmark = pytest.mark.runs_on("DirectRunner")

NewTopic = Callable[..., Topic]

MADE_ANEW = "was deleted and recreated: its id is"


@pytest.fixture
def stream(new_topic: NewTopic, tmp_path: Path) -> FileStream:
    return FileStream(new_topic(), tmp_path)


def numbered(prefix: str, count: int) -> list[bytes]:
    return [f"{prefix}-{number}".encode() for number in range(count)]


def topic_id(topic: Topic) -> str:
    log = open_kafka_log(KafkaSettings(topic.bootstrap_servers))
    try:
        return str(log.describe([topic.name])[topic.name].topic_id)
    finally:
        log.close()


def make_anew(topic: Topic, values: list[bytes]) -> None:
    topic.make_anew()
    topic.send(values)


def after_plan(number: int, act: Callable[[], None]) -> StoreCalls:
    return StoreCalls(KillPoint("put_if_absent", "offsets/", number), act)


class Stop(Exception):
    """The driver dies."""


def stop() -> None:
    raise Stop


# -- recreated: the new log is as long as the old one, or longer, so that no bound tells ----------------------------


@pytest.mark.parametrize("count", [10, 25])
def test_recreated_while_the_stream_is_stopped(stream: FileStream, count: int) -> None:
    old, new = numbered("old", 10), numbered("new", count)
    stream.topic.send(old)
    stream.run()
    old_id = topic_id(stream.topic)
    make_anew(stream.topic, new)
    new_id = topic_id(stream.topic)

    with pytest.raises(DataLoss, match=rf"{stream.topic.name} {MADE_ANEW} {new_id}.*{old_id}, partition 0 up to 10\."):
        stream.run()
    assert stream.values() == Counter(old)

    stream.run(on_data_loss="skip")
    assert stream.values() == Counter(old + new)
    source = stream.plan(1).sources["kafka"]
    assert dict(source.topic_ids) == {stream.topic.name: new_id}
    assert {name: (one.topic_id, one.next_offsets) for name, one in source.replaced.items()} == {
        stream.topic.name: (old_id, {0: 10})
    }

    stream.topic.send([b"more"])
    stream.run()
    assert stream.values() == Counter([*old, *new, b"more"])


def test_recreated_with_fewer_partitions(new_topic: NewTopic, tmp_path: Path) -> None:
    stream = FileStream(new_topic(3), tmp_path)
    for partition in range(3):
        stream.topic.send(numbered(f"old{partition}", 4), partition=partition)
    stream.run()
    old = stream.topic.committed.copy()
    stream.topic.make_anew(partitions=1)
    stream.topic.send(numbered("new", 9))
    with pytest.raises(DataLoss, match="partition 0 up to 4, partition 1 up to 4, partition 2 up to 4"):
        stream.run()
    stream.run(on_data_loss="skip")
    assert stream.values() == old + Counter(numbered("new", 9))


@pytest.mark.parametrize(
    ("trigger", "max_batches"),
    [
        pytest.param(AvailableNow(), None, id="available_now"),
        pytest.param(
            ProcessingTime(0),
            4,
            id="processing_time",
            marks=pytest.mark.runs_on("DirectRunner", trigger="ProcessingTime"),
        ),
    ],
)
def test_recreated_between_two_batches(stream: FileStream, trigger: Trigger, max_batches: int | None) -> None:
    old, new = numbered("old", 10), numbered("new", 12)
    stream.topic.send(old)

    def after_first(batch: BatchProgress) -> None:
        if batch.batch_id == 0:
            make_anew(stream.topic, new)

    stream.listeners.append(after_first)
    with pytest.raises(DataLoss, match=MADE_ANEW):
        stream.run(trigger, max_batch_offsets=6)
    assert stream.values() == Counter(old[:6])
    stream.run(on_data_loss="skip", max_batch_offsets=6)
    assert stream.values() == Counter(old[:6] + new)


def test_what_a_running_stream_knew_of_the_old_topic_is_on_record(stream: FileStream) -> None:
    old, new = numbered("old", 10), numbered("new", 12)
    stream.topic.send(old)

    def after_first(batch: BatchProgress) -> None:
        if batch.batch_id == 0:
            make_anew(stream.topic, new)

    stream.listeners.append(after_first)
    stream.run(on_data_loss="skip", max_batch_offsets=6)
    assert stream.values() == Counter(old[:6] + new)
    assert stream.lost() == {1: {stream.topic.name: {"0": [[6, 10]]}}}
    assert [sum(batch.offsets_lost.values()) for batch in stream.progress] == [0, 4, 0]


def test_recreated_between_plan_and_read(stream: FileStream) -> None:
    old, new = numbered("old", 10), numbered("new", 25)
    stream.topic.send(old)
    with watching(after_plan(1, lambda: make_anew(stream.topic, new))), pytest.raises(DataLoss, match=MADE_ANEW):
        stream.run()
    assert stream.values() == Counter()
    assert stream.marker(0) is None

    stream.run(on_data_loss="skip")
    assert stream.values() == Counter(new)
    assert stream.lost() == {0: {stream.topic.name: {"0": [[0, 10]]}}}


def test_recreated_between_plan_and_replay(stream: FileStream) -> None:
    old, new = numbered("old", 10), numbered("new", 25)
    stream.topic.send(old)
    with watching(after_plan(1, stop)), pytest.raises(Stop):
        stream.run()
    make_anew(stream.topic, new)

    with pytest.raises(DataLoss, match=MADE_ANEW):
        stream.run()
    assert stream.values() == Counter()

    stream.run(on_data_loss="skip")
    assert stream.values() == Counter(new)
    assert [(batch.records_read, sum(batch.offsets_lost.values())) for batch in stream.progress] == [(0, 10), (25, 0)]


SMALL_QUEUE = {"queued.max.messages.kbytes": 64, "fetch.message.max.bytes": 65536}


@pytest.mark.parametrize("on_data_loss", ["fail", "skip"])
def test_recreated_while_it_is_read(stream: FileStream, on_data_loss: Any) -> None:
    """Neither all of the old topic nor a mixture of both is ever committed."""
    random = Random(7)
    old = [b"old-%d-" % number + random.randbytes(1000) for number in range(5000)]
    new = [b"new-%d-" % number + random.randbytes(1000) for number in range(6000)]
    stream.topic.send(old)

    with on_first_records(lambda: make_anew(stream.topic, new)):
        with pytest.raises((DataLoss, IncompleteBatch)) as caught:
            stream.run(on_data_loss=on_data_loss, client_config=SMALL_QUEUE)
        assert "recreated" in str(caught.value)
    assert stream.marker(0) is None
    assert stream.values() == Counter()

    stream.run(on_data_loss="skip")
    assert stream.values() == Counter(new)
    assert [(batch.records_read, sum(batch.offsets_lost.values())) for batch in stream.progress] == [
        (0, 5000),
        (6000, 0),
    ]


def test_recreated_after_all_of_it_was_fetched(stream: FileStream) -> None:
    """The last read is over when the topic changes, and its records are the old ones: to be sure, they are refused."""
    stream.topic.send(numbered("old", 10))
    with on_first_records(lambda: make_anew(stream.topic, numbered("new", 25))), pytest.raises(DataLoss):
        stream.run()
    assert stream.values() == Counter()


def test_deleted_while_the_stream_is_stopped(stream: FileStream) -> None:
    stream.topic.send(numbered("old", 10))
    stream.run()
    stream.topic.delete()
    with pytest.raises(UnknownTopic, match=f"no topic {stream.topic.name}"):
        stream.run(timeout_s=10)
    assert stream.values() == Counter(numbered("old", 10))


# -- isolation level -------------------------------------------------------------------------------------------------


def test_a_replay_keeps_the_isolation_level_of_its_plan(stream: FileStream) -> None:
    topic = stream.topic
    topic.send_committed(numbered("committed", 3))
    topic.send_aborted(numbered("aborted", 3))
    with watching(after_plan(1, stop)), pytest.raises(Stop):
        stream.run(isolation_level="read_uncommitted")
    seen_by_plan = Counter(numbered("committed", 3) + numbered("aborted", 3))
    topic.send_aborted(numbered("hidden", 3))
    topic.send(numbered("plain", 2))

    stream.run(isolation_level="read_committed")

    assert stream.values() == seen_by_plan + Counter(numbered("plain", 2))
    assert [stream.plan(one).sources["kafka"].isolation_level for one in (0, 1)] == [
        "read_uncommitted",
        "read_committed",
    ]


def test_a_committed_plan_stays_committed_in_a_replay(stream: FileStream) -> None:
    topic = stream.topic
    topic.send_aborted(numbered("aborted", 3))
    topic.send(numbered("plain", 2))
    topic.send_aborted(numbered("at-the-end", 2))
    with watching(after_plan(1, stop)), pytest.raises(Stop):
        stream.run()
    topic.send_aborted(numbered("dirty", 2))

    stream.run(isolation_level="read_uncommitted")

    assert stream.values() == Counter(numbered("plain", 2) + numbered("dirty", 2))


def test_a_stricter_isolation_level_waits_for_open_transactions(stream: FileStream) -> None:
    """What was read beyond the last stable offset is no loss."""
    topic = stream.topic
    topic.send(numbered("before", 3))
    opened = topic.begin(numbered("open", 2))
    stream.run(isolation_level="read_uncommitted")
    assert stream.values() == Counter(numbered("before", 3) + numbered("open", 2))

    stream.run()
    assert len(stream.progress) == 1

    topic.abort(opened)
    topic.send(numbered("after", 2))
    stream.run()
    assert stream.values() == Counter(numbered("before", 3) + numbered("open", 2) + numbered("after", 2))


def test_a_partition_with_an_open_transaction_is_not_idle(new_topic: NewTopic, tmp_path: Path) -> None:
    """It seems to be read to its end, and had no record for longer than ``idle_s``."""
    stream = FileStream(new_topic(2), tmp_path)
    topic, event_time = stream.topic, EventTime(out_of_order_s=0, idle_s=0.001)
    began_ms = now_ms(SYSTEM_CLOCK)
    topic.send([b"a"], partition=0, timestamp=began_ms - 10)
    topic.send([b"b"], partition=1, timestamp=began_ms - 20)
    stream.run(event_time=event_time)
    opened = topic.begin([b"c"], partition=1)
    topic.send([b"d"])
    stream.run(event_time=event_time)
    topic.commit(opened)
    stream.run(event_time=event_time)
    topic.send([b"e"])
    stream.run(event_time=event_time)
    held_by = [stream.plan(one).sources["kafka"].held_by for one in range(4)]
    assert held_by[1:] == [topic[1], topic[1], topic[0]]
    reached_ms = [stream.plan(one).sources["kafka"].watermark_ms for one in range(4)]
    assert reached_ms[:3] == [None, began_ms - 20, began_ms - 20]
    assert reached_ms[3] >= began_ms


# -- pattern ---------------------------------------------------------------------------------------------------------


def test_a_pattern_picks_up_topics_and_misses_those_that_go(new_topic: NewTopic, tmp_path: Path) -> None:
    first = new_topic(2)
    stream, pattern = FileStream(first, tmp_path), rf"{first.name}(-x)?"
    other, later = new_topic(name=f"{first.name}-other"), f"{first.name}-x"
    other.send([b"never"])
    first.send(numbered("first", 5), partition=1)
    stream.run(topic_pattern=pattern, start="latest")
    assert stream.values() == Counter()

    second = new_topic(name=later)
    second.send(numbered("second", 5))
    first.send(numbered("more", 2))
    stream.run(topic_pattern=pattern, start="latest")
    assert stream.values() == Counter(numbered("second", 5) + numbered("more", 2))

    second.delete()
    with pytest.raises(DataLoss, match=rf"no longer finds: topic {later}, read partition 0 up to 5\."):
        stream.run(topic_pattern=pattern)
    first.send(numbered("last", 2))
    stream.run(topic_pattern=pattern, on_data_loss="skip")
    assert stream.values() == Counter(numbered("second", 5) + numbered("more", 2) + numbered("last", 2))


def test_a_pattern_that_matches_nothing(stream: FileStream) -> None:
    with pytest.raises(UnknownTopic, match=r"topic_pattern='nothing' matches none of the \d+ topics"):
        stream.run(topic_pattern="nothing")
