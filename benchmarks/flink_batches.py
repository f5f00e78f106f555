"""What a small batch costs on a Flink cluster: from one batch's progress record to the next one's.

    python tests/services/run.py flink -- python benchmarks/flink_batches.py [--parallelism 1] [--batches 20]

The cluster is that of the tests: a job manager and two task managers with a worker pool each, on this machine. Batches of 1,000
records in 4 partitions of librdkafka's mock broker, one ``beam.Map``, JSON files; checkpoint and output on the local disk. CPU
time is that of all processes: cluster, job server, workers, driver and broker. The first batches warm the JVMs up and do not
count.
"""

from __future__ import annotations

import argparse
import contextlib
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


def cpu_s() -> float:
    """Of this process, and of all others that the same command started."""
    total_s = 0.0
    for process in psutil.Process(os.getppid()).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total_s += times.user + times.system + times.children_user + times.children_system
    return total_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parallelism", type=int, default=1)
    parser.add_argument("--batches", type=int, default=20)
    arguments = parser.parse_args()
    batches = arguments.batches + WARMING
    moments_s, spent_s = [], []

    def note(progress: BatchProgress) -> None:
        moments_s.append(time.perf_counter())
        spent_s.append(cpu_s())

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


if __name__ == "__main__":
    main()
