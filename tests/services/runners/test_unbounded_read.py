"""Reads without ``stop=`` in an ordinary pipeline on Prism and Flink: by value, with windows that close by their watermark."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.transforms.window import FixedWindows

from beam_exactly_once import EventTime, ReadAllFromKafka, ReadFromKafka, ReadFromWal, Record, TopicPartition
from beam_exactly_once.kafka import EmbeddedBroker, KafkaSettings, produce
from beam_exactly_once.kafka.log import ConfluentLog
from beam_exactly_once.pipelines.runners.job_server import one_job_server
from beam_exactly_once.transforms.reading import find_partitions, group_commits
from beam_exactly_once.transforms.reading.follow_ranges import FollowRanges
from services.streams.flink_streams import WAIT_S, local_options
from services.streams.topics import wait_until
from support.wal.streams import LOG, append, numbers

# Of a job that is cancelled, Prism forgets the worker before the worker's streams have ended: Beam's threads say so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Append(beam.DoFn):
    """Each element as a line of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def process(self, element: Any) -> None:
        with self._path.open("a") as file:
            file.write(f"{element}\n")


def lines(path: Path) -> list[int]:
    return sorted(map(int, path.read_text().splitlines())) if path.exists() else []


def second_of(record: Record) -> int:
    """A number happened as many seconds after the start of 1970."""
    return 1000 * int(record.value or b"")


IS_AHEAD = threading.Event()


def second_of_one_that_is_behind(record: Record) -> int:
    """The reader hands a record out only when the quiet partition has gone far ahead."""
    assert IS_AHEAD.wait(WAIT_S), "the quiet partition was not read beside the other one"
    return second_of(record)


def send(broker: EmbeddedBroker, topic: str, numbers: range) -> None:
    for _ in produce(broker.bootstrap_servers, topic, 2, (b"%d" % number for number in numbers)):
        pass


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({"orders-a": 2, "orders-empty": 1}) as broker:
        yield broker


