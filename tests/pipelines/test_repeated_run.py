"""The seam by which one translated graph runs again and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.metrics.execution import MetricKey, MetricResult
from apache_beam.metrics.metricbase import MetricName
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.runners.repeated_run import RepeatedRun, repeating_runner
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.commit_counts import CommitCounts

NOTHING = RepeatedRun(lambda run_task: None, beam.Pipeline)


def test_a_committed_zero_counts_as_zero() -> None:
    """Prism reports committed values alone."""
    counters = [
        MetricResult(MetricKey("step", MetricName(namespace, name)), value, None)
        for namespace, name, value in [
            ("beam_exactly_once", "records_read.orders", 7),
            ("beam_exactly_once", "committed", 0),
            ("orders", "paid", 5),
        ]
    ]

    counted = CommitCounts.read(counters)

    assert counted == CommitCounts(records_read={"orders": 7}, committed=0)


def test_a_runner_that_cannot_run_a_graph_again_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="BundleBasedDirectRunner"):
        repeating_runner("BundleBasedDirectRunner", PipelineOptions([]), NOTHING)


@pytest.mark.parametrize("given", [FnApiRunner(), PortableRunner()], ids=lambda runner: type(runner).__name__)
def test_a_runner_that_is_given_stays_as_it_is(given: Any) -> None:
    before = dict(vars(given))

    repeating = repeating_runner(given, PipelineOptions([]), NOTHING)

    assert repeating is not given
    assert isinstance(repeating, type(given))
    assert vars(given) == before


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--experiments=data_buffer_time_limit_ms=5"], None),
        ([], EmbeddedPythonGrpcEnvironment(data_buffer_time_limit_ms=5)),
    ],
)
def test_data_that_is_to_be_flushed_by_time_is_refused(options: list[str], environment: Any, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="data_buffer_time_limit_ms"),
        MemoryKafka({"orders": 1}).serving(),
        ExactlyOnceStream(
            str(tmp_path / "checkpoint"),
            options=PipelineOptions(options),
            runner=FnApiRunner(default_environment=environment),
        ) as stream,
    ):
        _ = stream | ReadFromKafka("memory:9092", ["orders"]) | WriteToFiles(str(tmp_path / "output"))
    assert not (tmp_path / "checkpoint").exists()


class Paid(beam.DoFn):
    """Counts in the way of Beam."""

    def __init__(self) -> None:
        self.paid = Metrics.counter("orders", "paid")
        self.amounts = Metrics.distribution("orders", "amounts")
        self.newest = Metrics.gauge("orders", "newest")
        self.shops = Metrics.string_set("orders", "shops")

    def process(self, record: Record) -> Iterator[dict[str, int]]:
        amount = int(record.value or b"")
        self.paid.inc()
        self.amounts.update(amount)
        self.newest.set(amount)
        self.shops.add(f"shop {amount % 2}")
        yield {"amount": amount}


def test_the_result_has_the_metrics_of_the_steps_of_all_batches(tmp_path: Path) -> None:
    kafka = MemoryKafka({"orders": 1})
    kafka.append([Record("orders", value=b"%d" % amount) for amount in range(1, 6)])
    with kafka.serving(), ExactlyOnceStream(f"{tmp_path}/checkpoint") as stream:
        records = stream | ReadFromKafka("memory:9092", ["orders"], max_batch_offsets=2)
        _ = records | beam.ParDo(Paid()) | WriteToFiles(f"{tmp_path}/output", format="json")

    metrics = stream.result.metrics()
    found = {one.key.metric.name: one.result for kind in metrics.query().values() for one in kind}
    assert sorted(found) == ["amounts", "newest", "paid", "shops"]
    assert found["paid"] == 5
    assert (found["amounts"].count, found["amounts"].sum, found["amounts"].min, found["amounts"].max) == (5, 15, 1, 5)
    assert found["newest"].value == 5
    assert found["shops"] == {"shop 0", "shop 1"}
    (paid,) = metrics.query(MetricsFilter().with_name("paid"))["counters"]
    assert (paid.committed, paid.attempted) == (5, 5)


def test_one_listener_needs_no_list(tmp_path: Path) -> None:
    kafka = MemoryKafka({"orders": 1})
    kafka.append([Record("orders", value=b"1")])
    heard: list[int] = []
    with (
        kafka.serving(),
        ExactlyOnceStream(f"{tmp_path}/checkpoint", listeners=lambda batch: heard.append(batch.batch_id)) as stream,
    ):
        _ = stream | ReadFromKafka("memory:9092", ["orders"]) | WriteToFiles(f"{tmp_path}/output")
    assert heard == [0]
