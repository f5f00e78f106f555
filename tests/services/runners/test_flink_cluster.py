"""Streams on a Flink cluster of two task managers, with Python workers, checkpoint and output on S3; and the loss of
each part of it in the middle of a batch."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles, read_batches
from beam_exactly_once.errors import EXIT_DONE, EXIT_RETRYABLE, StepFailed
from beam_exactly_once.kafka import EmbeddedBroker, produce
from beam_exactly_once.pipelines.kafka_to_files import main
from beam_exactly_once.testing.published_rows import published_rows
from services.launch.flink import WORKER_POOL, Flink
from services.streams.flink_streams import (
    ROWS,
    WAIT_S,
    Gate,
    cluster_options,
    gated_command,
    run_until_done,
    started,
    task_managers_that_ran,
    values,
)
from services.streams.topics import Topic
from services.streams.unlucky import assert_names_step_and_offsets, failing, numbers
from support.stream_under_test import opened

pytestmark = pytest.mark.runs_on("FlinkRunner cluster", storage="S3")

PARTITIONS = 2
NEVER_COMES = "import os, signal\nos.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGSTOP))\n"
"""A module of a pool: every worker stands still as soon as it is there."""
NewTopic = Callable[..., Topic]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def topic(new_topic: NewTopic) -> Topic:
    """Committed and aborted records in every partition."""
    topic = new_topic(PARTITIONS)
    for partition in range(PARTITIONS):
        topic.send_committed([b"%d-%d" % (partition, number) for number in range(100)], partition=partition)
        topic.send_aborted([b"never"], partition=partition)
    return topic


@pytest.fixture(scope="module")
def own_cluster(flink_job_server_jar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flink]:
    """One to break and mend; its workers have a package that nobody else has."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "only_on_workers.py").write_text("def shout(text):\n    return text.upper()\n")
    with Flink(folder) as cluster:
        yield cluster


def options_of(cluster: Flink) -> list[str]:
    return cluster_options(cluster.master, cluster.worker_pool, cluster.environment["FLINK_JOB_SERVER_JAR"])


def ready_made(topic: Topic, bucket: str, options: list[str]) -> list[str]:
    return [
        f"--bootstrap-servers={topic.bootstrap_servers}",
        f"--topics={topic.name}",
        f"--output-location={bucket}/output",
        f"--checkpoint-location={bucket}/checkpoint",
        "--max-batch-offsets=150",
        *options,
    ]


def test_the_ready_made_pipeline_on_both_task_managers(topic: Topic, bucket: str, own_cluster: Flink) -> None:
    assert main(ready_made(topic, bucket, options_of(own_cluster))) == EXIT_DONE

    assert values(bucket) == topic.committed
    assert len(task_managers_that_ran(own_cluster.master)) == 2


def test_a_killed_driver_is_started_again(topic: Topic, bucket: str, flink_options: list[str]) -> None:
    command = ready_made(topic, bucket, flink_options)
    module = "beam_exactly_once.pipelines.kafka_to_files"
    kill_after = "put_if_absent:offsets/:2"
    watched = [sys.executable, "-m", "beam_exactly_once.testing.crashing", "--kill_after", kill_after, module]
    assert subprocess.run([*watched, *command], check=False, timeout=WAIT_S).returncode == -signal.SIGKILL

    assert main(command) == EXIT_DONE
    assert values(bucket) == topic.committed


def test_a_driver_killed_in_a_batch_leaves_a_job_that_does_no_harm(
    topic: Topic, bucket: str, gate: Gate, flink_options: list[str]
) -> None:
    command = gated_command(topic.bootstrap_servers, topic.name, bucket, gate, flink_options)
    with started(command) as driver:
        gate.wait_reached(driver)
        driver.kill()
    gate.open()  # the job of the killed driver runs on, beside that of the next

    run_until_done(command)
    assert values(bucket) == topic.committed


