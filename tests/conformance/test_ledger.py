"""The stories of sinks on the smallest sink with receipts, and on broken ones, which they must find out."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once.sinks.contract import Part
from beam_exactly_once.testing import STORIES, SinkUnderTest, Story, conformance
from support.ledger_sink import LEDGERS, LedgerPublisher, Row, WriteToLedger


class LedgerSink(SinkUnderTest):
    """A ledger each name."""

    late_batches = 20  # each takes a tenth of a second

    def __init__(self, publisher: type[LedgerPublisher] = LedgerPublisher) -> None:
        self._id = secrets.token_hex(8)
        self._publisher = publisher

    def write(self, name: str, shards: int) -> beam.PTransform[Any, Any]:
        return WriteToLedger(self._id + name, shards, name, self._publisher)

    def read(self, name: str) -> list[Row]:
        return LEDGERS[self._id + name].all_rows()


@pytest.mark.parametrize("story", STORIES, ids=str)
def test_a_sink_with_receipts(story: Story) -> None:
    story.check(LedgerSink())


class WithoutReceipts(LedgerPublisher):
    """Writes whatever it is told to, as often as it is told."""

    def publish(self, part: Part) -> None:
        ledger = LEDGERS[self._ledger]
        with ledger.lock:
            rows = [row for batch in self._staged.read(part) for row in batch.to_pylist()]
            ledger.rows[part.shard].append((part.attempt.batch_id, rows))


class SkipsWhatLooksOld(LedgerPublisher):
    """Takes every batch below its receipt for written, as sinks that remember a number do."""

    def publish(self, part: Part) -> None:
        found = LEDGERS[self._ledger].receipts.get((part.stream_id, self._sink, part.shard))
        if found is None or found.batch_id < part.attempt.batch_id:
            super().publish(part)


class KnowsNoStreams(LedgerPublisher):
    """Takes batches of another stream for its own."""

    def publish(self, part: Part) -> None:
        receipts = LEDGERS[self._ledger].receipts
        found = [receipt.batch_id for (_, _, shard), receipt in receipts.items() if shard == part.shard]
        if max(found, default=-1) < part.attempt.batch_id:
            super().publish(part)


class ForgetsTheSecondShard(LedgerPublisher):
    """Loses rows."""

    def publish(self, part: Part) -> None:
        if part.shard != 1:
            super().publish(part)


@pytest.mark.parametrize(
    ("broken", "story", "words"),
    [
        (WithoutReceipts, conformance.killed_around_every_call_to_the_publisher, "more than once"),
        (WithoutReceipts, conformance.a_late_publish_wakes_after_many_batches, "more than once"),
        (SkipsWhatLooksOld, conformance.a_checkpoint_of_five_batches_ago_is_refused, "older than its sink"),
        (KnowsNoStreams, conformance.a_wiped_checkpoint_skips_nothing, "skipped rows"),
        (ForgetsTheSecondShard, conformance.every_batch_is_there_once, "lost"),
    ],
)
def test_a_broken_sink_is_found_out(
    broken: type[LedgerPublisher], story: Callable[[SinkUnderTest], None], words: str
) -> None:
    with pytest.raises(AssertionError, match=words):
        story(LedgerSink(broken))
