"""What a batch of new records costs that are spread over many partitions: plan, run, commit and publish, on FnApiRunner.

    python tests/services/run.py kafka -- python benchmarks/many_partitions.py [--partitions 1000] [--records 1000] [--batches 8]

A topic of a real Kafka on this machine gets ``--records`` small records before each batch, one partition after the other. A
batch is *whole* from when its records are there until it is published and its progress record is given: planning is in it.
*cpu* is the process's CPU time in that span. The first batch also sets the steps up and connects: it is *first*, and not in the
medians. One ``beam.Map``, Parquet files; checkpoint and output on the local disk. In the end all rows are counted.
"""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import statistics
import tempfile
import time
from dataclasses import dataclass, field

import apache_beam as beam
import pyarrow.parquet as pq
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from beam_exactly_once import (
    BatchProgress,
    ExactlyOnceStream,
    ProcessingTime,
    ReadFromKafka,
    Record,
    WriteToFiles,
    read_batches,
)

PHASES = ("plan", "run", "commit", "publish")
PATIENCE_S = 120.0


def same(record: Record) -> Record:
    return record


@dataclass
class Rounds:
    """Sends records, and notes what the batch of them costs."""

    producer: Producer
    topic: str
    partitions: int
    records: int
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    batches: list[BatchProgress] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def send(self) -> None:
        for number in itertools.islice(self.numbers, self.records):
            self.producer.produce(self.topic, b"%d" % number, partition=number % self.partitions)
        if self.producer.flush(PATIENCE_S):
            raise RuntimeError("the broker does not take the records")
        self.began_s, self.began_cpu_s = time.perf_counter(), time.process_time()

    def note(self, progress: BatchProgress) -> None:
        self.whole_s.append(time.perf_counter() - self.began_s)
        self.cpu_s.append(time.process_time() - self.began_cpu_s)
        self.batches.append(progress)
        self.send()


def make_topic(bootstrap_servers: str, partitions: int) -> str:
    """A new topic whose partitions all have a leader."""
    topic = f"many-{secrets.token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    admin.create_topics([NewTopic(topic, partitions)], operation_timeout=PATIENCE_S)[topic].result(PATIENCE_S)
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        found = admin.list_topics(topic, timeout=10).topics[topic].partitions
        if len(found) == partitions and all(one.leader >= 0 for one in found.values()):
            return topic
        time.sleep(0.1)
    raise RuntimeError(f"topic {topic} does not have all its leaders after {PATIENCE_S:g} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=1000)
    parser.add_argument("--records", type=int, default=None, help="of a batch; one a partition if not given")
    parser.add_argument("--batches", type=int, default=8)
    flags = parser.parse_args()
    bootstrap_servers = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    topic = make_topic(bootstrap_servers, flags.partitions)
    producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 20})
    rounds = Rounds(producer, topic, flags.partitions, flags.records or flags.partitions)
    with tempfile.TemporaryDirectory() as work_dir:
        stream = ExactlyOnceStream(
            f"{work_dir}/checkpoint", trigger=ProcessingTime(0), max_batches=flags.batches, listeners=[rounds.note]
        )
        _ = stream | ReadFromKafka(bootstrap_servers, [topic]) | beam.Map(same) | WriteToFiles(f"{work_dir}/output")
        rounds.send()
        stream.run()
        files = [file for batch in read_batches(f"{work_dir}/output") for file in batch.files]
        names = [f"{work_dir}/output/{file.name}" for file in files]
        found = sorted(int(value) for name in names for value in pq.read_table(name).column("value").to_pylist())
    if found != list(range(rounds.records * flags.batches)):
        raise RuntimeError(f"{len(found)} rows came instead of {rounds.records * flags.batches}")
    print(f"many_partitions: {rounds.records} records in {flags.partitions} partitions a batch, milliseconds")
    figures = {"first": rounds.whole_s[0], "whole": statistics.median(rounds.whole_s[1:])}
    figures |= {"least": min(rounds.whole_s[1:]), "most": max(rounds.whole_s[1:])}
    figures["cpu"] = statistics.median(rounds.cpu_s[1:])
    for phase in PHASES:
        figures[phase] = statistics.median(getattr(batch, f"{phase}_s") for batch in rounds.batches[1:])
    for name, seconds in figures.items():
        print(f"{name:<10}{seconds * 1000:>10.1f}")


if __name__ == "__main__":
    main()
