"""How long a stream takes to go on after SIGKILL: from the start of its process to its first new commit.

    python benchmarks/restart.py [--kills 7] [--batches 0] [--claims 0] [--s3]
    python tests/services/run.py s3 -- python benchmarks/restart.py --s3 --batches 10000 --claims 5000

The ready-made pipeline of files reads a backlog in batches of 2,000 records, and is killed behind its second new marker; then it
is started again. Kafka is librdkafka's mock broker; the locations are on the local disk, or in a new bucket of
``$S3_ENDPOINT_URL``. *start* is the time until the first new marker is listed, imports included; *batch* that from there to the
second; *cpu* what the process used until it was killed; *imports* is of a process that imports the pipeline and ends. With
``--batches`` and ``--claims`` the checkpoint then gets that many markers with their plans, and claims, and all is measured again.
"""

from __future__ import annotations

import argparse
import os
import resource
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import boto3

from beam_exactly_once.checkpoint import Attempt, Checkpoint
from beam_exactly_once.checkpoint.records import WriterClaim
from beam_exactly_once.object_store import open_object_store
from support import PATIENCE_S, TOPIC, filled_broker

PIPELINE = "beam_exactly_once.pipelines.kafka_to_files"
BATCH = 2000
POLL_S = 0.005


@dataclass(frozen=True)
class Start:
    """What one life of the stream took."""

    start_s: float
    batch_s: float
    cpu_s: float


def cpu_s_of(run: Callable[[], object]) -> float:
    """CPU time of the children that end while ``run`` does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def newest(checkpoint: Checkpoint, above: int) -> int:
    """Of its markers; ``above`` if there is none above it."""
    return max(checkpoint.marker_ids(above=above), default=above)


def one_start(command: list[str], checkpoint: Checkpoint | None, location: str) -> Start:
    """Start the stream, and kill it behind its second new commit."""
    before = -1 if checkpoint is None else newest(checkpoint, -1)
    commits_s: list[float] = []

    def live() -> None:
        found, opened = before, checkpoint
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while len(commits_s) < 2:
                opened = opened or Checkpoint.open_existing(open_object_store(location))
                now = found if opened is None else newest(opened, found)
                commits_s.extend([time.perf_counter()] * (now - found))
                found = now
                if process.poll() is not None or time.perf_counter() - began_s > PATIENCE_S:
                    raise RuntimeError(f"the stream ended, or stands still, behind batch {found}")
                time.sleep(POLL_S)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    began_s = time.perf_counter()
    cpu_s = cpu_s_of(live)
    return Start(commits_s[0] - began_s, commits_s[1] - commits_s[0], cpu_s)


def lengthen(checkpoint: Checkpoint, batches: int, claims: int) -> None:
    """Give the checkpoint markers of batches that read nothing, and claims."""
    last = newest(checkpoint, -1)
    marker, plan = checkpoint.read_marker(last), checkpoint.read_plan(last)
    assert marker is not None
    assert plan is not None
    idle = {
        name: replace(one, ranges=(), next_offsets=marker.sources[name].next_offsets)
        for name, one in plan.sources.items()
    }
    nothing = {name: replace(one, records_read=0, bytes_read=0) for name, one in marker.sources.items()}
    epoch = checkpoint.newest_writer_epoch()

    def add_batch(batch_id: int) -> None:
        attempt = Attempt(epoch, batch_id, secrets.token_hex(8))
        planned = replace(plan, batch_id=batch_id, sources=idle)
        checkpoint.create_plan(planned)
        checkpoint.create_marker(
            replace(
                marker,
                batch_id=batch_id,
                attempt=attempt,
                sources=nothing,
                committables={},
                plan_digest=planned.digest,
            )
        )

    def add_claim(number: int) -> None:
        checkpoint.create_writer(WriterClaim(epoch + 1 + number, "nobody", marker.committed_at_ms))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(add_batch, range(last + 1, last + 1 + batches)))
        list(pool.map(add_claim, range(claims)))


def show(title: str, starts: list[Start]) -> None:
    """Medians, and the extremes of the start."""
    start_s = sorted(one.start_s for one in starts)
    batch_s, cpu_s = (statistics.median(getattr(one, name) for one in starts) for name in ("batch_s", "cpu_s"))
    print(
        f"{title:<36}start {statistics.median(start_s):.2f} s [{start_s[0]:.2f}-{start_s[-1]:.2f}]  "
        f"batch {batch_s * 1000:.0f} ms  cpu {cpu_s:.2f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=7)
    parser.add_argument(
        "--batches", type=int, default=0, help="markers that the checkpoint gets, for a second measurement"
    )
    parser.add_argument("--claims", type=int, default=0, help="the same of claims")
    parser.add_argument("--s3", action="store_true")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, filled_broker((2 * flags.kills + 4) * 4 * BATCH) as bootstrap_servers:
        root = folder
        if flags.s3:
            bucket = f"restart-{secrets.token_hex(4)}"
            boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"]).create_bucket(Bucket=bucket)
            root = f"s3://{bucket}"
        location = f"{root}/checkpoint"
        command = [sys.executable, "-m", PIPELINE, f"--bootstrap-servers={bootstrap_servers}", f"--topics={TOPIC}"]
        command += [f"--checkpoint-location={location}", f"--output-location={root}/output"]
        command += [f"--max-batch-offsets={BATCH}", f"--retain-batches={flags.batches + 1000}"]
        imports = [sys.executable, "-c", f"import {PIPELINE}"]
        began_s = time.perf_counter()
        cpu_s = cpu_s_of(lambda: subprocess.run(imports, check=True, stderr=subprocess.DEVNULL))
        print(f"{'imports':<36}      {time.perf_counter() - began_s:.2f} s  cpu {cpu_s:.2f} s")
        show("the first of all", [one_start(command, None, location)])
        checkpoint = Checkpoint.open_existing(open_object_store(location))
        assert checkpoint is not None
        show(f"{flags.kills} kills", [one_start(command, checkpoint, location) for _ in range(flags.kills)])
        if flags.batches or flags.claims:
            lengthen(checkpoint, flags.batches, flags.claims)
            title = f"{flags.batches} batches and {flags.claims} claims more"
            show(title, [one_start(command, checkpoint, location) for _ in range(flags.kills)])


if __name__ == "__main__":
    main()
