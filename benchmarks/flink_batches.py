"""What a small batch costs on a Flink cluster: from one batch's progress record to the next one's.

    python tests/services/run.py flink -- python benchmarks/flink_batches.py [--parallelism 1] [--batches 20]

The cluster is that of the tests: a job manager and two task managers with a worker pool each, on this machine. Batches of 1,000
records in 4 partitions of librdkafka's mock broker, one ``beam.Map``, JSON files; checkpoint and output on the local disk. CPU
time is that of all processes: cluster, job server, workers, driver and broker. The first batches warm the JVMs up and do not
count.

A table shows whether anything grows: seconds, and threads and memory of the processes that live on from batch to batch, as
medians of each tenth of the batches; ``--batches 300`` is what it is for.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
import time

import apache_beam as beam
import psutil
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import BatchProgress, ExactlyOnceStream, ReadFromKafka, WriteToFiles
from beam_exactly_once.kafka import EmbeddedBroker, produce

TOPIC = "orders"
PARTITIONS = 4
RECORDS = 1_000
WARMING = 5


LIVES_ON = {
    "task managers": "TaskManagerRunner",
    "job server": "job-server.jar",
    "pools": "worker-pool",
    "zygotes": "zygote",
}
"""What has this in its command line. Job servers are two: that of the cluster for others, and that of this stream."""


def started() -> list[psutil.Process]:
    """This process, and all others that the same command started."""
    return psutil.Process(os.getppid()).children(recursive=True)


def living_on() -> dict[str, list[psutil.Process]]:
    """The processes that no batch starts or ends, by what they are. A worker is forked from a zygote, and looks like one."""
    found: dict[str, list[psutil.Process]] = {what: [] for what in LIVES_ON}
    for process in started():
        with contextlib.suppress(psutil.Error):
            parent, command = process.parent(), " ".join(process.cmdline())
            is_worker = parent is not None and LIVES_ON["zygotes"] in " ".join(parent.cmdline())
            for what, word in LIVES_ON.items():
                if word in command and not is_worker:
                    found[what].append(process)
    return found


def size_of(processes: list[psutil.Process]) -> tuple[int, float]:
    """Threads, and resident memory in MB."""
    return sum(one.num_threads() for one in processes), sum(one.memory_info().rss for one in processes) / 1e6


def cpu_s() -> float:
    """Of this process, and of all others that the same command started."""
    total_s = 0.0
    for process in started():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total_s += times.user + times.system + times.children_user + times.children_system
    return total_s


def table(moments_s: list[float], sizes: list[list[tuple[int, float]]]) -> None:
    """A line for each tenth of the batches."""
    steps_s = [later - earlier for earlier, later in itertools.pairwise(moments_s)]
    print(f"{'batches':>12} {'seconds':>8}" + "".join(f" {what:>22}" for what in LIVES_ON))
    tenth = max(1, len(steps_s) // 10)
    for first in range(0, len(steps_s), tenth):
        of_tenth = sizes[first : first + tenth]
        said = (
            f"{f'{first + 1} to {first + len(of_tenth)}':>12} {statistics.median(steps_s[first : first + tenth]):8.2f}"
        )
        for column in zip(*of_tenth, strict=True):
            threads, mb = (statistics.median(values) for values in zip(*column, strict=True))
            said += f" {f'{threads:.0f} threads, {mb:.0f} MB':>22}"
        print(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parallelism", type=int, default=1)
    parser.add_argument("--batches", type=int, default=20)
    arguments = parser.parse_args()
    batches = arguments.batches + WARMING
    moments_s, spent_s, sizes = [], [], []
    lives_on: dict[str, list[psutil.Process]] = {}

    def note(progress: BatchProgress) -> None:
        moments_s.append(time.perf_counter())
        spent_s.append(cpu_s())
        if not lives_on:
            lives_on.update(living_on())
        sizes.append([size_of(processes) for processes in lives_on.values()])

    options = PipelineOptions(
        [
            "--runner=FlinkRunner",
            f"--flink_master={os.environ['FLINK_MASTER']}",
            f"--flink_job_server_jar={os.environ['FLINK_JOB_SERVER_JAR']}",
            "--environment_type=EXTERNAL",
            f"--environment_config={os.environ['BEAM_WORKER_POOL']}",
            f"--parallelism={arguments.parallelism}",
            "--environment_cache_millis=0",
        ]
    )
    with EmbeddedBroker({TOPIC: PARTITIONS}) as broker, tempfile.TemporaryDirectory() as folder:
        for _ in produce(broker.bootstrap_servers, TOPIC, PARTITIONS, (b"%d" % n for n in range(batches * RECORDS))):
            pass
        with ExactlyOnceStream(f"{folder}/checkpoint", options=options, listeners=[note]) as stream:
            read = ReadFromKafka(broker.bootstrap_servers, [TOPIC], max_batch_offsets=RECORDS)
            rows = stream | read | beam.Map(lambda record: {"value": record.value.decode()})
            _ = rows | WriteToFiles(f"{folder}/output", format="json", schema=pa.schema([("value", pa.string())]))

    for what, values in (("seconds", moments_s), ("CPU seconds", spent_s)):
        steps = sorted(later - earlier for earlier, later in zip(values[WARMING - 1 :], values[WARMING:], strict=False))
        print(f"{what} a batch: {statistics.median(steps):.2f} [{steps[0]:.2f} to {steps[-1]:.2f}]")
    table(moments_s[WARMING - 1 :], sizes[WARMING:])


if __name__ == "__main__":
    main()
