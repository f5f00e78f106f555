"""How long an unbounded read takes to its first record, and each record after that, in an ordinary pipeline.

    python benchmarks/unbounded_read.py --runner PrismRunner --prism_location PATH [--seconds 20]
    python benchmarks/unbounded_read.py --runner FlinkRunner --flink_job_server_jar PATH [--seconds 20]

The job server runs already, as it does beside a cluster. The first record lies in Kafka when the pipeline is submitted; others
follow, each with the moment at which it was sent, every 130 ms. CPU is that of this process, whose threads are the workers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import apache_beam as beam
import psutil
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner

from beam_exactly_once import ReadFromKafka, Record
from beam_exactly_once.kafka import EmbeddedBroker
from beam_exactly_once.pipelines.runners.job_server import one_job_server
from latency import send
from support import repeating

EVERY_S = 0.13
FLINK_FLAGS = ["--flink_master=[local]", "--parallelism=1", "--shutdown_sources_after_idle_ms=3600000"]
FLINK_FLAGS += ["--max_bundle_time_mills=50"]  # else each step hands on what it has after a second


class Note(beam.DoFn):
    """When each record was sent, and when it came."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def process(self, record: Record) -> None:
        with self._path.open("a") as file:
            file.write(f"{record.value.decode()} {time.time()}\n")


def noted(path: Path) -> list[tuple[float, float]]:
    """Of each record."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(sent), float(came)) for sent, came in (line.split() for line in lines)]


def cpu_of_runner_s() -> float:
    """Of the programs that this one started, until now."""
    times = [one.cpu_times() for one in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in times)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runner", default="PrismRunner")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--partitions", type=int, default=1)
    given, flags = parser.parse_known_args()
    flags = ["--streaming", *(FLINK_FLAGS if given.runner == "FlinkRunner" else []), *flags]
    options, runner = PipelineOptions(flags), create_runner(given.runner)
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedBroker({"orders": given.partitions}) as broker,
        one_job_server(runner, options),
    ):
        path = Path(folder, "noted")
        send(broker)
        submitted_s, cpu_first_s = time.time(), time.process_time()
        runner_cpu_s = cpu_of_runner_s()
        pipeline = beam.Pipeline(runner=runner, options=options)
        _ = pipeline | ReadFromKafka(broker.bootstrap_servers, ["orders"]) | beam.ParDo(Note(path))
        result = pipeline.run()
        returned_s = time.time()
        while not noted(path):
            time.sleep(0.01)
        first_s, cpu_first_s = noted(path)[0][1] - submitted_s, time.process_time() - cpu_first_s
        runner_cpu_s = cpu_of_runner_s() - runner_cpu_s
        before, cpu_s = len(noted(path)), time.process_time()
        with repeating(lambda: send(broker), EVERY_S):
            time.sleep(given.seconds)
        cpu_s = (time.process_time() - cpu_s) / given.seconds
        result.cancel()
        waits_s = sorted(came - sent for sent, came in noted(path)[before:])
        submission_s = returned_s - submitted_s
        print(
            f"first record after {first_s:.2f} s, of which submission {submission_s:.2f} s; "
            f"CPU here {cpu_first_s:.2f} s, of the runner {runner_cpu_s:.2f} s"
        )
        median_s, p95_s, worst_s = statistics.median(waits_s), waits_s[int(0.95 * len(waits_s))], waits_s[-1]
        print(f"then {len(waits_s)} records: median {median_s:.2f} s, p95 {p95_s:.2f} s, worst {worst_s:.2f} s")
        print(f"CPU of workers and senders {cpu_s:.2f} s a second")


if __name__ == "__main__":
    main()
