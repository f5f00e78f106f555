"""Ranges that FnApiRunner splits while they are read, over its own wire: the pieces tile, and no record comes twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, fn_runner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import environments

from beam_exactly_once import Record
from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.offsets import OffsetRange, tiling_faults
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.reading import read_ranges
from beam_exactly_once.transforms.reading.range_group import PlannedRange, RangeGroup
from beam_exactly_once.transforms.reading.read_ranges import ReadOffsetRanges
from support.held_reader import MAX_HOLD_S, Splits, hold, splits_wanted

SPLITS = 3
WHOLE = OffsetRange("orders", 0, 0, 600)


def kafka_with_gaps(random_: random.Random) -> MemoryKafka:
    """600 offsets with gaps at the start, at the end and between."""
    cluster = MemoryKafka({"orders": 1})
    cluster.skip("orders", 0, random_.randint(1, 30))
    while (end := cluster.bounds_of(WHOLE.topic_partition).latest) < WHOLE.stop - 90:
        cluster.append(Record("orders", value=b"%d" % number) for number in range(end, end + random_.randint(1, 60)))
        cluster.skip("orders", 0, random_.randint(0, 30))
    cluster.skip("orders", 0, WHOLE.stop - end)
    return cluster


@pytest.mark.parametrize("seed", range(8))
def test_a_runner_splits_ranges_while_they_are_read(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random_ = random.Random(seed)
    monkeypatch.setattr(read_ranges, "MAX_CHUNK_RECORDS", 20)
    cluster = kafka_with_gaps(random_)
    present = cluster.records_of(WHOLE.topic_partition, 0, WHOLE.stop, WHOLE.size)

    def tiles(pieces: list[Any]) -> None:
        read = [piece[1].read for piece in pieces]
        assert tiling_faults(read, [WHOLE]) == []
        assert len(read) > SPLITS

    with (
        cluster.serving(),
        splits_wanted(SPLITS) as splits,
        fn_runner.split_manager("Read/Read/ParDo(ReadRange)", splitting(splits, random_)),
    ):
        runner = FnApiRunner(default_environment=environments.EmbeddedPythonGrpcEnvironment.default())
        with beam.Pipeline(runner) as pipeline:
            planned = PlannedRange(WHOLE, cluster.ids()["orders"])
            read = (
                pipeline
                | beam.Create([RangeGroup((planned,))])
                | "Read" >> ReadOffsetRanges(KafkaSettings("memory:9092"))
            )
            assert_that(read.records | beam.Map(hold), equal_to(present))
            assert_that(read.pieces, tiles, label="pieces")
        assert len(splits.granted) >= SPLITS


def splitting(splits: Splits, random_: random.Random) -> Any:
    """Asks for a split whenever a reader is held."""

    def manager(elements: int) -> Iterator[float | None]:
        yield None
        splits.reading.wait(MAX_HOLD_S)
        while len(splits.granted) < splits.wanted:
            yield random_.choice([0.3, 0.5, 0.9])

    return manager
