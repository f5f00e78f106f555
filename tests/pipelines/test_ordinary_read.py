"""``ReadFromKafka`` and ``ReadOffsetRanges`` in an ordinary ``beam.Pipeline``."""

from __future__ import annotations

import datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_exactly_once import ReadFromKafka, Record, TopicPartition
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import EmbeddedBroker, KafkaSettings, produce
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.planning import Start
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.planned_range import PlannedRange
from beam_exactly_once.transforms.read_ranges import ReadOffsetRanges


@pytest.fixture
def orders() -> MemoryKafka:
    """Two partitions, ten records each, a second apart."""
    cluster = MemoryKafka({"orders": 2})
    cluster.append(
        Record("orders", number % 2, timestamp_ms=number * 1000, value=b"%d" % number) for number in range(20)
    )
    return cluster


def read(cluster: MemoryKafka, expected: list[Any], **arguments: Any) -> None:
    with cluster.serving(), beam.Pipeline("FnApiRunner") as pipeline:
        values = (
            pipeline
            | ReadFromKafka("memory:9092", ["orders"], **arguments)
            | beam.Map(lambda record: int(record.value))
        )
        assert_that(values, equal_to(expected))


def test_everything_that_is_there(orders: MemoryKafka) -> None:
    read(orders, list(range(20)))


def test_between_offsets(orders: MemoryKafka) -> None:
    first, second = TopicPartition("orders", 0), TopicPartition("orders", 1)
    read(orders, [4, 6, 1, 3], start=Start.at_offsets({first: 2}), stop_offsets={first: 4, second: 2})


def test_between_timestamps(orders: MemoryKafka) -> None:
    stop = datetime.datetime(1970, 1, 1, 0, 0, 9, tzinfo=datetime.timezone.utc)
    read(orders, [5, 6, 7, 8], start=Start.at_timestamp(5000), stop_timestamp=stop)


def test_a_stop_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="time zone"):
        ReadFromKafka("memory:9092", ["orders"], stop_timestamp=datetime.datetime(2026, 1, 1))


def test_records_carry_their_kafka_timestamp(orders: MemoryKafka) -> None:
    with orders.serving(), beam.Pipeline("FnApiRunner") as pipeline:
        sums = (
            pipeline
            | ReadFromKafka("memory:9092", ["orders"])
            | beam.WindowInto(beam.window.FixedWindows(10))
            | beam.Map(lambda record: ("k", int(record.value)))
            | beam.CombinePerKey(sum)
            | beam.Values()
        )
        assert_that(sums, equal_to([sum(range(10)), sum(range(10, 20))]))


def test_a_stop_in_a_stream_is_refused(orders: MemoryKafka) -> None:
    from beam_exactly_once.testing import run_in_memory

    with pytest.raises(ConfigurationError, match="ordinary"):
        run_in_memory(lambda stream: stream | ReadFromKafka("m:1", ["orders"], stop_timestamp=1), {"orders": [[b"1"]]})


@pytest.mark.parametrize("output", ["records", "arrow"])
def test_ranges_from_a_broker(output: Any) -> None:
    """On the wire: the pieces tile the ranges, and the records are those in them."""

    def values(element: Any) -> list[bytes]:
        return element["value"].to_pylist() if isinstance(element, pa.RecordBatch) else [element.value]

    with EmbeddedBroker({"orders": 1}) as broker:
        for _ in produce(broker.bootstrap_servers, "orders", 1, (b"%d" % number for number in range(100))):
            pass
        with beam.Pipeline("FnApiRunner") as pipeline:
            planned = [OffsetRange("orders", 0, 10, 20), OffsetRange("orders", 0, 50, 95)]
            ranges = pipeline | beam.Create([PlannedRange(one) for one in planned])
            read = ranges | ReadOffsetRanges(KafkaSettings(broker.bootstrap_servers), output=output)
            expected = [b"%d" % number for number in (*range(10, 20), *range(50, 95))]
            assert_that(read.records | beam.FlatMap(values), equal_to(expected))
