"""Sinks that publish by shard with a receipt, in a stream."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once.checkpoint import Attempt, Checkpoint
from beam_exactly_once.errors import SinkAhead, SinkBehind
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.sinks.contract import Part
from beam_exactly_once.sinks.receipts import StagedReceipt
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.ending import ends_with, kill
from support.ledger_sink import LEDGERS, Ledger, WriteToLedger
from support.stream_under_test import StreamUnderTest, number_of

pytestmark = pytest.mark.runs_on("DirectRunner", storage="memory")


class Stream(StreamUnderTest):
    """Numbers of a topic to a ledger."""

    @property
    def ledger(self) -> Ledger:
        return LEDGERS[self.location]

    def run(self, *, shards: int = 2, through: Callable[[int], int] = int, second: str | None = None) -> None:
        def build(records: beam.PCollection[Any]) -> None:
            rows = records | beam.Map(lambda record: {"id": through(number_of(record))})
            _ = rows | WriteToLedger(self.location, shards)
            if second is not None:
                _ = rows | "Second" >> WriteToLedger(second, shards, name="second")

        self.run_with(build)

    def staged(self) -> list[str]:
        return [entry.key for entry in self.store().list("staging/")]


@pytest.fixture
def stream() -> Stream:
    return Stream()


def test_every_batch_leaves_a_receipt_in_every_shard_in_order(stream: Stream) -> None:
    stream.produce(0, 1, 2, 4, 6)
    stream.run()
    ids = {
        shard: [(batch, [row["id"] for row in rows]) for batch, rows in of] for shard, of in stream.ledger.rows.items()
    }
    assert ids == {0: [(0, [0]), (1, [2, 4]), (2, [6])], 1: [(0, [1]), (1, []), (2, [])]}
    assert {receipt.batch_id for receipt in stream.ledger.receipts.values()} == {2}
    stream.run()
    assert stream.ledger.ids() == [0, 1, 2, 4, 6]


def test_a_sink_is_prepared_until_the_checkpoint_knows_it(stream: Stream) -> None:
    """Also one that joins later."""
    stream.produce(0, 1)
    with (
        watching(StoreCalls(KillPoint("put_if_absent", "writers/", 1), kill)),
        ends_with("killed here"),
    ):
        stream.run()
    assert stream.ledger.prepared == 0
    stream.run()
    stream.run()
    assert stream.ledger.prepared == 1
    second = secrets.token_hex(8)
    stream.run(second=second)
    stream.run(second=second)
    assert (stream.ledger.prepared, LEDGERS[second].prepared) == (1, 1)


def test_killed_between_the_shards_of_a_batch(stream: Stream) -> None:
    stream.produce(0, 1, 2, 3)

    def kill_in_batch_1(part: Part) -> None:
        if (part.attempt.batch_id, part.shard) == (1, 1):
            kill()

    stream.ledger.before_write = kill_in_batch_1
    with ends_with("killed here"):
        stream.run()
    assert stream.ledger.ids() == [0, 1, 2]
    stream.ledger.before_write = lambda part: None
    stream.run()
    assert stream.ledger.ids() == [0, 1, 2, 3]


def test_killed_between_two_sinks_of_a_batch(stream: Stream) -> None:
    """None of a batch is final before all of it is staged; both sinks end right."""
    second = secrets.token_hex(8)
    stream.produce(0, 1, 2, 3)
    LEDGERS[second].before_write = kill
    with ends_with("killed here"):
        stream.run(second=second)
    LEDGERS[second].before_write = lambda part: None
    stream.run(second=second)
    assert stream.ledger.ids() == LEDGERS[second].ids() == [0, 1, 2, 3]


@pytest.mark.parametrize("now", [1, 2, 5])
def test_other_shards_and_other_code_between_attempt_and_replay(stream: Stream, now: int) -> None:
    """The first attempt staged and died before its marker; what it staged never shows."""
    stream.produce(0, 1, 2, 3, 4, 5)
    with (
        watching(StoreCalls(KillPoint("put_if_absent", "staging/rows/", 3), kill)),
        ends_with("killed here"),
    ):
        stream.run(shards=3, through=lambda number: number + 100)
    assert stream.ledger.ids() == [100, 101]
    stream.run(shards=now)
    stream.run(shards=4)
    assert stream.ledger.ids() == [2, 3, 4, 5, 100, 101]


def test_shards_come_and_go(stream: Stream) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    shards = random.Random(seed)
    for number in range(0, 20, 2):
        stream.produce(number, number + 1)
        stream.run(shards=shards.randint(1, 5))
    assert stream.ledger.ids() == list(range(20))


def test_what_is_published_is_swept_from_staging(stream: Stream) -> None:
    stream.produce(0, 1, 2, 3)
    stream.run()
    stream.run()
    assert stream.staged() == []


def newest(stream: Stream) -> tuple[Checkpoint, int]:
    checkpoint = stream.checkpoint()
    return checkpoint, max(checkpoint.marker_ids())


def test_a_checkpoint_of_five_batches_ago_does_not_write_again(stream: Stream) -> None:
    stream.produce(*range(16))
    stream.run()
    checkpoint, last = newest(stream)
    checkpoint.store.delete(
        [f"{kind}/{batch_id:020d}.json" for kind in ("offsets", "commits") for batch_id in range(last - 4, last + 1)]
    )
    with pytest.raises(SinkAhead, match=f"holds batch {last} "):
        stream.run()
    assert stream.ledger.ids() == list(range(16))


@pytest.mark.parametrize("lost", ["one receipt", "all receipts", "an older copy"])
def test_a_sink_that_lost_batches_is_noticed(stream: Stream, lost: str) -> None:
    stream.produce(*range(8))
    stream.run()
    receipts = stream.ledger.receipts
    for key in list(receipts)[: 1 if lost == "one receipt" else None]:
        if lost == "an older copy":
            receipts[key] = StagedReceipt(Attempt(1, 1, "older"))
        else:
            del receipts[key]
    with pytest.raises(SinkBehind):
        stream.run()


def test_a_wiped_checkpoint_skips_nothing(stream: Stream) -> None:
    """It is another stream, which has receipts of its own."""
    stream.produce(0, 1, 2)
    stream.run()
    store = open_object_store(stream.location)
    store.delete([entry.key for entry in store.list()])
    stream.run()
    assert stream.ledger.ids() == [0, 0, 1, 1, 2, 2]
