"""The reader driven by hand, with a split injected around every call of its tracker, as a runner may do at any time."""

from __future__ import annotations

import random
from collections.abc import Callable

import apache_beam as beam
import pytest

from beam_exactly_once import Record
from beam_exactly_once.checkpoint import Piece
from beam_exactly_once.errors import DataLoss, IncompleteBatch
from beam_exactly_once.kafka import Chunk, KafkaSettings, open_kafka_log, override_logs
from beam_exactly_once.logs import Log
from beam_exactly_once.offsets import OffsetRange, tiling_faults
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.topics import OnDataLoss
from beam_exactly_once.transforms.reading import read_ranges
from beam_exactly_once.transforms.reading.range_group import PlannedRange, RangeGroup
from beam_exactly_once.transforms.reading.span_tracker import Span, SpanTracker

WHOLE = OffsetRange("orders", 0, 0, 500)
LINE = Span(0, 500)
SETTINGS = KafkaSettings("memory:9092")


def kafka_with_gaps(random_: random.Random) -> MemoryKafka:
    """500 offsets, about half of them records, with gaps at the start, the end and between."""
    cluster = MemoryKafka({"orders": 1})
    fill_with_gaps(cluster, 0, WHOLE.stop, random_)
    return cluster


def fill_with_gaps(cluster: MemoryKafka, partition: int, stop: int, random_: random.Random) -> None:
    end = 0
    while end < stop:
        size = min(random_.randint(1, 40), stop - end)
        if random_.random() < 0.5:
            cluster.skip("orders", partition, size)
        else:
            cluster.append(Record("orders", partition, value=b"%d" % number) for number in range(end, end + size))
        end += size


class SplittingTracker:
    """Hands calls on to a tracker, and splits before and after any of them when the dice say so."""

    def __init__(self, tracker: SpanTracker, random_: random.Random, residuals: list[Span]) -> None:
        self._tracker = tracker
        self._random = random_
        self._residuals = residuals

    def maybe_split(self) -> None:
        if self._random.random() < 0.15:
            split = self._tracker.try_split(self._random.choice([0, 0.1, 0.5, 0.9, 1.0]))
            if split is not None and not split[1].is_empty:
                self._residuals.append(split[1])

    def current_restriction(self) -> Span:
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
    cluster: MemoryKafka,
    whole: OffsetRange,
    random_: random.Random,
    on_data_loss: OnDataLoss = "fail",
    topic_id: str = "orders#1",
) -> tuple[list[Record], list[Piece]]:
    """Read ``whole`` and everything that splits gave away."""
    return read_group(cluster, [PlannedRange(whole, topic_id)], random_, on_data_loss)


def read_group(
    cluster: MemoryKafka, ranges: list[PlannedRange], random_: random.Random, on_data_loss: OnDataLoss = "fail"
) -> tuple[list[Record], list[Piece]]:
    records: list[Record] = []
    pieces: list[Piece] = []
    group = RangeGroup(tuple(ranges))
    waiting = [group.line]
    with cluster.serving():
        reader = read_ranges.ReadRange(SETTINGS, "orders", on_data_loss)
        reader.start_bundle()
        while waiting:
            part = waiting.pop()
            tracker = SpanTracker(part)
            splitting = SplittingTracker(tracker, random_, waiting)
            for element in reader.process(group, splitting):
                splitting.maybe_split()
                if isinstance(element, beam.pvalue.TaggedOutput):
                    pieces.append(element.value[1])
                else:
                    assert isinstance(element, Chunk)
                    records.extend(element.records())
            tracker.check_done()
        reader.finish_bundle()
        reader.teardown()
    return records, pieces


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ranges, "MAX_CHUNK_RECORDS", 17)


@pytest.mark.parametrize("seed", range(100))
def test_splits_at_any_moment_neither_lose_nor_repeat_a_record(seed: int) -> None:
    random_ = random.Random(seed)
    cluster = kafka_with_gaps(random_)
    records, pieces = read_all(cluster, WHOLE, random_)
    present = cluster.records_of(WHOLE.topic_partition, 0, WHOLE.stop, WHOLE.size)
    assert sorted(records) == sorted(present)
    assert tiling_faults([piece.read for piece in pieces], [WHOLE]) == []
    assert sum(piece.records_read for piece in pieces) == len(present)


@pytest.mark.parametrize("seed", range(150))
def test_splits_of_a_group_fall_anywhere_and_neither_lose_nor_repeat_a_record(seed: int) -> None:
    """Ranges of one offset, of a chunk and of several: a split falls between two of them, or inside one."""
    random_ = random.Random(seed)
    cluster = MemoryKafka({"orders": 9})
    ranges = []
    for partition in random_.sample(range(9), random_.randint(2, 9)):
        fill_with_gaps(cluster, partition, 60, random_)
        start = random_.randrange(60)
        stop = min(60, start + random_.choice([1, 1, 2, 17, 34, 60]))
        ranges.append(OffsetRange("orders", partition, start, stop))
    records, pieces = read_group(cluster, [PlannedRange(one, "orders#1") for one in ranges], random_)
    present = [record for one in ranges for record in cluster.records_of(one.topic_partition, one.start, one.stop, 60)]
    assert sorted(records) == sorted(present)
    assert tiling_faults([piece.read for piece in pieces], ranges) == []
    assert sum(piece.records_read for piece in pieces) == len(present)


