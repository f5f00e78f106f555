"""How long a record takes from its producer until it is visible, in streams of this library and of its peers.

    python benchmarks/peers/latency.py [--records-per-s 20000] [--seconds 10] [--peers pyspark] [--json] [--write]

A producer in a process of its own sends records that carry the moment at which they were sent. In files a record is visible
from the moment at which the list of its batch's files is there: this library's manifest, Spark's metadata log. In a topic it
is visible when a consumer has it that reads committed records. Records of the first seconds are left out: processes start.
A stream that has not shown nearly all records soon after the last one was sent fell behind, and is said to.

Kafka and environments are found or made as by run.py.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

sys.path[0] = str(Path(__file__).parents[1])  # as in run.py

from beam_exactly_once import read_batches  # noqa: E402
from peers.environments import CannotPrepare, python_of, variables, with_kafka  # noqa: E402
from peers.latency_report import Latency, table  # noqa: E402
from peers.measuring import ProgramFailed  # noqa: E402
from peers.page import put  # noqa: E402
from peers.ways import HERE, STREAM_WAYS, Environment, StreamWay  # noqa: E402

PARTITIONS = 4
VALUE_BYTES = 200
EVERY_S = 0.005
"""How often the producer sends."""
LAST_S = 10.0
"""How long records are waited for, once the last one was sent."""
FIRST_S = 120.0
"""How long a stream may take to show its first record."""


def send(bootstrap_servers: str, topic: str, records_per_s: int) -> None:
    """Records with the microsecond at which they were sent, until this process is ended."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "compression.type": "lz4", "linger.ms": 1})
    began_s, sent = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began_s) * records_per_s)
        for number in range(sent, due):
            producer.produce(
                topic, b"%016d" % (time.time() * 1e6) + b"." * (VALUE_BYTES - 16), partition=number % PARTITIONS
            )
        sent = due
        producer.poll(0)
        time.sleep(EVERY_S)


