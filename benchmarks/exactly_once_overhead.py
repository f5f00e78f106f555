"""The price of exactly-once: each sink against the same stream whose rows are written at once, at least once.

    python tests/services/run.py kafka postgres mariadb -- \\
        python benchmarks/exactly_once_overhead.py [--sinks files kafka …] [--rounds 5] [--batch_s 1] [--json]

The source is librdkafka's mock broker, records of 100 bytes; one ``beam.Map`` parses their JSON; the checkpoint is on the
local disk. Ways:

- ``plain``: planned, read and committed alike, but a bundle-wise writer without receipts puts the rows into place while the
  pipeline runs: what is replayed is there twice. Rows are encoded as the sink encodes them.
- ``staged``: the sink of this library.
- ``direct``: the same with ``direct=True``, where it has that.

Batches have as many records as ``plain`` writes in about ``--batch_s``. A batch's time is from one progress record to the
next, all that a driver does included; the first is left out. Every measurement is a process of its own, the ways run in turn,
and are compared within a round. Sinks that need a server take ``KAFKA_BOOTSTRAP_SERVERS``, ``POSTGRES_URL``,
``MARIADB_URL``, and are left out without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from rich.console import Console
from rich.progress import track

import support
from beam_exactly_once import BatchProgress, ExactlyOnceStream, ProcessingTime, ReadFromKafka
from overhead_sinks import PLAIN, SINKS

BATCHES = 5
"""Measured, after one to warm up."""
RECORDS_FIRST = 50_000
"""Records of a batch when nothing is known yet."""
MAX_RECORDS_PER_BATCH = support.RECORDS // (1 + BATCHES)
CALIBRATIONS = 2
PHASES = ("plan", "run", "commit", "publish")


# -- one measurement -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What to measure."""

    sink: str
    way: str
    bootstrap_servers: str
    records_per_batch: int
    batches: int
    """After the one that warms up."""


@dataclass(frozen=True)
class Batches:
    """Means of one run's batches, in seconds."""

    whole_s: float
    cpu_s: float
    plan_s: float
    run_s: float
    commit_s: float
    publish_s: float


def measure(argument: dict[str, Any]) -> dict[str, Any]:
    """Run a :class:`Run` in this process: its :class:`Batches`, as JSON."""
    run = Run(**argument)
    sink = SINKS[run.sink]
    seen: list[tuple[float, float, BatchProgress]] = []
    with tempfile.TemporaryDirectory() as work_dir, sink.new_place(work_dir) as place:
        stream = ExactlyOnceStream(
            f"{work_dir}/checkpoint",
            trigger=ProcessingTime(0),
            max_batches=1 + run.batches,
            listeners=[lambda progress: seen.append((time.perf_counter(), time.process_time(), progress))],
        )
        read = ReadFromKafka(
            run.bootstrap_servers,
            [support.TOPIC],
            max_batch_offsets=run.records_per_batch,
            max_batch_bytes=None,
        )
        sink.ways[run.way](stream | read | beam.Map(sink.row_of), place)
        stream.run()
        records = sum(progress.records_read for _, _, progress in seen)
        if len(seen) != 1 + run.batches or sink.count(place) < records:
            raise RuntimeError(f"{len(seen)} batches of {records} records came to {sink.count(place)} rows: {run}")
    phases = {f"{phase}_s": _mean([getattr(one, f"{phase}_s") for _, _, one in seen[1:]]) for phase in PHASES}
    (first_s, first_cpu_s, _), (last_s, last_cpu_s, _) = seen[0], seen[-1]
    return asdict(
        Batches((last_s - first_s) / run.batches, (last_cpu_s - first_cpu_s) / run.batches, **phases),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# -- rounds and the table ------------------------------------------------------------------------------------------


def records_for(sink: str, bootstrap_servers: str, batch_s: float) -> int:
    """How many records ``plain`` writes in a batch of ``batch_s``."""
    records = RECORDS_FIRST
    for _ in range(CALIBRATIONS):
        plain = Batches(**support.apart(MEASURE, asdict(Run(sink, PLAIN, bootstrap_servers, records, 2))))
        records = min(MAX_RECORDS_PER_BATCH, round(records * batch_s / plain.whole_s))
    return records


def figures_of(records: int, plain: Sequence[Batches], of_way: Sequence[Batches]) -> dict[str, float]:
    """Medians of all rounds; overheads are taken within a round."""
    overheads = [100 * (way.whole_s / base.whole_s - 1) for base, way in zip(plain, of_way, strict=True)]
    medians = {name: statistics.median(getattr(one, name) for one in of_way) for name in asdict(of_way[0])}
    return {
        "records_per_batch": records,
        "rows_per_s": round(records / medians["whole_s"]),
        **{name: round(seconds, 4) for name, seconds in medians.items()},
        "overhead_percent": round(statistics.median(overheads), 1),
        "overhead_percent_min": round(min(overheads), 1),
        "overhead_percent_max": round(max(overheads), 1),
    }


def report_head(rounds: int) -> None:
    print(f"exactly_once_overhead: {BATCHES} batches, median of {rounds} rounds, overhead within a round to plain")
    heads = "".join(f"{head:>9}" for head in ("s/batch", "CPU s", *PHASES))
    print(f"{'sink':<12}{'way':<8}{'k rows/s':>9}{heads}{'overhead':>10}{'[min to max]':>18}", flush=True)


def report(sink: str, figures: Mapping[str, Mapping[str, float]]) -> None:
    """The table's lines of one sink."""
    for way, one in figures.items():
        seconds = "".join(f"{one[name]:>9.3f}" for name in ("whole_s", "cpu_s", *(f"{each}_s" for each in PHASES)))
        line = f"{sink:<12}{way:<8}{one['rows_per_s'] / 1000:>9,.0f}{seconds}"
        if way != PLAIN:
            spread = f"[{one['overhead_percent_min']:+.1f} to {one['overhead_percent_max']:+.1f}]"
            line += f"{one['overhead_percent']:>+9.1f}%{spread:>18}"
        print(line, flush=True)


MEASURE = f"{Path(__file__).stem}:{measure.__name__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sinks", nargs="+", choices=list(SINKS), default=list(SINKS), metavar="SINK")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_s", type=float, default=1.0, help="how long a batch of plain writes is to take")
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    flags = parser.parse_args()
    sinks = []
    for name in flags.sinks:
        server = SINKS[name].server
        if server is None or server in os.environ:
            sinks.append(name)
        else:
            print(f"{name} is left out: {server} is not set", file=sys.stderr)
    report_head(flags.rounds)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with support.filled_broker(support.RECORDS) as source:
        for name in sinks:
            records = records_for(name, source, flags.batch_s)
            samples: dict[str, list[Batches]] = {way: [] for way in SINKS[name].ways}
            for _ in track(range(flags.rounds), name, console=Console(stderr=True), transient=True):
                for way, of_way in samples.items():
                    of_way.append(Batches(**support.apart(MEASURE, asdict(Run(name, way, source, records, BATCHES)))))
            figures[name] = {way: figures_of(records, samples[PLAIN], of_way) for way, of_way in samples.items()}
            report(name, figures[name])
    if flags.json:
        print(json.dumps({"benchmark": "exactly_once_overhead", "rounds": flags.rounds, "sinks": figures}))


if __name__ == "__main__":
    main()
