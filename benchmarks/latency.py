"""How long a record takes from its producer until readers of files see it, by trigger.

    python benchmarks/latency.py [--prism_location PATH] [--interval-s 1] [--seconds 30]

A record every 50 ms carries the moment at which it was sent; the manifest of its batch has the moment at which the batch was
visible. A trigger that asks every second makes a record wait half of that on average, whatever a batch costs. With
--interval-s 0 a batch follows the other at once: then the time between two of them is what one costs. Kafka is librdkafka's
mock broker; checkpoint and output are on the local disk. The first batches are left out: workers start. The CPU time is that of
the driver, the runner and the broker, from the first start to the end.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import (
    Continuous,
    ExactlyOnceStream,
    ProcessingTime,
    ReadFromKafka,
    Trigger,
    WriteToFiles,
    read_batches,
)
from beam_exactly_once.kafka import EmbeddedBroker, produce
from support import repeating

EVERY_S = 0.05
LEFT_OUT = 2
"""Batches in which workers start."""


def send(broker: EmbeddedBroker) -> None:
    """A record that says when it was sent."""
    for _ in produce(broker.bootstrap_servers, "orders", 1, [str(time.time()).encode()]):
        pass


@dataclass(frozen=True)
class Measured:
    """What one trigger did."""

    latencies_s: list[float]
    """Of each record, from its producer to its manifest."""
    visible_s: list[float]
    """When each batch was visible."""
    batch_cpu_s: float


def measure(trigger: Trigger, runner: str, flags: list[str], seconds: float) -> Measured:
    """Run a stream for a while."""
    before_s = sum(os.times()[:4])
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker({"orders": 1}) as broker:
        batches = int(seconds / max(trigger.interval_s, 0.1)) + LEFT_OUT  # type: ignore[union-attr]
        with (
            repeating(lambda: send(broker), EVERY_S),
            ExactlyOnceStream(
                f"{folder}/checkpoint",
                trigger=trigger,
                max_batches=batches,
                runner=runner,
                options=PipelineOptions(flags),
            ) as stream,
        ):
            read = ReadFromKafka(broker.bootstrap_servers, ["orders"], as_arrow=True)
            _ = stream | read | WriteToFiles(f"{folder}/output")
        latencies_s, visible = [], []
        for batch in list(read_batches(f"{folder}/output"))[LEFT_OUT:]:
            manifest = Path(folder, "output", "_batches", f"{batch.batch_id:020d}.json")
            visible.append(manifest.stat().st_mtime)
            for file in batch.files:
                latencies_s += [visible[-1] - float(value) for value in pq.read_table(file.uri)["value"].to_pylist()]
    return Measured(latencies_s, visible, (sum(os.times()[:4]) - before_s) / batches)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prism_location")
    parser.add_argument("--interval-s", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    ways: list[tuple[Trigger, str, list[str]]] = [(ProcessingTime(given.interval_s), "FnApiRunner", [])]
    if given.prism_location:
        flags = [f"--prism_location={given.prism_location}"]
        ways += [(ProcessingTime(given.interval_s), "PrismRunner", flags)]
        ways += [(Continuous(given.interval_s), "PrismRunner", flags)]
    for trigger, runner, flags in ways:
        measured = measure(trigger, runner, flags, given.seconds)
        found = sorted(measured.latencies_s)
        p95 = found[int(0.95 * len(found))]
        every_s = statistics.median(after - before for before, after in pairwise(measured.visible_s))
        print(
            f"{trigger} on {runner}: median {statistics.median(found):.2f} s, p95 {p95:.2f} s, {len(found)} records; a batch "
            f"every {every_s:.2f} s, each {measured.batch_cpu_s:.2f} s of CPU time",
            flush=True,
        )


if __name__ == "__main__":
    main()