@contextmanager
def started(command: list[str], folder: Path, environment: Environment = HERE) -> Iterator[subprocess.Popen[bytes]]:
    """A process of which nothing is left in the end."""
    with Path(folder, "log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=variables(environment), stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # it may have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Seen:
    """When records of a sink became visible: arrays of microseconds, sent and visible."""

    def __init__(self) -> None:
        self.sent: list[np.ndarray] = []
        self.visible: list[np.ndarray] = []

    def add(self, values: Sequence[bytes], visible_us: float) -> None:
        """Records that became visible together."""
        self.sent.append(np.array([int(value[:16]) for value in values], dtype=np.float64))
        self.visible.append(np.full(len(values), visible_us))

    @property
    def last_us(self) -> float:
        """When the newest visible record was sent; 0 if there is none."""
        return max((float(sent.max()) for sent in self.sent if len(sent)), default=0.0)

    def between(self, first_us: float, last_us: float) -> np.ndarray:
        """Milliseconds that records took which were sent in this time."""
        if not self.sent:
            return np.array([])
        sent, visible = np.concatenate(self.sent), np.concatenate(self.visible)
        took_ms: np.ndarray = (visible - sent)[(sent >= first_us) & (sent < last_us)] / 1000
        return took_ms


class Topic(Seen):
    """What a consumer of committed records sees."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        super().__init__()
        config = {"bootstrap.servers": bootstrap_servers, "group.id": topic, "auto.offset.reset": "earliest"}
        self._consumer = Consumer({**config, "isolation.level": "read_committed", "fetch.wait.max.ms": 10})
        self._consumer.subscribe([topic])

    def look(self) -> None:
        """Take what is there."""
        messages = self._consumer.consume(1000, 0.01)
        values = [message.value() for message in messages if message.error() is None]
        self.add([value for value in values if value is not None], time.time() * 1e6)

    def finish(self) -> None:
        """No more will come."""
        self._consumer.close()


class Files(Seen):
    """What a reader of a folder sees, by its lists of files; the files are read in the end."""

    def __init__(self, output: Path) -> None:
        super().__init__()
        self._output = output
        self._lists = output / "_batches", output / "_spark_metadata"

    def look(self) -> None:
        """A list of files is enough to know that records are visible."""
        time.sleep(0.1)
        if not self.sent and any(any(folder.glob("[0-9]*")) for folder in self._lists):
            self.finish()

    def finish(self) -> None:
        """Read what the lists name, each with the moment at which its list was there."""
        self.sent, self.visible = [], []
        for visible_us, files in self._batches():
            for file in files:
                self.add(pq.read_table(file, columns=["value"])["value"].to_pylist(), visible_us)

    def _batches(self) -> Iterator[tuple[float, list[str]]]:
        manifests, log = self._lists
        if manifests.exists():
            for batch in read_batches(str(self._output)):
                manifest = manifests / f"{batch.batch_id:020d}.json"
                yield manifest.stat().st_ctime * 1e6, [file.uri.removeprefix("file://") for file in batch.files]
        known: set[str] = set()
        for entry in sorted(log.glob("[0-9]*"), key=lambda file: int(file.name.split(".")[0])):
            files = {json.loads(line)["path"].removeprefix("file://") for line in entry.read_text().splitlines()[1:]}
            yield entry.stat().st_ctime * 1e6, sorted(files - known)
            known |= files


def measure(way: StreamWay, bootstrap_servers: str, records_per_s: int, seconds: float, warm_s: float) -> Latency:
    """Run one stream while a producer sends.

    Raises:
        CannotPrepare: its environment cannot be made.
        ProgramFailed: it ended, or showed nothing.
    """
    topic = f"latency-{secrets.token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for made in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in (topic, f"{topic}-out")]).values():
        made.result(60)
    with tempfile.TemporaryDirectory(prefix="peers") as name:
        folder = Path(name)
        program = str(Path(__file__).parent / "programs" / f"{way.program}.py")
        command = [str(python_of(way.environment)), program, bootstrap_servers, topic, topic, way.sink]
        seen = Topic(bootstrap_servers, f"{topic}-out") if way.sink == "kafka" else Files(folder / "output")
        sender = [sys.executable, __file__, "--send", bootstrap_servers, topic, str(records_per_s)]
        with started(command, folder, way.environment) as stream, started(sender, folder):
            _look(seen, stream, folder, until_s=time.time() + FIRST_S, first=True)
            first_us = (time.time() + warm_s) * 1e6
            last_us = first_us + seconds * 1e6
            _look(seen, stream, folder, until_s=last_us / 1e6)
            _look(seen, stream, folder, until_s=last_us / 1e6 + LAST_S if way.sink == "kafka" else time.time() + 2)
        seen.finish()
        took_ms = seen.between(first_us, last_us)
    p50, p99 = (float(one) for one in np.percentile(took_ms, [50, 99])) if len(took_ms) else (0.0, 0.0)
    return Latency(way.title, way.sink, way.guarantee, p50, p99, len(took_ms) / (records_per_s * seconds))


def _look(
    seen: Topic | Files, stream: subprocess.Popen[bytes], folder: Path, *, until_s: float, first: bool = False
) -> None:
    while time.time() < until_s:
        if stream.poll() is not None:
            raise ProgramFailed(f"{stream.args!r} ended:\n{Path(folder, 'log').read_text()[-3000:]}")
        seen.look()
        if first and seen.last_us:
            return
    if first:
        raise ProgramFailed(f"{stream.args!r} showed nothing:\n{Path(folder, 'log').read_text()[-3000:]}")


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write if asked to."""
    if argv and argv[0] == "--send":
        send(argv[1], argv[2], int(argv[3]))
    flags = _flags(argv)
    bootstrap_servers = flags.bootstrap_servers or os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if bootstrap_servers is None:
        return with_kafka([__file__, *argv])
    ways = [
        way
        for way in STREAM_WAYS
        if way.environment is HERE or flags.peers is None or way.environment.name in flags.peers
    ]
    found = []
    try:
        for way in ways:
            found.append(measure(way, bootstrap_servers, flags.records_per_s, flags.seconds, flags.warm_s))
            print(f"{way.title}, {way.sink}: {found[-1].median}", file=sys.stderr)
    except (CannotPrepare, ProgramFailed) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(table(found)))
    if flags.json:
        print(json.dumps({"records_per_s": flags.records_per_s, "ways": [vars(one) for one in found]}))
    if flags.write:
        peers = ["--peers", *flags.peers] if flags.peers is not None else []
        words = ["--records-per-s", str(flags.records_per_s), "--seconds", f"{flags.seconds:g}", *peers, "--write"]
        put(" ".join(["python benchmarks/peers/latency.py", *words]), table(found))
    return 0


def _flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap-servers")
    parser.add_argument("--records-per-s", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of which the records are counted")
    parser.add_argument("--warm-s", type=float, default=10.0, help="between a stream's first visible record and those")
    names = sorted({way.environment.name for way in STREAM_WAYS} - {HERE.name})
    parser.add_argument("--peers", nargs="*", choices=names, help="besides this library; all of them if not given")
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
