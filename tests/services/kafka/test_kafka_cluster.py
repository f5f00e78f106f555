"""Streams on three brokers that die, come back and change leaders: the files hold what a plain reader of Kafka sees."""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from beam_exactly_once import BatchProgress, ProcessingTime
from beam_exactly_once.errors import EXIT_DONE, KafkaUnavailable, ReadStalled
from beam_exactly_once.kafka import Chunk, KafkaSettings, open_kafka_log
from beam_exactly_once.kafka.transactions import Transaction
from beam_exactly_once.planning import topic_view
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.launch.kafka_broker import Kafka
from services.streams import copies
from services.streams.copies import Copy, at, delivered
from services.streams.file_stream import FileStream, on_first_records
from services.streams.topics import Topic, wait_until

pytestmark = pytest.mark.runs_on("DirectRunner")

SMALL_FETCHES = {"fetch.message.max.bytes": 16384, "queued.max.messages.kbytes": 64}
"""So that a reader is still asking for records when the first of them have come by."""


@pytest.fixture
def cluster(kafka_cluster: Kafka) -> Iterator[Kafka]:
    """All three brokers are there, before and after."""
    yield kafka_cluster
    kafka_cluster.start_all()


@pytest.fixture
def new_stream(cluster: Kafka, tmp_path: Path) -> Callable[[int], FileStream]:
    def create(partitions: int = 3) -> FileStream:
        topic = Topic(cluster.bootstrap_servers, f"orders-{secrets.token_hex(4)}", partitions)
        cluster.wait_in_sync(topic.name)
        return FileStream(topic, tmp_path)

    return create


@pytest.fixture
def stream(new_stream: Callable[..., FileStream]) -> FileStream:
    return new_stream()


def fill(topic: Topic, prefix: str, count: int, partitions: int = 3, value_bytes: int = 0) -> None:
    """``count`` committed values in each partition, and as many that are aborted."""
    for partition in range(partitions):
        values = [f"{prefix}-{partition}-{number}".encode().ljust(value_bytes, b".") for number in range(count)]
        topic.send_committed(values, partition)
        topic.send_aborted(values, partition)


def assert_exactly_once(stream: FileStream) -> None:
    visible = stream.topic.visible()
    assert visible == stream.topic.committed, "the test knows what Kafka holds"
    assert stream.values() == visible


def planned(act: Callable[[], None], batch: int = 1) -> StoreCalls:
    """Acts when a batch is planned and not yet read."""
    return StoreCalls(KillPoint("put_if_absent", "offsets/", batch), act)


# -- one broker goes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comes_back", [False, True])
def test_the_leader_dies_between_plan_and_read(cluster: Kafka, stream: FileStream, comes_back: bool) -> None:
    place = stream.topic[0]
    old = cluster.leader(place)

    def act() -> None:
        cluster.kill(old)
        if comes_back:
            wait_until(lambda: cluster.leader(place) not in (old, -1))
            cluster.start(old)

    fill(stream.topic, "first", 50)
    with watching(planned(act)):
        stream.run()

    assert_exactly_once(stream)
    assert cluster.leader(place) != old
    fill(stream.topic, "second", 50)
    stream.run()
    assert_exactly_once(stream)
    assert [batch.batch_id for batch in stream.progress] == [0, 1]


@pytest.mark.parametrize("comes_back", [False, True])
def test_the_leader_dies_while_it_is_read(
    cluster: Kafka, new_stream: Callable[..., FileStream], comes_back: bool
) -> None:
    stream = new_stream(1)
    place = stream.topic[0]
    old = cluster.leader(place)

    def act() -> None:
        cluster.kill(old)
        if comes_back:
            cluster.start(old)

    fill(stream.topic, "value", 2000, 1, value_bytes=1000)
    with on_first_records(act):
        stream.run(client_config=SMALL_FETCHES)

    assert_exactly_once(stream)
    assert len(stream.progress) == 1


@pytest.mark.parametrize(("step", "before"), [("produce", False), ("commit", True)])
def test_the_leader_of_the_output_dies_while_it_is_written(
    cluster: Kafka, tmp_path: Path, step: str, before: bool
) -> None:
    """Between its records, and before the commit; another broker leads, and has all of them."""
    output = Topic(cluster.bootstrap_servers, f"copies-{secrets.token_hex(4)}", 1)
    cluster.wait_in_sync(output.name)
    copy = Copy(cluster.bootstrap_servers, output.name, str(tmp_path / "checkpoint"), {"shards": 1})
    old = cluster.leader(output[0])

    def act(transaction: Transaction) -> None:
        if step == "commit":
            delivered(transaction)
        cluster.kill(old)
        wait_until(lambda: cluster.leader(output[0]) not in (old, -1))

    with at(step, 2, act, before=before):
        copy.run(12)

    assert cluster.leader(output[0]) != old
    copies.assert_exactly_once(copy, 12)
    cluster.start(old)
    copy.run(16)
    copies.assert_exactly_once(copy, 16)


# -- all brokers go -----------------------------------------------------------------------------------------------


