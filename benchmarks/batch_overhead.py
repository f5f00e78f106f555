"""What a small batch costs: plan, run, commit and publish on FnApiRunner, checkpoint and output on the local disk.

    python benchmarks/batch_overhead.py [--kafka memory|embedded] [--batches 100] [--records-per-batch 100] [--json]
        [--mode in_memory|multi_threading|multi_processing] [--workers 1]

A backlog is read in many small batches: 4 partitions, one ``beam.Map``, Parquet files. *steady* is the time from one
batch's progress record to the next one's, all that a driver does included; *start* is the time from the call of
``run()`` to the first batch's record; *whole* is all of ``run()`` by the number of batches. ``plan`` … ``publish`` are
the phases as the progress records tell them, and ``other`` is what lies between them. ``cpu`` is the CPU time a batch of the
process and its workers (the embedded broker's included), which other work on the machine disturbs least.
Workers in processes need ``--kafka embedded``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import apache_beam as beam
import psutil
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import BatchProgress, ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles
from beam_exactly_once.kafka import EmbeddedBroker, produce
from beam_exactly_once.testing import MemoryKafka

TOPIC = "orders"
PARTITIONS = 4
PHASES = ("plan", "run", "commit", "publish")


def same(record: Record) -> Record:
    return record


@contextlib.contextmanager
def backlog(kafka: str, records: int) -> Iterator[str]:
    """Kafka with ``records`` small records; gives its address."""
    values = [b'{"id":%d}' % number for number in range(records)]
    if kafka == "memory":
        memory = MemoryKafka({TOPIC: PARTITIONS})
        memory.append(Record(TOPIC, number % PARTITIONS, value=value) for number, value in enumerate(values))
        with memory.serving():
            yield "memory:9092"
        return
    with EmbeddedBroker({TOPIC: PARTITIONS}) as broker:
        for _ in produce(broker.bootstrap_servers, TOPIC, PARTITIONS, values):
            pass
        yield broker.bootstrap_servers


@dataclass
class Measured:
    """What was seen of a run."""

    batches: list[BatchProgress] = field(default_factory=list)
    moments_s: list[float] = field(default_factory=list)
    """The start, each progress record, the end."""
    cpu_s: list[float] = field(default_factory=list)
    """CPU time of the process and its workers at each progress record."""
    has_processes: bool = False
    """Whether workers are processes of their own, to be looked for: that takes milliseconds."""
    workers: list[psutil.Process] = field(default_factory=list)

    def note(self, progress: BatchProgress) -> None:
        self.batches.append(progress)
        self.moments_s.append(time.perf_counter())
        if self.has_processes and not self.workers:
            self.workers = psutil.Process().children(recursive=True)
        of_workers_s = sum(sum(one.cpu_times()[:2]) for one in self.workers)
        self.cpu_s.append(time.process_time() + of_workers_s)


def run_batches(
    bootstrap_servers: str, records_per_batch: int, work_dir: str, beam_options: Sequence[str] = ()
) -> Measured:
    """Read the backlog."""
    measured = Measured(has_processes="--direct_running_mode=multi_processing" in beam_options)

    options = PipelineOptions(list(beam_options))
    stream = ExactlyOnceStream(f"{work_dir}/checkpoint", listeners=[measured.note], options=options)
    read = ReadFromKafka(bootstrap_servers, [TOPIC], max_batch_offsets=records_per_batch)
    _ = stream | read | beam.Map(same) | WriteToFiles(f"{work_dir}/output")
    measured.moments_s.append(time.perf_counter())
    stream.run()
    measured.moments_s.append(time.perf_counter())
    return measured


def figures_of(measured: Measured) -> dict[str, float]:
    """Seconds, by name."""
    batches = measured.batches
    begin_s, first_s, *_, end_s = measured.moments_s
    recorded_s = measured.moments_s[1:-1]
    steady_s = [after - before for before, after in itertools.pairwise(recorded_s)]
    figures = {
        "steady_median_s": statistics.median(steady_s),
        "steady_p95_s": statistics.quantiles(steady_s, n=20)[-1],
        "cpu_s": (measured.cpu_s[-1] - measured.cpu_s[0]) / len(steady_s),
        "start_s": first_s - begin_s,
        "whole_s": (end_s - begin_s) / len(batches),
    }
    for phase in PHASES:
        figures[f"{phase}_s"] = statistics.median(getattr(batch, f"{phase}_s") for batch in batches[1:])
    named_s = [sum(getattr(batch, f"{phase}_s") for phase in PHASES) for batch in batches[1:]]
    figures["other_s"] = statistics.median(whole - named for whole, named in zip(steady_s, named_s, strict=True))
    return {name: round(seconds, 4) for name, seconds in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", choices=["memory", "embedded"], default="memory")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--records-per-batch", type=int, default=100)
    parser.add_argument("--mode", default="in_memory", help="Beam's direct_running_mode")
    parser.add_argument("--workers", type=int, default=1, help="Beam's direct_num_workers")
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    flags = parser.parse_args()
    with (
        backlog(flags.kafka, flags.batches * flags.records_per_batch) as bootstrap_servers,
        tempfile.TemporaryDirectory() as work_dir,
    ):
        workers = [f"--direct_running_mode={flags.mode}", f"--direct_num_workers={flags.workers}"]
        measured = run_batches(bootstrap_servers, flags.records_per_batch, work_dir, workers)
    figures = figures_of(measured)
    batches = len(measured.batches)
    print(
        f"batch_overhead: {batches} batches of {flags.records_per_batch} records, {flags.kafka} Kafka, milliseconds, "
        f"{flags.workers} workers {flags.mode}"
    )
    for name, seconds in figures.items():
        print(f"{name.removesuffix('_s'):<14}{seconds * 1000:>8.1f}")
    if flags.json:
        known = {"benchmark": "batch_overhead", "kafka": flags.kafka, "batches": batches}
        print(json.dumps({**known, **figures}))


if __name__ == "__main__":
    main()
