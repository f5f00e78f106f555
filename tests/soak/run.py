"""A stream from a real Kafka to an S3 server under steady input, whose parts are killed, frozen and doubled one after the other.

    python tests/services/run.py kafka s3 prism -- python tests/soak/run.py --runner prism --minutes 10 --seed 1
    python tests/services/run.py kafka s3 -- python tests/soak/run.py --runner flink --trigger continuous

On Flink it has a cluster of its own, of two task managers. Every ``--fault-every-s`` seconds one part is lost: a worker, a
worker pool, the driver, Prism, a task manager, the job manager, the job server. What was killed is started again after three
seconds, a driver at once. Or the driver is frozen while another one goes on, and woken; or a second one is started beside it.

In the end every record that was sent is published once, and nothing else is visible. Each fault is told with the time until
the next batch was published, and the longest time without one until the next fault, beside what that may be: 5 s for a worker,
20 s for a task manager, 30 s for anything else. The next fault comes when its time has come and a batch was published behind
that: so a pause is that of the fault which made it. Exits with 1 if a record is lost or doubled, a driver ends as it should
not, or a fault took too long; with ``--untimed`` however long it took. The seed draws the order of the faults; when, the
machine decides.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import boto3
from confluent_kafka.admin import AdminClient, NewTopic

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its names are its own

from beam_exactly_once import read_batches
from soak.drivers import Drivers, clock_time
from soak.parts import Break, Place, flink, limit_s, prism
from soak.published import Publishes, faults, numbers_in, pauses
from soak.sending import Sender

PARTITIONS = 4
FIRST_BATCHES = 3
"""So many are published before the first fault."""
WAIT_S = 300.0
TRIGGERS = {"batches": "processing_time=1", "continuous": "continuous=1"}


@dataclass(frozen=True)
class Fault:
    """What was done, and how the stream went on."""

    at: str
    """When: the time in the log of the drivers."""
    name: str
    next_s: float
    """Until the next publish."""
    longest_s: float
    """Without a publish, until the next fault."""

    @property
    def is_late(self) -> bool:
        """Whether it went on too late."""
        return self.longest_s > limit_s(self.name)

    def __str__(self) -> str:
        took = f"next publish {self.next_s:6.1f} s  longest pause {self.longest_s:6.1f} s of {limit_s(self.name):g} s"
        return f"{self.at} {self.name:15} {took}{'  TOO LONG' if self.is_late else ''}"


def main() -> int:
    given = _arguments()
    print(f"seed {given.seed}", flush=True)
    topic, bucket = f"soak-{secrets.token_hex(4)}", f"soak-{secrets.token_hex(4)}"
    _make(topic, bucket)
    location = f"s3://{bucket}"
    log = Path(tempfile.gettempdir()) / f"beam-exactly-once-{topic}.txt"
    with _place(given) as place:
        flags = [
            f"--bootstrap-servers={os.environ['KAFKA_BOOTSTRAP_SERVERS']}",
            f"--topics={topic}",
            f"--output-location={location}/output",
            f"--checkpoint-location={location}/checkpoint",
            f"--trigger={TRIGGERS[given.trigger]}",
            *place.flags,
        ]
        publishes = Publishes(f"{location}/output")
        with Drivers(flags, log) as drivers:
            sender = Sender(os.environ["KAFKA_BOOTSTRAP_SERVERS"], topic, given.records_per_s)
            done = list(_break(place, drivers, publishes, given))
            sent = sender.end()
            _wait_read(location, sent)
            drivers.end()
        publishes.end()
    found, orphans = numbers_in(f"{location}/output")
    wrong = [*faults(sent, found, orphans), *drivers.faults]
    _tell(done)
    rate = f"{sent:,} records at {given.records_per_s:,}/s, {len(publishes.at_s)} batches"
    what = f"{len(done)} faults, {drivers.starts} starts of drivers"
    load = f"load of the machine in the last 5 minutes {os.getloadavg()[1]:.0f} on {os.cpu_count()} cores"
    print(f"seed {given.seed}, {given.runner}, {given.trigger}: {rate}, {what}, {load}")
    print("; ".join(wrong) or "0 lost, 0 twice, 0 orphans: each record is published once, and nothing else is visible")
    if not wrong:
        log.unlink()
    late = sum(fault.is_late for fault in done)
    if late:
        print(f"{late} of {len(done)} faults took longer than they may")
    return 1 if wrong or (late and not given.untimed) else 0


def _tell(done: Sequence[Fault]) -> None:
    """A table: each kind of fault, how often, and the longest pauses."""
    print(
        f"\n{'fault':15} {'times':>5} {'next publish: median, most':>28} {'longest pause: median, most':>29} {'limit':>6}"
    )
    for name in sorted({fault.name for fault in done}):
        of_name = [fault for fault in done if fault.name == name]
        figures = [[fault.next_s for fault in of_name], [fault.longest_s for fault in of_name]]
        said = [f"{statistics.median(one):.1f} s, {max(one):.1f} s" for one in figures]
        print(f"{name:15} {len(of_name):5} {said[0]:>28} {said[1]:>29} {limit_s(name):4.0f} s")


def _wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not is_so():
        if time.monotonic() > deadline_s:
            raise AssertionError(what)
        time.sleep(0.1)


def _wait_read(location: str, sent: int) -> None:
    """Until as many rows are published as were sent, or it takes too long: then what is published says what is missing."""
    rows, batch_id, deadline_s = 0, None, time.monotonic() + WAIT_S
    while rows < sent and time.monotonic() < deadline_s:
        for batch in read_batches(f"{location}/output", after_batch_id=batch_id):
            rows, batch_id = rows + sum(file.rows for file in batch.files), batch.batch_id
        time.sleep(0.5)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runner", choices=["prism", "flink"], default="prism")
    parser.add_argument("--trigger", choices=list(TRIGGERS), default="batches")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--records-per-s", type=int, default=20_000)
    parser.add_argument("--fault-every-s", type=float, default=30.0)
    parser.add_argument("--parallelism", type=int, default=1, help="of a job on Flink")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--untimed", action="store_true", help="a fault may take as long as it takes")
    return parser.parse_args()


def _place(given: argparse.Namespace) -> AbstractContextManager[Place]:
    return prism(os.environ["PRISM_LOCATION"]) if given.runner == "prism" else flink(given.parallelism)


def _make(topic: str, bucket: str) -> None:
    boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"]).create_bucket(Bucket=bucket)
    admin = AdminClient({"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"]})
    for made in admin.create_topics([NewTopic(topic, PARTITIONS)]).values():
        made.result(WAIT_S)


def _break(place: Place, drivers: Drivers, publishes: Publishes, given: argparse.Namespace) -> Iterator[Fault]:
    """Do one thing after the other; the next one only when the stream has gone on behind the last one."""
    chance = random.Random(given.seed)
    _wait_until(lambda: len(publishes.at_s) >= FIRST_BATCHES, "the stream does not begin")
    ends_s = time.monotonic() + 60 * given.minutes
    for name, do in _drawn(place.faults, chance):
        if time.monotonic() > ends_s:
            return
        mend = do(drivers, chance)
        at_s, at = time.monotonic(), clock_time()
        mend()
        _wait_gone_on(publishes, at_s, name)
        time.sleep(max(0.0, at_s + given.fault_every_s - time.monotonic()))
        _wait_gone_on(publishes, time.monotonic(), name)
        fault = Fault(at, name, *pauses(list(publishes.at_s), at_s))
        print(fault, flush=True)
        time.sleep(chance.random())  # else each fault would meet a batch at its begin
        yield fault


def _wait_gone_on(publishes: Publishes, at_s: float, fault: str) -> None:
    _wait_until(lambda: publishes.have_gone_on(at_s), f"the stream does not go on behind a fault: {fault}")


def _drawn(faults_: Mapping[str, Break], chance: random.Random) -> Iterator[tuple[str, Break]]:
    """Each of them, in any order, then each again, without end."""
    for _ in itertools.count():
        yield from chance.sample(list(faults_.items()), len(faults_))


if __name__ == "__main__":
    sys.exit(main())