def test_a_reader_waits_for_brokers_that_are_briefly_away(cluster: Kafka, stream: FileStream) -> None:
    returning = threading.Thread(target=cluster.start_all)

    def act() -> None:
        for broker_id in cluster.broker_ids:
            cluster.kill(broker_id)
        returning.start()

    fill(stream.topic, "value", 200)
    with watching(planned(act)):
        stream.run(timeout_s=180.0)  # a busy machine starts three brokers slowly
    returning.join()

    assert_exactly_once(stream)
    assert len(stream.progress) == 1


def test_a_driver_that_finds_no_broker_goes_on_at_its_next_start(cluster: Kafka, stream: FileStream) -> None:
    def act(batch: BatchProgress) -> None:
        for broker_id in cluster.broker_ids:
            cluster.kill(broker_id)

    fill(stream.topic, "value", 100)
    stream.listeners.append(act)
    with pytest.raises(KafkaUnavailable, match="did not answer within 10 s"):
        stream.run(ProcessingTime(0), timeout_s=10.0, max_batch_offsets=90)
    assert 0 < stream.values().total() < stream.topic.committed.total()

    cluster.start_all()
    stream.listeners = []
    stream.run()
    assert_exactly_once(stream)


def test_a_read_that_finds_no_broker_gives_up_and_can_be_tried_again(cluster: Kafka, stream: FileStream) -> None:
    fill(stream.topic, "value", 10)
    settings = KafkaSettings(cluster.bootstrap_servers, no_progress_timeout_s=3.0)
    with closing(open_kafka_log(settings)) as log:
        (bounds,) = log.bounds([stream.topic[0]]).values()
        for broker_id in cluster.broker_ids:
            cluster.kill(broker_id)
        with pytest.raises(ReadStalled, match=rf"{stream.topic[0]} delivered neither.*Connection refused"):
            log.next_chunk(stream.topic[0], 0, bounds.latest)
        cluster.start_all()
        chunks: list[Chunk] = []

        def is_read() -> bool:
            """Brokers that are busy with their start may deliver nothing for a while."""
            with contextlib.suppress(ReadStalled):
                chunks.append(log.next_chunk(stream.topic[0], 0, bounds.latest))
            return bool(chunks)

        wait_until(is_read)

    assert [record.value for record in chunks[0].records()] == [f"value-0-{number}".encode() for number in range(10)]


@pytest.mark.runs_on("DirectRunner", trigger="ProcessingTime")
def test_a_rolling_restart_under_a_running_stream(cluster: Kafka, stream: FileStream, tmp_path: Path) -> None:
    topic = stream.topic
    fill(topic, "before", 20)
    with running(stream, tmp_path / "log.txt") as is_running:
        for broker_id in cluster.broker_ids:
            cluster.end(broker_id)
            fill(topic, f"without-{broker_id}", 20)
            wait_until(lambda: is_running() and stream.values() == topic.committed)
            cluster.start(broker_id)
            cluster.wait_in_sync(topic.name)
            fill(topic, f"with-{broker_id}", 20)
        wait_until(lambda: is_running() and stream.values() == topic.committed)

    assert_exactly_once(stream)


@contextmanager
def running(stream: FileStream, log: Path) -> Iterator[Callable[[], bool]]:
    """The stream in a process of its own, until SIGTERM at the end; says whether it still runs."""
    command = [
        *(sys.executable, "-m", "beam_exactly_once.pipelines.kafka_to_files"),
        f"--bootstrap-servers={stream.topic.bootstrap_servers}",
        f"--topics={stream.topic.name}",
        f"--output-location={stream.output}",
        f"--checkpoint-location={stream.checkpoint}",
        "--trigger=processing_time=0.2",
    ]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield lambda: process.poll() is None
            process.send_signal(signal.SIGTERM)
            code = process.wait(180)
        finally:
            process.kill()
    assert code == EXIT_DONE, log.read_text()


# -- many partitions, and more of them ----------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch_offsets", [None, 300])
def test_two_hundred_partitions(new_stream: Callable[..., FileStream], max_batch_offsets: int | None) -> None:
    stream = new_stream(200)
    stream.topic.spread(
        {
            partition: [f"{partition}-{number}".encode() for number in range(1 + partition % 7)]
            for partition in range(200)
        }
    )

    stream.run(max_batch_offsets=max_batch_offsets)

    assert_exactly_once(stream)
    offsets = stream.topic.committed.total()
    assert len(stream.progress) == (1 if max_batch_offsets is None else -(-offsets // max_batch_offsets))


def test_partitions_that_are_added_while_the_stream_runs(stream: FileStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_view, "DISCOVERY_INTERVAL_S", 0.0)
    topic = stream.topic
    fill(topic, "first", 10)

    def act(batch: BatchProgress) -> None:
        if batch.batch_id < 3:
            partitions = 4 + 2 * batch.batch_id
            topic.grow(partitions)
            fill(topic, f"of {partitions}", 10, partitions)

    stream.listeners.append(act)
    stream.run(ProcessingTime(0), max_batches=4)

    assert [batch.batch_id for batch in stream.progress] == [0, 1, 2, 3]
    assert_exactly_once(stream)
    assert Counter(value.split(b"-")[1] for value in stream.values())[b"7"] == 10
