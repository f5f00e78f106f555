"""``ReadFromKafka`` and ``ReadOffsetRanges`` in an ordinary ``beam.Pipeline``."""

from __future__ import annotations

import contextlib
import datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from beam_exactly_once import ReadFromKafka, Record
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import EmbeddedBroker, KafkaSettings, produce
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.reading import read_ranges
from beam_exactly_once.transforms.reading.range_group import PlannedRange, RangeGroup
from beam_exactly_once.transforms.reading.read_ranges import ReadOffsetRanges


@pytest.fixture
def orders() -> MemoryKafka:
    """Two partitions, ten records each, a second apart."""
    cluster = MemoryKafka({"orders": 2})
    cluster.append(
        Record("orders", number % 2, timestamp_ms=number * 1000, value=b"%d" % number) for number in range(20)
    )
    return cluster


def moment(seconds: int) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=seconds)


def read(cluster: MemoryKafka, expected: list[Any], **arguments: Any) -> None:
    with cluster.serving(), beam.Pipeline("FnApiRunner") as pipeline:
        values = (
            pipeline
            | ReadFromKafka("memory:9092", **{"topics": ["orders"], "stop": "latest", **arguments})
            | beam.Map(lambda record: int(record.value))
        )
        assert_that(values, equal_to(expected))


def test_everything_that_is_there(orders: MemoryKafka) -> None:
    read(orders, list(range(20)))


def test_between_offsets(orders: MemoryKafka) -> None:
    read(orders, [4, 6, 1, 3], start={"orders": {0: 2}}, stop={"orders": {0: 4, 1: 2}})


def test_of_some_partitions(orders: MemoryKafka) -> None:
    read(orders, list(range(1, 20, 2)), topics={"orders": [1]})


def test_between_moments(orders: MemoryKafka) -> None:
    read(orders, [5, 6, 7, 8], start=moment(5), stop=moment(9))


@pytest.mark.parametrize(
    ("start", "stop"), [({"orders": {1: 8}}, {"orders": {1: 5}}), (moment(9), moment(5))], ids=["offsets", "moments"]
)
def test_a_start_behind_its_stop_is_refused(start: Any, stop: Any) -> None:
    with pytest.raises(ConfigurationError, match="behind"):
        ReadFromKafka("memory:9092", ["orders"], start=start, stop=stop)


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (
            moment(3600),
            "latest",
            "of partition orders-0: start offset 10, stop offset 10, and the log holds [0, 10); partition ",
        ),
        (
            {"orders": {0: 8}},
            moment(5),
            "of partition orders-0: start offset 8, stop offset 3, and the log holds [0, 10). Is",
        ),
    ],
    ids=["beyond all", "of one partition"],
)
def test_a_read_that_passes_over_records_says_so(
    orders: MemoryKafka, caplog: pytest.LogCaptureFixture, start: Any, stop: Any, expected: str
) -> None:
    read(orders, [] if stop == "latest" else [1, 3], start=start, stop=stop)
    assert [expected in record.getMessage() for record in caplog.records if "reads nothing" in record.getMessage()] == [
        True
    ]


def test_a_read_without_end_is_refused(orders: MemoryKafka) -> None:
    with pytest.raises(ConfigurationError, match=r'stop=None .* unbounded read.* Give stop="latest"'):
        read(orders, [], stop=None)


@pytest.mark.parametrize("flag", [None, "--shutdown_sources_after_idle_ms=3600000", "--checkpointing_interval=1000"])
def test_flink_needs_a_flag_to_read_without_end(flag: str | None) -> None:
    options = PipelineOptions(["--streaming", "--flink_master=[local]", *([] if flag is None else [flag])])
    pipeline = beam.Pipeline(FlinkRunner(), options)
    with (
        contextlib.nullcontext()
        if flag
        else pytest.raises(ConfigurationError, match="FlinkRunner ends its root at once without one of these flags")
    ):
        _ = pipeline | ReadFromKafka("memory:9092", ["orders"])