@pytest.mark.parametrize("seed", range(50))
def test_lost_offsets_are_reported_once_when_loss_is_allowed(seed: int) -> None:
    random_ = random.Random(seed)
    cluster = kafka_with_gaps(random_)
    cluster.delete_records("orders", 0, 200)
    records, pieces = read_all(cluster, WHOLE, random_, on_data_loss="skip")
    assert sorted(records) == sorted(cluster.records_of(WHOLE.topic_partition, 200, WHOLE.stop, WHOLE.size))
    assert tiling_faults([piece.read for piece in pieces], [WHOLE]) == []
    lost = [one for piece in pieces for one in piece.lost]
    assert tiling_faults(lost, [OffsetRange("orders", 0, 0, 200)]) == []


def test_lost_offsets_are_an_error_by_default() -> None:
    cluster = MemoryKafka({"orders": 1})
    cluster.append(Record("orders", value=b"x") for _ in range(10))
    cluster.delete_records("orders", 0, 5)
    with pytest.raises(DataLoss, match="orders-0"):
        read_all(cluster, OffsetRange("orders", 0, 0, 10), random.Random(0))


def test_a_reader_that_drops_a_cut_chunk_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The piece comes from the reader's own position, so a reader that forgets the cut chunk cannot look complete."""
    cluster = MemoryKafka({"orders": 1})
    cluster.append(Record("orders", value=b"x") for _ in range(100))
    original = Chunk.cut
    monkeypatch.setattr(Chunk, "cut", lambda chunk, stop: original(chunk, chunk.start))
    failures = 0
    for seed in range(30):
        try:
            read_all(cluster, OffsetRange("orders", 0, 0, 100), random.Random(seed))
        except IncompleteBatch:
            failures += 1
    assert failures > 0


# -- topics that are recreated -----------------------------------------------------------------------------------------


def recreated(cluster: MemoryKafka, size: int) -> None:
    cluster.delete_topic("orders")
    cluster.add_partitions("orders", 1)
    cluster.append(Record("orders", value=b"new") for _ in range(size))


def old_topic() -> MemoryKafka:
    cluster = MemoryKafka({"orders": 1})
    cluster.append(Record("orders", value=b"old") for _ in range(WHOLE.size))
    return cluster


def bundle(cluster: MemoryKafka, on_data_loss: OnDataLoss, act: Callable[[], None]) -> tuple[list[bytes], list[Piece]]:
    """Read the whole range as one bundle, and act after its first chunk."""
    planned = RangeGroup((PlannedRange(WHOLE, "orders#1"),))
    values: list[bytes] = []
    pieces: list[Piece] = []
    with cluster.serving():
        reader = read_ranges.ReadRange(SETTINGS, "orders", on_data_loss)
        reader.start_bundle()
        for element in reader.process(planned, SpanTracker(LINE)):
            if isinstance(element, beam.pvalue.TaggedOutput):
                pieces.append(element.value[1])
            else:
                values += [record.value for record in element.records()]
            act()
            act = nothing
        reader.finish_bundle()
        reader.teardown()
    return values, pieces


def nothing() -> None:
    pass


@pytest.mark.parametrize(("on_data_loss", "error"), [("fail", DataLoss), ("skip", IncompleteBatch)])
def test_a_bundle_that_saw_its_topic_recreated_fails(on_data_loss: OnDataLoss, error: type[Exception]) -> None:
    """The new log holds every offset that is asked for: nothing but the id tells."""
    cluster = old_topic()
    with pytest.raises(error, match=r"deleted and recreated"):
        bundle(cluster, on_data_loss, lambda: recreated(cluster, 2 * WHOLE.size))


def test_a_topic_recreated_before_the_bundle_is_data_loss() -> None:
    cluster = old_topic()
    recreated(cluster, 2 * WHOLE.size)
    with pytest.raises(DataLoss, match=r"its id is orders#2.*the topic with id orders#1"):
        bundle(cluster, "fail", nothing)


def test_a_topic_recreated_before_the_bundle_is_passed_over_as_lost() -> None:
    cluster = old_topic()
    recreated(cluster, 2 * WHOLE.size)
    assert bundle(cluster, "skip", nothing) == ([], [Piece("orders", WHOLE, 0, 0, (WHOLE,))])


@pytest.mark.parametrize("seed", range(20))
def test_splits_of_a_range_that_is_passed_over_tile_it(seed: int) -> None:
    cluster = MemoryKafka({"orders": 1})
    records, pieces = read_all(cluster, WHOLE, random.Random(seed), on_data_loss="skip", topic_id="another")
    assert records == []
    assert tiling_faults([piece.read for piece in pieces], [WHOLE]) == []
    assert tiling_faults([one for piece in pieces for one in piece.lost], [WHOLE]) == []


def test_each_isolation_level_has_a_client_of_its_own() -> None:
    opened: list[str] = []

    def open_log(settings: KafkaSettings) -> Log:
        opened.append(settings.isolation_level)
        return cluster_log

    cluster = old_topic()
    with cluster.serving():
        cluster_log = open_kafka_log(SETTINGS)
    with override_logs(open_log):
        reader = read_ranges.ReadRange(SETTINGS, "orders", "fail")
        reader.start_bundle()
        for level in ("read_uncommitted", None, "read_committed", "read_uncommitted"):
            list(reader.process(RangeGroup((PlannedRange(WHOLE, None, level),)), SpanTracker(LINE)))
    assert opened == ["read_uncommitted", "read_committed"]
