"""A log whose offsets mostly have no record, under a limit in bytes: when its next records are read to be counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker, Plan, SourceCommit, SourcePlan
from beam_exactly_once.checkpoint.records import Outcome
from beam_exactly_once.kafka import Chunk, KafkaSettings, Record, open_kafka_log, override_logs, selection_of
from beam_exactly_once.logs import Log
from beam_exactly_once.offsets import OffsetRange, TopicPartition
from beam_exactly_once.planning import BatchLimits
from beam_exactly_once.planning.source import LogSource
from beam_exactly_once.planning.source_planner import SourcePlanner
from beam_exactly_once.planning.start import FromEarliest
from beam_exactly_once.testing import MemoryKafka
from support.checkpoints import NOW, P0, fresh_checkpoint, orders
from support.faulty_store import ManualClock

VALUE_BYTES = 100
SETTINGS = KafkaSettings("in-memory:9092")
TEN_RECORDS = BatchLimits(max_batch_bytes=10 * VALUE_BYTES)


class CountingLog:
    """Notes which offsets are read."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.read: list[OffsetRange] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    def next_chunk(self, place: TopicPartition, position: int, stop: int, max_records: int = 1000) -> Chunk:
        chunk = self._log.next_chunk(place, position, stop, max_records)
        self.read.append(OffsetRange(place.topic, place.partition, position, chunk.stop))
        return chunk


class SparseLog:
    """A compacted log: of its offsets, which are appended a hundred at once, each tenth has a record."""

    def __init__(self, limits: BatchLimits) -> None:
        self.clock = ManualClock()
        self._kafka = MemoryKafka({"orders": 1})
        self._limits = limits
        with self._kafka.serving():
            self._log = CountingLog(open_kafka_log(SETTINGS))
        self.planner = self.started()

    def started(self) -> SourcePlanner:
        source = LogSource("kafka", SETTINGS, selection_of(["orders"], None), FromEarliest(), self._limits, "fail")
        with override_logs(lambda settings: self._log):  # type: ignore[arg-type, return-value]
            return SourcePlanner(source, self.clock, may_wait=False)

    def append(self, hundreds: int) -> None:
        for _ in range(10 * hundreds):
            self._kafka.append([Record("orders", value=bytes(VALUE_BYTES))])
            self._kafka.skip("orders", 0, 9)

    def planned(self) -> tuple[tuple[OffsetRange, ...], list[OffsetRange]]:
        """What the next batch reads, and what was read for its plan."""
        self._log.read.clear()
        self.planner.refresh()
        plan = self.planner.plan(NOW)
        self.planner.advance(plan)
        return plan.ranges, list(self._log.read)

    def start_behind_sparse_batch(self, checkpoint: Checkpoint, outcome: Outcome) -> None:
        """Start a driver anew, behind a batch that read ten records of a hundred offsets."""
        checkpoint.create_plan(Plan(0, 1, NOW, {"kafka": SourcePlan((orders(0, 0, 100),), (), {P0: 100})}))
        stands = {"kafka": SourceCommit({P0: 100}, (), 10, 10 * VALUE_BYTES)}
        newest = Marker(0, outcome, Attempt(1, 0, "a"), stands, {}, NOW)
        self.planner = self.started()
        self.planner.take_position(checkpoint, newest)


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[SparseLog]:
    log = SparseLog(getattr(request, "param", TEN_RECORDS))
    log.planner.measured(10, 10 * VALUE_BYTES, 100)
    yield log
    log.planner.close()


def test_what_a_limit_in_bytes_lets_through_is_counted(log: SparseLog) -> None:
    log.append(hundreds=3)
    ranges, counted = log.planned()
    assert counted == [orders(0, 0, 91)]
    assert ranges == (orders(0, 0, 91),)


def test_nothing_is_counted_where_the_limit_holds_nothing_back(log: SparseLog) -> None:
    log.planner.measured(10, 10, 100)
    log.append(hundreds=3)
    assert log.planned() == ((orders(0, 0, 300),), [])


def test_what_lies_behind_the_target_is_not_counted(log: SparseLog) -> None:
    log.append(hundreds=1)
    log.planner.take_target()
    log.append(hundreds=3)
    assert log.planned() == ((orders(0, 0, 91),), [orders(0, 0, 91)])
    assert log.planned() == ((orders(0, 91, 100),), [])
    assert log.planned() == ((), [])


@pytest.mark.parametrize("log", [BatchLimits(None, 10 * VALUE_BYTES, 500, 60.0)], indirect=True)
def test_nothing_is_counted_while_a_batch_waits_for_more(log: SparseLog) -> None:
    log.append(hundreds=3)
    assert [log.planned() for _ in range(3)] == [((), [])] * 3
    log.clock.now_s = 60.0
    assert log.planned() == ((orders(0, 0, 91),), [orders(0, 0, 91)])


def test_a_start_learns_from_the_newest_batch_that_offsets_have_no_record(log: SparseLog) -> None:
    log.append(hundreds=4)
    log.start_behind_sparse_batch(fresh_checkpoint(), "committed")
    assert log.planned() == ((orders(0, 100, 191),), [orders(0, 100, 191)])


def test_a_batch_that_was_passed_over_says_nothing_of_records(log: SparseLog) -> None:
    log.append(hundreds=4)
    log.start_behind_sparse_batch(fresh_checkpoint(), "skipped")
    ranges, counted = log.planned()
    assert (ranges, counted) == ((orders(0, 100, 110),), [])
