"""What the benchmarks share: a filled broker in a process of its own, the raw client loop, rounds and tables.

Every measurement runs in a fresh process, so that no way of reading inherits another's heap, caches or imports; the raw
loop runs without Beam in its process, whose heap would make the garbage collector cost it a third more. Ways are run in
turn, round after round, and compared within a round: other work on the machine then hits all of them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from beam_exactly_once.kafka import EmbeddedBroker

TOPIC = "orders"
PARTITIONS = 12
RECORDS = 2_400_000
VALUE_BYTES = 100
PRODUCE_AT_ONCE = 10_000
RAW_CONSUME = 1000
RAW_CONFIG = {
    "group.id": "raw",
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "fetch.queue.backoff.ms": 10,
    "fetch.wait.max.ms": 50,
}
PATIENCE_S = 300.0

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Source:
    """What a way of reading is given."""

    bootstrap_servers: str
    records: int
    work_dir: str
    """An empty folder, removed afterwards."""


@dataclass(frozen=True)
class Sample:
    """One measurement of one way."""

    seconds: float
    """From the call that runs until its return; building the pipeline is not counted."""
    cpu_seconds: float
    """Of the whole process while it ran, the client's threads included."""
    peak_mb: float


Way: TypeAlias = Callable[[Source], Callable[[], int]]
"""Prepares a run; what it returns runs it, and says how many records came. A function of a benchmark's module."""


