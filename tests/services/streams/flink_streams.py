"""Streams on Flink for tests: the options, a program whose batch waits to be let on, and what came out."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import read_batches
from beam_exactly_once.errors import EXIT_DONE, EXIT_RETRYABLE, BeamExactlyOnceError
from beam_exactly_once.object_store import open_object_store

WAIT_S = 240.0
MAX_STARTS = 4
BATCH_TIMEOUT_S = 600
"""Beyond what a test waits: a machine that is busy is no reason to give a batch up."""
ROWS = pa.schema([("value", pa.string())])


def cluster_options(master: str, worker_pool: str, job_server_jar: str, parallelism: int = 2) -> list[str]:
    """Of a cluster with Python workers beside every task manager."""
    return [
        "--runner=FlinkRunner",
        f"--flink_master={master}",
        f"--flink_job_server_jar={job_server_jar}",
        "--environment_type=EXTERNAL",
        f"--environment_config={worker_pool}",
        f"--parallelism={parallelism}",
        "--environment_cache_millis=0",  # a worker that is kept for longer leaves a thread in its task manager
    ]


def local_options(job_server_jar: str) -> list[str]:
    """Of a Flink inside the job server, with workers in the driver."""
    return ["--runner=FlinkRunner", "--flink_master=[local]", f"--flink_job_server_jar={job_server_jar}"]


def shared_options(master: str, job_endpoint: str) -> list[str]:
    """Of a cluster and a job server that others use at the same time, with workers in the driver."""
    return [
        "--runner=FlinkRunner",
        f"--flink_master={master}",
        f"--job_endpoint={job_endpoint}",
        "--environment_type=LOOPBACK",
        "--parallelism=1",
        "--environment_cache_millis=0",
    ]


class Gate:
    """Batches wait in front of it on the workers, until it is opened.

    Args:
        folder: where a worker says that it waits, and sees that the gate is open.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def wait_reached(self, driver: subprocess.Popen[bytes]) -> None:
        """Wait until a batch stands there."""
        wait_until(lambda: any(self.folder.glob("reached-*")), driver)

    def kill_waiting(self) -> None:
        """SIGKILL one of the workers whose batch stands there."""
        os.kill(int(next(self.folder.glob("reached-*")).name.partition("-")[2]), signal.SIGKILL)

    def open(self) -> None:
        """Let all through, now and later."""
        (self.folder / "open").touch()


def waiting_at(folder: str) -> Callable[[Any], Any]:
    """A step for workers, which have not this module: it brings all it needs."""
    wait_s = WAIT_S

    def wait(record: Any) -> Any:
        import os
        import pathlib
        import time

        gate, deadline_s = pathlib.Path(folder), time.monotonic() + wait_s
        while not (gate / "open").exists():
            (gate / f"reached-{os.getpid()}").touch()
            if time.monotonic() > deadline_s:
                raise TimeoutError("nobody opened the gate")
            time.sleep(0.05)
        return record

    return wait


def wait_until(is_so: Callable[[], bool], driver: subprocess.Popen[bytes] | None = None) -> None:
    """Bounded; fails at once if the driver has ended."""
    deadline_s = time.monotonic() + WAIT_S
    while not is_so():
        assert driver is None or driver.poll() is None, f"the driver ended with {driver.returncode}"
        assert time.monotonic() < deadline_s, "it did not come so"
        time.sleep(0.05)


def gated_command(bootstrap_servers: str, topic: str, bucket: str, gate: Gate, options: Sequence[str]) -> list[str]:
    """Runs this file as a driver."""
    places = [
        f"--output-location={bucket}/output",
        f"--checkpoint-location={bucket}/checkpoint",
        f"--gate={gate.folder}",
    ]
    return [sys.executable, __file__, f"--bootstrap-servers={bootstrap_servers}", f"--topic={topic}", *places, *options]


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A driver, which is killed in the end if it still runs."""
    with subprocess.Popen(command, start_new_session=True) as driver:
        try:
            yield driver
        finally:
            driver.kill()


def run_until_done(command: list[str]) -> None:
    """As a supervisor would: start again after exit code 75, a few times."""
    for _ in range(MAX_STARTS):
        code = subprocess.run(command, check=False, timeout=2 * WAIT_S).returncode
        if code != EXIT_RETRYABLE:
            assert code == EXIT_DONE, f"the driver ended with {code}"
            return
    raise AssertionError(f"the driver asked to be started again {MAX_STARTS} times")


def values(bucket: str, column: str = "value") -> Counter[bytes]:
    """Of all files that manifests name, JSON or Parquet."""
    import pyarrow.parquet as pq

    store = open_object_store(f"{bucket}/output")
    found: Counter[bytes] = Counter()
    for batch in read_batches(f"{bucket}/output"):
        for file in batch.files:
            body = store.get(file.uri.removeprefix(f"{store.uri}/"))
            assert body is not None
            if file.uri.endswith(".parquet"):
                found.update(pq.read_table(pa.BufferReader(body))[column].to_pylist())
            else:
                found.update(orjson.loads(line)[column].encode() for line in body.splitlines())
    return found


def task_managers_that_ran(master: str) -> set[str]:
    """Those that a job of this cluster has run on."""

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://{master}{path}", timeout=10.0) as answer:
            return orjson.loads(answer.read())

    found: set[str] = set()
    for job in ask("/jobs")["jobs"]:
        for vertex in ask(f"/jobs/{job['id']}")["vertices"]:
            for manager in ask(f"/jobs/{job['id']}/vertices/{vertex['id']}/taskmanagers")["taskmanagers"]:
                found.add(manager.get("taskmanager-id") or manager["host"])
    return found


def main(argv: Sequence[str]) -> int:
    """The driver: a topic through the gate to JSON files."""
    import apache_beam as beam

    from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles

    parser = argparse.ArgumentParser()
    for name in ("bootstrap-servers", "topic", "output-location", "checkpoint-location", "gate"):
        parser.add_argument(f"--{name}")
    flags, beam_flags = parser.parse_known_args(argv)
    try:
        with ExactlyOnceStream(
            flags.checkpoint_location, options=PipelineOptions(beam_flags), batch_timeout_s=BATCH_TIMEOUT_S
        ) as stream:
            _ = (
                stream
                | ReadFromKafka(flags.bootstrap_servers, [flags.topic])
                | "Gate" >> beam.Map(waiting_at(flags.gate))
                | beam.Map(lambda record: {"value": record.value.decode()})
                | WriteToFiles(flags.output_location, format="json", schema=ROWS)
            )
    except BeamExactlyOnceError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