@pytest.mark.runs_on("PrismRunner", trigger="none")
def test_records_come_windows_close_and_topics_that_appear_are_read(
    broker: EmbeddedBroker, prism_location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that stays empty holds up no window for long. A group is told what is final. A write-ahead log is read, too."""
    monkeypatch.setattr(find_partitions, "DISCOVERY_INTERVAL_S", 0.5)
    monkeypatch.setattr(group_commits, "EVERY_S", 0.5)
    options = PipelineOptions([f"--prism_location={prism_location}", "--streaming"])
    runner = PrismRunner()
    seen, sums = tmp_path / "seen", tmp_path / "sums"
    send(broker, "orders-a", range(20))
    append(tmp_path, numbers(range(5)))
    with one_job_server(runner, options):
        pipeline = beam.Pipeline(runner=runner, options=options)
        event_time = EventTime(second_of, out_of_order_s=20, idle_s=1)
        read = ReadFromKafka(broker.bootstrap_servers, topic_pattern="orders-.*", event_time=event_time)
        values = pipeline | read | beam.Map(lambda record: int(record.value))
        again = (
            pipeline
            | beam.Create(["orders-a", TopicPartition("orders-empty", 0)])
            | ReadAllFromKafka(broker.bootstrap_servers, commit_to_group="view")
        )
        hooks = pipeline | ReadFromWal(f"{tmp_path}/{LOG}") | "Value" >> beam.Map(lambda record: int(record.value))
        _ = hooks | "Hooks" >> beam.ParDo(Append(tmp_path / "hooked"))
        _ = again | beam.Map(lambda record: int(record.value)) | "Again" >> beam.ParDo(Append(tmp_path / "again"))
        _ = values | "Seen" >> beam.ParDo(Append(seen))
        _ = (
            values
            | beam.WindowInto(FixedWindows(10))
            | beam.CombineGlobally(sum).without_defaults()
            | "Sums" >> beam.ParDo(Append(sums))
        )
        result = pipeline.run()
        try:
            wait_until(lambda: lines(sums) == [sum(range(10)), sum(range(10, 20))])
            assert lines(seen) == list(range(20))
            wait_until(lambda: lines(tmp_path / "again") == list(range(20)))
            broker.create_topic("orders-b", 2)
            send(broker, "orders-b", range(20, 30))
            append(tmp_path, numbers(range(5, 9)))
            wait_until(lambda: lines(seen) == list(range(30)))
            wait_until(lambda: lines(tmp_path / "hooked") == list(range(9)))
            with closing(ConfluentLog(KafkaSettings(broker.bootstrap_servers))) as log:
                places = [TopicPartition("orders-a", 0), TopicPartition("orders-a", 1)]
                ends = log.ends(places)
                wait_until(lambda: log.committed_offsets("view", places) == ends)
        finally:
            result.cancel()


@pytest.mark.runs_on("PrismRunner", trigger="none")
def test_a_quiet_partition_closes_no_window_of_one_that_is_behind(
    broker: EmbeddedBroker, prism_location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prism keeps one watermark for a step, which is what the bundle said that ended last."""
    silence, turns = FollowRanges._silence, []

    def counted(self: FollowRanges, watermark: Any) -> float:
        rest_s = silence(self, watermark)
        turns.append(watermark.get_estimator_state()[0])
        if len([one for one in turns if one > 20_000]) >= 3:
            IS_AHEAD.set()
        return rest_s

    monkeypatch.setattr(FollowRanges, "_silence", counted)
    IS_AHEAD.clear()
    options = PipelineOptions([f"--prism_location={prism_location}", "--streaming"])
    runner = PrismRunner()
    sums = tmp_path / "sums"
    send(broker, "orders-a", range(20))
    with one_job_server(runner, options):
        pipeline = beam.Pipeline(runner=runner, options=options)
        event_time = EventTime(second_of_one_that_is_behind, out_of_order_s=20, idle_s=0.1)
        read = ReadFromKafka(broker.bootstrap_servers, topic_pattern="orders-.*", event_time=event_time)
        windows = pipeline | read | beam.Map(lambda record: int(record.value)) | beam.WindowInto(FixedWindows(10))
        _ = windows | beam.CombineGlobally(sum).without_defaults() | "Sums" >> beam.ParDo(Append(sums))
        result = pipeline.run()
        try:
            wait_until(lambda: lines(sums) == [sum(range(10)), sum(range(10, 20))])
        finally:
            result.cancel()


@pytest.mark.runs_on("FlinkRunner [local]", trigger="none")
def test_a_read_goes_on_and_windows_close_on_flink(
    broker: EmbeddedBroker, flink_job_server_jar: str, tmp_path: Path
) -> None:
    """Without Flink checkpoints: the flag keeps the job alive, and the rest of each turn is taken up again."""
    flags = ["--streaming", "--parallelism=1", "--max_bundle_time_mills=50", "--shutdown_sources_after_idle_ms=3600000"]
    options = PipelineOptions([*local_options(flink_job_server_jar), *flags])
    runner = FlinkRunner()
    seen, sums = tmp_path / "seen", tmp_path / "sums"
    send(broker, "orders-a", range(20))
    with one_job_server(runner, options):
        pipeline = beam.Pipeline(runner=runner, options=options)
        event_time = EventTime(second_of, out_of_order_s=20, idle_s=1)
        read = ReadFromKafka(broker.bootstrap_servers, ["orders-a"], event_time=event_time)
        values = pipeline | read | beam.Map(lambda record: int(record.value))
        _ = values | "Seen" >> beam.ParDo(Append(seen))
        windows = values | beam.WindowInto(FixedWindows(10))
        _ = windows | beam.CombineGlobally(sum).without_defaults() | "Sums" >> beam.ParDo(Append(sums))
        result = pipeline.run()
        try:
            wait_until(lambda: lines(sums) == [sum(range(10)), sum(range(10, 20))], WAIT_S)
            send(broker, "orders-a", range(20, 40))
            wait_until(lambda: lines(seen) == list(range(40)), WAIT_S)
        finally:
            result.cancel()