@contextmanager
def repeating(act: Callable[[], None], every_s: float) -> Iterator[None]:
    """Act every so many seconds while the block is open, in a thread of its own."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(every_s):
            act()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# -- the broker ----------------------------------------------------------------------------------------------------


@contextmanager
def filled_broker(records: int) -> Iterator[str]:
    """A broker in a process of its own that holds ``records`` records of 100 bytes; gives its address.

    Raises:
        RuntimeError: it does not hold them all.
    """
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(theirs, records), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(PATIENCE_S):
            raise RuntimeError(f"the broker was not filled in {PATIENCE_S:g} s")
        yield ours.recv()
    finally:
        ours.close()  # ends the process
        process.join()


def _serve(parent: Connection, records: int) -> None:
    with EmbeddedBroker({TOPIC: PARTITIONS}) as broker:
        _fill(broker.bootstrap_servers, records)
        parent.send(broker.bootstrap_servers)
        parent.poll(None)


def _fill(bootstrap_servers: str, records: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers, "compression.type": "lz4", "linger.ms": 50})
    for first in range(0, records, PRODUCE_AT_ONCE):
        batch = [_message(number) for number in range(first, min(first + PRODUCE_AT_ONCE, records))]
        producer.produce_batch(TOPIC, batch, partition=first // PRODUCE_AT_ONCE % PARTITIONS)
        if producer.flush(PATIENCE_S):
            raise RuntimeError("the broker does not take the records")
    with closing_consumer(bootstrap_servers) as consumer:
        held = [
            consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=10)
            for partition in range(PARTITIONS)
        ]
    if any(low for low, _ in held) or sum(high for _, high in held) != records:
        raise RuntimeError(f"the broker holds {held} instead of {records} records: it drops above 5 MiB a partition")


def _message(number: int) -> dict[str, bytes]:
    value = b'{"id":%d,"customer":%d,"paid":%s' % (number, number % 9973, b"true" if number % 3 else b"false")
    return {"key": b"%07d" % number, "value": value + b',"note":"' + b"." * (VALUE_BYTES - len(value) - 11) + b'"}'}


# -- the yardstick -------------------------------------------------------------------------------------------------


@contextmanager
def closing_consumer(bootstrap_servers: str) -> Iterator[Consumer]:
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, **RAW_CONFIG})
    try:
        yield consumer
    finally:
        consumer.close()


def raw(source: Source) -> Callable[[], int]:
    """``Consumer.consume(1000)`` of all partitions, a 5-tuple a record: what a loop without Beam would do."""

    def run() -> int:
        count = 0
        with closing_consumer(source.bootstrap_servers) as consumer:
            consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(PARTITIONS)])
            while count < source.records:
                messages: list[Message] = consumer.consume(RAW_CONSUME, 1.0)
                rows = [(one.topic(), one.partition(), one.offset(), one.key(), one.value()) for one in messages]
                count += len(rows)
        return count

    return run


# -- rounds and tables ---------------------------------------------------------------------------------------------


def compare(ways: Sequence[str], bootstrap_servers: str, records: int, rounds: int) -> dict[str, list[Sample]]:
    """Measure each way, named ``module:function``, in turn, ``rounds`` times."""
    samples: dict[str, list[Sample]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            with tempfile.TemporaryDirectory() as work_dir:
                source = asdict(Source(bootstrap_servers, records, work_dir))
                samples[way].append(Sample(**apart("support:measure", {"way": way, "source": source})))
    return samples


def apart(function: str, argument: Any) -> Any:
    """What ``function``, named ``module:function``, gives for ``argument`` in a fresh process; both travel as JSON."""
    command = [sys.executable, __file__, function, json.dumps(argument)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=PATIENCE_S)
    return json.loads(done.stdout.splitlines()[-1])


def _named(function: str) -> Callable[[Any], Any]:
    module, _, name = function.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return found


def measure(argument: dict[str, Any]) -> dict[str, Any]:
    """Run a way once, in this process: the :class:`Sample` as JSON."""
    way, source = _named(argument["way"]), Source(**argument["source"])
    run = way(source)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    count = run()
    seconds, cpu_seconds = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    if count != source.records:
        raise RuntimeError(f"{count} records came instead of {source.records}")
    return asdict(Sample(seconds, cpu_seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def report(title: str, records: int, samples: dict[str, list[Sample]], *, as_json: bool) -> None:
    """A table, ratios against the first way, and one JSON line if asked for."""
    base = next(iter(samples.values()))
    figures = {way.partition(":")[2]: _figure(records, base, of_way) for way, of_way in samples.items()}
    print(f"{title}: {records:,} records, median of {len(base)} rounds, ratio within a round to the first line")
    print(f"{'way':<30}{'k records/s':>12}{'ratio':>8}{'[min-max]':>12}{'CPU s/M':>10}{'peak MB':>9}")
    for name, figure in figures.items():
        spread = f"{figure['ratio_min']:.2f}-{figure['ratio_max']:.2f}"
        print(
            f"{name:<30}{figure['records_per_s'] / 1000:>12,.0f}{figure['ratio']:>8.2f}{spread:>12}"
            f"{figure['cpu_s_per_million']:>10.2f}{figure['peak_mb']:>9.0f}"
        )
    if as_json:
        print(json.dumps({"benchmark": title, "records": records, "rounds": len(base), "ways": figures}))


def _figure(records: int, base: Sequence[Sample], of_way: Sequence[Sample]) -> dict[str, float]:
    ratios = [one.seconds / sample.seconds for one, sample in zip(base, of_way, strict=True)]
    return {
        "records_per_s": round(records / statistics.median(sample.seconds for sample in of_way)),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "cpu_s_per_million": round(statistics.median(one.cpu_seconds for one in of_way) / records * 1e6, 3),
        "peak_mb": round(max(sample.peak_mb for sample in of_way)),
    }


def run_throughput(title: str, description: str | None, ways: Sequence[Way]) -> None:
    """Compare ``ways`` with the raw loop, as the command line says. Each is a function of module ``title``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=None, metavar="WAY", help="these besides the raw loop")
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    flags = parser.parse_args()
    names = [way.__name__ for way in ways]
    chosen = [f"{title}:{name}" for name in names if flags.only is None or name in flags.only]
    with filled_broker(flags.records) as bootstrap_servers:
        samples = compare(["support:raw", *chosen], bootstrap_servers, flags.records, flags.rounds)
    report(title, flags.records, samples, as_json=flags.json)


if __name__ == "__main__":
    print(json.dumps(_named(sys.argv[1])(json.loads(sys.argv[2]))))
