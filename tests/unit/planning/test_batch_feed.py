"""A feed plans a batch when the one before is published and its beat has come; whatever it forgets is in the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_exactly_once import Record
from beam_exactly_once.checkpoint import Attempt, Piece, Plan, StreamWriter
from beam_exactly_once.checkpoint.writer import marker_of_attempt
from beam_exactly_once.errors import Fenced
from beam_exactly_once.kafka import KafkaSettings, selection_of
from beam_exactly_once.planning.batch_feed import BatchFeed, FeedClaim
from beam_exactly_once.planning.limits import BatchLimits
from beam_exactly_once.planning.source import LogSource
from beam_exactly_once.planning.start import FromEarliest
from beam_exactly_once.testing.memory_kafka import MemoryKafka
from support.checkpoints import NOW, fresh_checkpoint
from support.hand_made_stream import HandClock

GRAPH = {"sinks": {"files": {"kind": "files"}}}


class FedStream:
    """Topic orders, and a claimed stream that reads it."""

    def __init__(self, kafka: MemoryKafka) -> None:
        self.kafka = kafka
        self.clock = HandClock()
        self.checkpoint = fresh_checkpoint()
        self.writer = self.claim()

    def claim(self) -> StreamWriter:
        return StreamWriter.claim(self.checkpoint, owner="ann", claimed_at_ms=NOW)

    def feed(self, batch_id: int = 0, *, last: int | None = None, interval_s: float = 10.0) -> BatchFeed:
        source = LogSource(
            "kafka",
            KafkaSettings("localhost:9092"),
            selection_of(["orders"], None),
            FromEarliest(),
            BatchLimits(),
            "fail",
        )
        stream_id, epoch = self.checkpoint.stream_id, self.writer.writer_epoch
        claim = FeedClaim(stream_id, epoch, 0, last, interval_s, (source,), GRAPH)
        return BatchFeed.open(claim, self.checkpoint.store, batch_id, self.clock)

    def send(self, count: int) -> None:
        self.kafka.append(Record("orders", 0, value=b"x") for _ in range(count))

    def commit(self, plan: Plan, *, publish: bool = True) -> None:
        attempt = Attempt(self.writer.writer_epoch, plan.batch_id, "nonce")
        pieces = [Piece("kafka", one, one.size, one.size) for one in plan.ranges["kafka"]]
        self.checkpoint.create_marker(marker_of_attempt(plan, attempt, pieces, {}, NOW))
        if publish:
            self.checkpoint.create_published(plan.batch_id)


@pytest.fixture
def stream() -> Iterator[FedStream]:
    kafka = MemoryKafka({"orders": 1})
    with kafka.serving():
        yield FedStream(kafka)


def offsets(plan: Plan) -> list[tuple[int, int]]:
    return [(one.start, one.stop) for one in plan.ranges["kafka"]]


def test_a_batch_waits_for_the_publish_of_the_one_before_and_for_its_beat(stream: FedStream) -> None:
    stream.send(3)
    feed = stream.feed()
    first = feed.next()
    assert first is not None
    assert (first.plan.batch_id, offsets(first.plan), first.predecessor) == (0, [(0, 3)], None)
    assert first.plan.graph == GRAPH

    stream.send(2)
    stream.clock.seconds = 10.0
    assert feed.next() is None
    stream.commit(first.plan, publish=False)
    assert feed.next() is None
    stream.checkpoint.create_published(0)
    second = feed.next()
    assert second is not None
    assert (second.plan.batch_id, offsets(second.plan)) == (1, [(3, 5)])
    assert second.predecessor is not None
    assert second.predecessor.attempt.batch_id == 0

    stream.commit(second.plan)
    stream.send(1)
    assert feed.next() is None  # its beat comes at 20 s
    stream.clock.seconds = 20.0
    third = feed.next()
    assert third is not None
    assert offsets(third.plan) == [(5, 6)]


def test_nothing_to_read_is_asked_for_at_each_beat(stream: FedStream) -> None:
    feed = stream.feed()
    assert feed.next() is None
    stream.send(1)
    assert feed.next() is None
    stream.clock.seconds = 10.0
    planned = feed.next()
    assert planned is not None
    assert offsets(planned.plan) == [(0, 1)]


def test_a_plan_that_is_there_is_taken_as_it_is(stream: FedStream) -> None:
    """That of a claim before; or of this one, whose task was lost with its worker."""
    stream.send(3)
    lost = stream.feed().next()
    assert lost is not None
    stream.send(5)
    stream.writer = stream.claim()

    again = stream.feed().next()

    assert again is not None
    assert again.plan.digest == lost.plan.digest
    assert offsets(again.plan) == [(0, 3)]
    stream.commit(again.plan)
    stream.clock.seconds = 10.0
    elsewhere = stream.feed(batch_id=1).next()  # another worker goes on
    assert elsewhere is not None
    assert offsets(elsewhere.plan) == [(3, 8)]


def test_no_batch_is_planned_behind_the_last(stream: FedStream) -> None:
    stream.send(1)
    feed = stream.feed(last=0, interval_s=0)
    first = feed.next()
    assert first is not None
    stream.commit(first.plan)
    stream.send(1)
    assert feed.next() is None


def test_a_feed_that_was_replaced_plans_nothing(stream: FedStream) -> None:
    feed = stream.feed()
    stream.claim()
    stream.send(1)
    with pytest.raises(Fenced):
        feed.next()
    assert list(stream.checkpoint.plan_ids()) == []


def test_an_idle_feed_that_was_replaced_ends(stream: FedStream) -> None:
    feed = stream.feed()
    assert feed.next() is None
    stream.claim()
    stream.clock.seconds = 1.0
    with pytest.raises(Fenced):
        feed.next()


def test_a_driver_claims_again_only_behind_itself(stream: FedStream, tmp_path: Path) -> None:
    second = stream.writer.claim_again(owner="ann", claimed_at_ms=NOW)
    assert second.writer_epoch == stream.writer.writer_epoch + 1
    with pytest.raises(Fenced):
        stream.writer.claim_again(owner="ann", claimed_at_ms=NOW)
    assert stream.checkpoint.newest_writer_epoch() == second.writer_epoch
