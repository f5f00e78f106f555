"""Lives of a stream, each a process of its own that may be killed or frozen after any call to a store.

The processes are forked from a clean server that has imported everything and started nothing, so a life costs
fractions of a second, and a SIGKILL or SIGSTOP is a real one.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeAlias

import apache_beam as beam
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

import support.beam.done_once  # noqa: F401
from beam_exactly_once import DecodeRecords, ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles, read_batches
from beam_exactly_once.errors import BeamExactlyOnceError
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching

LIFE_TIMEOUT_S = 240.0
OFFSETS_PER_BATCH = 12

# The fork server imports by its own path, which knows nothing of pytest's.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["support.lives", "support.wal.streams"])


def cluster() -> MemoryKafka:
    """30 offsets: gaps at the start, in the middle and at the end, a 1-record partition, one with gaps alone, nulls."""
    kafka = MemoryKafka({"orders": 4})
    kafka.skip("orders", 0, 2)
    kafka.append(Record("orders", 0, key=None, value=b"0-%d" % number) for number in range(8))
    kafka.skip("orders", 0, 3)
    kafka.append(Record("orders", 0, key=b"\xff\xfe", value=b"0-%d" % number) for number in range(8, 12))
    kafka.skip("orders", 0, 2)
    kafka.append([Record("orders", 1, key=b"k", value=b"1-0", headers=(("h", None),))])
    kafka.skip("orders", 2, 5)
    kafka.append(Record("orders", 3, value=b"3-%d" % number) for number in range(5))
    return kafka


def expected() -> list[bytes]:
    """Values of all records that :func:`cluster` holds."""
    kafka = cluster()
    return sorted(
        record.value or b""
        for place in kafka.partitions_of("orders")
        for record in kafka.records_of(place, 0, 1000, 1000)
    )


Build: TypeAlias = Callable[[ExactlyOnceStream, str], None]
"""Applies a graph to a stream; everything is written below the folder."""


def one_file(stream: ExactlyOnceStream, work_dir: str) -> None:
    """Every bundle writes one file."""
    _ = _records(stream, as_arrow=True) | WriteToFiles(f"{work_dir}/output")


def folders(stream: ExactlyOnceStream, work_dir: str) -> None:
    """Every bundle writes a file a partition of the topic."""
    _ = _records(stream, as_arrow=True) | WriteToFiles(f"{work_dir}/output", partition_by=["topic", "partition"])


def rejecting(stream: ExactlyOnceStream, work_dir: str) -> None:
    """What a decoder and what a sink cannot take goes to two more sinks."""
    rows, undecodable = _records(stream, as_arrow=False) | DecodeRecords(without_threes, on_error="reject")
    unfit = rows | "Write" >> WriteToFiles(f"{work_dir}/output", name="files", schema=KEYED, on_error="reject")
    _ = undecodable | "Undecodable" >> WriteToFiles(f"{work_dir}/undecodable", name="undecodable")
    _ = unfit | "Unfit" >> WriteToFiles(f"{work_dir}/unfit", name="unfit")


KEYED = pa.schema([("key", pa.string()), ("value", pa.binary())])


def without_threes(record: Record) -> Record:
    """Refuses values that end in 3."""
    if (record.value or b"").endswith(b"3"):
        raise ValueError("it ends in 3")
    return record


def _records(stream: ExactlyOnceStream, *, as_arrow: bool) -> beam.PCollection[Any]:
    return stream | ReadFromKafka("memory:9092", ["orders"], max_batch_offsets=OFFSETS_PER_BATCH, as_arrow=as_arrow)


def live(work_dir: str, kill_after: str | None, freeze: bool, log: str | None, build: Build) -> None:
    """One life, in its own process: run the stream to its end, or to the kill point."""
    number = signal.SIGSTOP if freeze else signal.SIGKILL
    point = None if kill_after is None else KillPoint.parse(kill_after)
    calls = StoreCalls(point, lambda: os.kill(os.getpid(), number))
    code = 0
    try:
        with cluster().serving(), watching(calls), ExactlyOnceStream(f"{work_dir}/checkpoint") as stream:
            build(stream, work_dir)
    except BeamExactlyOnceError as error:
        Path(f"{work_dir}/error").write_text(f"{type(error).__name__}: {error}")
        code = error.exit_code
    if log is not None:
        Path(log).write_text("".join(f"{method} {key}\n" for method, key in calls.log))
    os._exit(code)


class Life:
    """A running life."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    def wait(self) -> int:
        """Its exit code; negative for a signal."""
        self._process.join(LIFE_TIMEOUT_S)
        assert self._process.exitcode is not None, f"no end after {LIFE_TIMEOUT_S} s"
        return self._process.exitcode

    def wait_frozen(self) -> bool:
        """Wait until it is frozen; False when it ended instead."""
        while True:
            self._process.join(0.01)
            if self._process.exitcode is not None:
                return False
            if psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED:
                return True

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


@contextmanager
def life(
    work_dir: Path,
    *,
    kill_after: str | None = None,
    freeze: bool = False,
    log: Path | None = None,
    build: Build = one_file,
) -> Iterator[Life]:
    """Start a life; whatever becomes of the test, it ends."""
    arguments: tuple[Any, ...] = (str(work_dir), kill_after, freeze, None if log is None else str(log), build)
    with in_a_process(live, *arguments) as started:
        yield started


@contextmanager
def in_a_process(target: Callable[..., None], *arguments: Any) -> Iterator[Life]:
    """A function of a module in a process of its own, which ends with the block at the latest."""
    process = _CONTEXT.Process(target=_begin, args=(target, arguments))
    process.start()
    started = Life(process)
    try:
        yield started
    finally:
        started.kill()


def _begin(target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    gc.freeze()  # else each life goes through all that it shares with the fork server, and copies it
    target(*arguments)


def assert_exactly_once(work_dir: Path, *more_outputs: str) -> None:
    """By value: every record once over all outputs, in files that the manifests name, and nothing else is visible."""
    values: list[bytes] = []
    for output in ("output", *more_outputs):
        values += values_in(work_dir / output)
    assert sorted(values) == expected()


def values_in(output: Path) -> list[bytes]:
    """Values of all records that are visible in an output, and named by its manifests."""
    visible = sorted(path for path in output.rglob("*") if path.is_file() and path.parent.name != "_batches")
    named = sorted(Path(file.uri) for batch in read_batches(str(output)) for file in batch.files)
    assert visible == named
    return sorted(value for path in visible for value in pq.read_table(path)["value"].to_pylist())