def test_records_carry_their_kafka_timestamp(orders: MemoryKafka) -> None:
    with orders.serving(), beam.Pipeline("FnApiRunner") as pipeline:
        sums = (
            pipeline
            | ReadFromKafka("memory:9092", ["orders"], stop="latest")
            | beam.WindowInto(beam.window.FixedWindows(10))
            | beam.Map(lambda record: ("k", int(record.value)))
            | beam.CombinePerKey(sum)
            | beam.Values()
        )
        assert_that(sums, equal_to([sum(range(10)), sum(range(10, 20))]))


def test_a_time_that_beam_does_not_have_is_its_nearest(orders: MemoryKafka) -> None:
    times = [1_700_000_000_000_000_000, -(2**63), 7]  # nanoseconds, garbage, a millisecond
    orders.append(Record("orders", timestamp_ms=time, timestamp_type=1, value=b"new") for time in times)
    with orders.serving(), beam.Pipeline("FnApiRunner") as pipeline:
        found = (
            pipeline
            | ReadFromKafka("memory:9092", {"orders": [0]}, start={"orders": {0: 10}}, stop="latest")
            | beam.Map(lambda record, time=beam.DoFn.TimestampParam: (record.timestamp_ms, time.micros))
        )
        edges = [GlobalWindow().max_timestamp().micros // 1000 * 1000, -(-MIN_TIMESTAMP.micros // 1000) * 1000]
        assert_that(found, equal_to(list(zip(times, [*edges, 7000], strict=True))))


def test_a_stop_above_the_end_of_the_log_is_a_mistake(orders: MemoryKafka) -> None:
    with pytest.raises(ConfigurationError, match=r"stop offsets above the end .* orders-1: stop offset 11"):
        read(orders, [], stop={"orders": {1: 11}})


def test_on_a_runner_that_asks_whether_a_read_is_done_before_it_begins(
    orders: MemoryKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beam's default runner takes this one for graphs with timers, unless it finds Prism."""
    monkeypatch.setattr(read_ranges, "MAX_CHUNK_RECORDS", 2)  # more chunks than this runner takes before it splits
    orders.append(Record("orders", number % 2, value=b"%d" % number) for number in range(20, 600))
    with orders.serving(), beam.Pipeline("BundleBasedDirectRunner") as pipeline:
        groups = (
            pipeline
            | ReadFromKafka("memory:9092", ["orders"], stop="latest")
            | beam.Map(lambda record: (record.partition, int(record.value))).with_output_types(tuple[int, int])
            | beam.GroupIntoBatches(7)
            | beam.FlatMap(lambda group: group[1])
        )
        assert_that(groups, equal_to(list(range(600))))


def test_a_stop_in_a_stream_is_refused(orders: MemoryKafka) -> None:
    from beam_exactly_once.testing import run_in_memory

    with pytest.raises(ConfigurationError, match="ordinary"):
        run_in_memory(lambda stream: stream | ReadFromKafka("m:1", ["orders"], stop="latest"), {"orders": [[b"1"]]})


@pytest.mark.parametrize("as_arrow", [False, True])
def test_ranges_from_a_broker(as_arrow: bool) -> None:
    """On the wire: the pieces tile the ranges, and the records are those in them."""

    def values(element: Any) -> list[bytes]:
        return element["value"].to_pylist() if isinstance(element, pa.RecordBatch) else [element.value]

    with EmbeddedBroker({"orders": 1}) as broker:
        for _ in produce(broker.bootstrap_servers, "orders", 1, (b"%d" % number for number in range(100))):
            pass
        with beam.Pipeline("FnApiRunner") as pipeline:
            planned = [OffsetRange("orders", 0, 10, 20), OffsetRange("orders", 0, 50, 95)]
            ranges = pipeline | beam.Create([RangeGroup((PlannedRange(one),)) for one in planned])
            read = ranges | ReadOffsetRanges(KafkaSettings(broker.bootstrap_servers), as_arrow=as_arrow)
            expected = [b"%d" % number for number in (*range(10, 20), *range(50, 95))]
            assert_that(read.records | beam.FlatMap(values), equal_to(expected))
