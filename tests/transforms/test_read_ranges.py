"""The reader driven by hand, with a split injected around every call of its tracker, as a runner may do at any time."""

from __future__ import annotations

import random

import apache_beam as beam
import orjson
import pytest

from beam_exactly_once.checkpoint import Piece
from beam_exactly_once.errors import DataLoss
from beam_exactly_once.kafka import Chunk, KafkaRecord, KafkaSettings
from beam_exactly_once.offsets import OffsetRange, tiling_faults
from beam_exactly_once.testing.memory_kafka import MemoryKafka
from beam_exactly_once.transforms import read_ranges
from beam_exactly_once.transforms.offset_range_tracker import OffsetRangeTracker
from beam_exactly_once.transforms.planned_range import PlannedRange

WHOLE = OffsetRange("orders", 0, 0, 500)
SETTINGS = KafkaSettings("memory:9092")


def kafka_with_gaps(random_: random.Random) -> MemoryKafka:
    """500 offsets, about half of them records, with gaps at the start, the end and between."""
    cluster = MemoryKafka({"orders": 1})
    end = 0
    while end < WHOLE.stop:
        size = min(random_.randint(1, 40), WHOLE.stop - end)
        if random_.random() < 0.5:
            cluster.skip("orders", 0, size)
        else:
            cluster.append(KafkaRecord("orders", value=b"%d" % number) for number in range(end, end + size))
        end += size
    return cluster


class SplittingTracker:
    """Hands calls on to a tracker, and splits before and after any of them when the dice say so."""

    def __init__(self, tracker: OffsetRangeTracker, random_: random.Random, residuals: list[OffsetRange]) -> None:
        self._tracker = tracker
        self._random = random_
        self._residuals = residuals

    def maybe_split(self) -> None:
        if self._random.random() < 0.15:
            split = self._tracker.try_split(self._random.choice([0, 0.1, 0.5, 0.9, 1.0]))
            if split is not None and not split[1].is_empty:
                self._residuals.append(split[1])

    def current_restriction(self) -> OffsetRange:
        self.maybe_split()
        restriction = self._tracker.current_restriction()
        self.maybe_split()
        return restriction

    def try_claim(self, position: int) -> bool:
        self.maybe_split()
        claimed = self._tracker.try_claim(position)
        self.maybe_split()
        return claimed


def read_all(
    cluster: MemoryKafka, whole: OffsetRange, random_: random.Random, fail_on_data_loss: bool = True
) -> tuple[list[KafkaRecord], list[Piece]]:
    """Read ``whole`` and everything that splits gave away."""
    records: list[KafkaRecord] = []
    pieces: list[Piece] = []
    waiting = [whole]
    planned = PlannedRange(whole, cluster.ids()[whole.topic])
    with cluster.serving():
        reader = read_ranges._ReadRange(SETTINGS, "orders", fail_on_data_loss)
        reader.start_bundle()
        while waiting:
            part = waiting.pop()
            tracker = OffsetRangeTracker(part)
            splitting = SplittingTracker(tracker, random_, waiting)
            for element in reader.process(planned, splitting):
                splitting.maybe_split()
                if isinstance(element, beam.pvalue.TaggedOutput):
                    pieces.append(Piece.from_json(orjson.loads(element.value[1][2])))
                else:
                    assert isinstance(element, Chunk)
                    records.extend(element.records())
            tracker.check_done()
        reader.finish_bundle()
        reader.teardown()
    return records, pieces


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ranges, "CHUNK_RECORDS_MAX", 17)


@pytest.mark.parametrize("seed", range(300))
def test_splits_at_any_moment_neither_lose_nor_repeat_a_record(seed: int) -> None:
    random_ = random.Random(seed)
    cluster = kafka_with_gaps(random_)
    records, pieces = read_all(cluster, WHOLE, random_)
    present = cluster.records_of(WHOLE.topic_partition, 0, WHOLE.stop, WHOLE.size)
    assert sorted(records) == sorted(present)
    assert tiling_faults([piece.read for piece in pieces], [WHOLE]) == []
    assert sum(piece.records for piece in pieces) == len(present)


@pytest.mark.parametrize("seed", range(50))
def test_lost_offsets_are_reported_once_when_loss_is_allowed(seed: int) -> None:
    random_ = random.Random(seed)
    cluster = kafka_with_gaps(random_)
    cluster.delete_records("orders", 0, 200)
    records, pieces = read_all(cluster, WHOLE, random_, fail_on_data_loss=False)
    assert sorted(records) == sorted(cluster.records_of(WHOLE.topic_partition, 200, WHOLE.stop, WHOLE.size))
    assert tiling_faults([piece.read for piece in pieces], [WHOLE]) == []
    lost = [one for piece in pieces for one in piece.lost]
    assert tiling_faults(lost, [OffsetRange("orders", 0, 0, 200)]) == []


def test_lost_offsets_are_an_error_by_default() -> None:
    cluster = MemoryKafka({"orders": 1})
    cluster.append(KafkaRecord("orders", value=b"x") for _ in range(10))
    cluster.delete_records("orders", 0, 5)
    with pytest.raises(DataLoss, match="orders-0"):
        read_all(cluster, OffsetRange("orders", 0, 0, 10), random.Random(0))


def test_a_reader_that_drops_a_cut_chunk_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The piece comes from the reader's own position, so a reader that forgets the cut chunk cannot look complete."""
    cluster = MemoryKafka({"orders": 1})
    cluster.append(KafkaRecord("orders", value=b"x") for _ in range(100))
    original = Chunk.cut
    monkeypatch.setattr(Chunk, "cut", lambda chunk, stop: original(chunk, chunk.start))
    failures = 0
    for seed in range(30):
        try:
            read_all(cluster, OffsetRange("orders", 0, 0, 100), random.Random(seed))
        except AssertionError:
            failures += 1
    assert failures > 0