@pytest.mark.parametrize("part", ["worker", "task manager"])
def test_a_part_that_is_lost_in_a_batch_and_the_driver_goes_on(
    topic: Topic, bucket: str, gate: Gate, own_cluster: Flink, part: str
) -> None:
    """Both task managers are needed, so the driver goes on once the lost one is back."""
    command = gated_command(topic.bootstrap_servers, topic.name, bucket, gate, options_of(own_cluster))
    with started(command) as driver:
        gate.wait_reached(driver)
        if part == "worker":
            gate.kill_waiting()
        else:
            own_cluster.kill_task_manager(0)
        gate.open()
        if part == "task manager":
            own_cluster.start_task_manager(0)
        assert driver.wait(WAIT_S) == EXIT_DONE

    assert values(bucket) == topic.committed
    assert opened(f"{bucket}/checkpoint").newest_writer_epoch() > 1


def test_a_package_that_only_the_workers_have(bucket: str, new_topic: NewTopic, own_cluster: Flink) -> None:
    topic = new_topic()
    topic.send([b"a", b"b"])

    def shouted(record: Record) -> dict[str, str]:
        from only_on_workers import shout

        return {"value": shout(record.value.decode())}

    options = PipelineOptions(options_of(own_cluster))
    with ExactlyOnceStream(f"{bucket}/checkpoint", options=options) as stream:
        records = stream | ReadFromKafka(topic.bootstrap_servers, [topic.name])
        _ = records | beam.Map(shouted) | WriteToFiles(f"{bucket}/output", format="json", schema=ROWS)

    assert values(bucket) == {b"A": 1, b"B": 1}
    assert importlib.util.find_spec("only_on_workers") is None


@pytest.mark.runs_on("FlinkRunner cluster")
@pytest.mark.parametrize("by_flink", [True, False], ids=["Flink tells", "the job server tells"])
def test_a_failed_step_names_step_and_offsets_and_the_batch_runs_again(
    tmp_path: Path, shared_flink: list[str], by_flink: bool
) -> None:
    told = [option for option in shared_flink if by_flink or not option.startswith("--flink_master")]

    def run(step: Callable[[beam.PCollection[Record]], beam.PCollection[dict[str, int]]]) -> None:
        with ExactlyOnceStream(f"{tmp_path}/checkpoint", options=PipelineOptions(told)) as stream:
            rows = step(stream | ReadFromKafka(broker.bootstrap_servers, ["orders"]))
            _ = rows | WriteToFiles(f"{tmp_path}/output", format="json")

    with EmbeddedBroker({"orders": 2}) as broker:
        for _ in produce(broker.bootstrap_servers, "orders", 2, (b"%d" % number for number in range(100))):
            pass
        with pytest.raises(StepFailed) as raised:
            run(failing)
        run(numbers)

    assert_names_step_and_offsets(raised.value)
    (batch,) = read_batches(f"{tmp_path}/output")
    assert sorted(row["number"] for row in published_rows(f"{tmp_path}/output", batch)) == list(range(100))


def test_a_worker_that_never_comes_ends_the_batch(bucket: str, new_topic: NewTopic, tmp_path: Path) -> None:
    """Flink itself would wait for ever: the pool has started a worker, which is all that Flink asks of it."""
    topic = new_topic()
    topic.send([b"a"])
    (tmp_path / "only_in_workers.py").write_text(NEVER_COMES)
    with Flink(tmp_path, [*WORKER_POOL, "--preload=only_in_workers"]) as cluster:
        command = ready_made(topic, bucket, options_of(cluster))
        assert main([*command, "--batch-timeout-s=40"]) == EXIT_RETRYABLE


def test_everything_but_kafka_and_the_bucket_is_lost_in_a_batch(
    topic: Topic, bucket: str, gate: Gate, tmp_path: Path
) -> None:
    open_gate = Gate(tmp_path / "open gate")
    open_gate.open()
    run_until_done(gated_command(topic.bootstrap_servers, topic.name, bucket, open_gate, []))  # what is there must stay
    with Flink() as first:
        topic.send_committed([b"later-%d" % number for number in range(100)])
        with started(gated_command(topic.bootstrap_servers, topic.name, bucket, gate, options_of(first))) as driver:
            gate.wait_reached(driver)
            first.destroy()
            driver.kill()
    with Flink() as second:
        run_until_done(gated_command(topic.bootstrap_servers, topic.name, bucket, open_gate, options_of(second)))
    assert values(bucket) == topic.committed
