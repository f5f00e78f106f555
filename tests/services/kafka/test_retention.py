"""Records that a real broker deletes before, while and after a batch is planned, and partitions that it gets meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from beam_exactly_once import BatchProgress, ProcessingTime
from beam_exactly_once.errors import DataLoss
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.streams.file_stream import FileStream, on_first_records
from services.streams.topics import Topic

pytestmark = pytest.mark.runs_on("DirectRunner")

NewTopic = Callable[..., Topic]
SMALL_QUEUE = {"queued.max.messages.kbytes": 64, "fetch.message.max.bytes": 65536}


@pytest.fixture
def stream(new_topic: NewTopic, tmp_path: Path) -> FileStream:
    return FileStream(new_topic(), tmp_path)


def large(count: int) -> list[bytes]:
    random = Random(3)
    return [b"%d-" % number + random.randbytes(1000) for number in range(count)]


class Stop(Exception):
    """The driver dies."""


def stop() -> None:
    raise Stop


def test_deleted_while_it_is_read(stream: FileStream) -> None:
    """What was fetched before and what is left come once; the marker names the rest, and nothing is in neither."""
    values = large(5000)
    stream.topic.send(values)
    with on_first_records(lambda: stream.topic.delete_below(4500)):
        stream.run(on_data_loss="skip", client_config=SMALL_QUEUE)

    (lost,) = stream.lost()[0][stream.topic.name]["0"]
    assert 0 < lost[0] < lost[1] == 4500
    assert stream.values() == Counter(values[: lost[0]] + values[4500:])
    assert [(batch.records_read, sum(batch.offsets_lost.values())) for batch in stream.progress] == [
        (5000 - (4500 - lost[0]), 4500 - lost[0])
    ]


def test_deleted_while_it_is_read_by_a_strict_stream(stream: FileStream) -> None:
    stream.topic.send(large(5000))
    with on_first_records(lambda: stream.topic.delete_below(4500)), pytest.raises(DataLoss, match="no longer holds"):
        stream.run(client_config=SMALL_QUEUE)
    assert stream.marker(0) is None
    assert stream.values() == Counter()


def test_deleted_between_plan_and_replay(stream: FileStream) -> None:
    values = [b"%d" % number for number in range(20)]
    stream.topic.send(values)
    with watching(StoreCalls(KillPoint("put_if_absent", "offsets/", 1), stop)), pytest.raises(Stop):
        stream.run()
    stream.topic.delete_below(12)
    with pytest.raises(DataLoss, match="no longer holds offset 0"):
        stream.run()
    stream.run(on_data_loss="skip")
    assert stream.values() == Counter(values[12:])
    assert stream.lost() == {0: {stream.topic.name: {"0": [[0, 12]]}}}


def test_all_of_a_plan_deleted_before_its_replay(stream: FileStream) -> None:
    stream.topic.send([b"%d" % number for number in range(20)])
    with watching(StoreCalls(KillPoint("put_if_absent", "offsets/", 1), stop)), pytest.raises(Stop):
        stream.run(max_batch_offsets=10)
    stream.topic.delete_below(15)
    stream.run(on_data_loss="skip")
    assert stream.values() == Counter(b"%d" % number for number in range(15, 20))
    assert stream.lost() == {0: {stream.topic.name: {"0": [[0, 10]]}}, 1: {stream.topic.name: {"0": [[10, 15]]}}}


def test_retention_deletes_what_a_stopped_stream_has_not_read(new_topic: NewTopic, tmp_path: Path) -> None:
    stream = FileStream(new_topic(segment_bytes=1 << 20, retention_bytes=1 << 20), tmp_path)
    stream.topic.send([b"first"])
    stream.run()
    values = large(4000)
    stream.topic.send(values)
    earliest = stream.topic.wait_retention(1000)

    with pytest.raises(DataLoss, match=r"lost \d+ offsets, \[1, \d+\)"):
        stream.run()
    stream.run(on_data_loss="skip")

    (lost,) = stream.lost()[1][stream.topic.name]["0"]
    assert lost[0] == 1
    assert lost[1] >= earliest, "the broker may delete more while it is asked"
    assert stream.values() == Counter([b"first", *values[lost[1] - 1 :]])


@pytest.mark.runs_on("DirectRunner", trigger="ProcessingTime")
def test_partitions_that_are_added_while_the_stream_runs(stream: FileStream) -> None:
    topic = stream.topic
    topic.send([b"0-%d" % number for number in range(5)])

    def after(batch: BatchProgress) -> None:
        if batch.batch_id == 0:
            topic.grow(3)
            topic.send([b"2-%d" % number for number in range(5)], partition=2)
        if batch.batch_id == 1:
            topic.send([b"1-%d" % number for number in range(5)], partition=1)
            topic.send([b"0-more"])

    stream.listeners.append(after)
    stream.run(ProcessingTime(0), max_batches=3)
    assert stream.values() == topic.committed
    assert sum(batch.records_read for batch in stream.progress) == 16
