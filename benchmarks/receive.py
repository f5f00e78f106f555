"""What the receiver costs, each figure beside its bar.

    python benchmarks/receive.py [--only SECTION …] [--rounds 3] [--records 200000] [--dir DIR] [--json]

- ``single``: CPU seconds of the receiver for a million records of 200 bytes, one a request, each with an id; 64 connections.
- ``many``: the same with 100 records a request.
- ``answers``: how much later than after linger and PUT an answer comes, at 200 requests a second.
- ``claim``: requests to the store until a partition is claimed, behind 2,000 segments.
- ``start``: CPU seconds and seconds until a million ids are known.
- ``start-s3``: the same on an S3 server: ``tests/services/run.py s3 -- python benchmarks/receive.py --only start-s3 --rounds 1``.

Receiver and senders are processes of their own. Machines have other work, too: hence CPU time, and the median of rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.wal.ids import content_of, stored_id
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter
from support import apart

TOKEN = "a-token-for-benchmarks"
VALUE = b'{"id":"%012d","text":"' + b"x" * 163 + b'"}'
"""200 bytes."""
CONNECTIONS = 64
LINGER_S = 0.02
BARS = {
    "single": ("CPU s / M records", 45.0),
    "many": ("CPU s / M records", 3.0),
    "claim": ("requests", 5.0),
    "answers": ("ms, p50", None),
    "start": ("CPU s", None),
    "start-s3": ("CPU s", 2.0),
}
NEED_A_SERVER = ("start-s3",)


# -- a receiver ----------------------------------------------------------------------------------------------------


@contextmanager
def receiver(location: str, linger_s: float = 0.0) -> Iterator[tuple[psutil.Process, int]]:
    """A process that listens, and its port."""
    token = Path(location).parent / "token"
    token.write_text(TOKEN)
    command = [sys.executable, "-m", "beam_exactly_once", "wal", "receive", location, "--listen=127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, f"--token=${{file:{token}}}", f"--linger-s={linger_s}"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        yield psutil.Process(process.pid), int(said.split()[2].rpartition(":")[2])
    finally:
        process.terminate()
        process.wait()


def metric(port: int, name: str) -> float:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.split()[0].endswith(name)))


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# -- senders -------------------------------------------------------------------------------------------------------


class Sender(asyncio.Protocol):
    """One connection: sends a request when the one before is answered."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._done = done
        self._answer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not data.endswith(b"}"):
            return
        if not self._answer.startswith(b"HTTP/1.1 200"):
            self._done.set_exception(AssertionError(self._answer))
        self._answer = b""
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._done.set_result(None)
            self._transport.close()
        else:
            self._transport.write(request)


def request(first: int, records: int) -> bytes:
    body = b"\n".join(VALUE % number for number in range(first, first + records))
    kind = b"application/x-ndjson" if records > 1 else b"application/json"
    head = b"POST /v1/records HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nContent-Type: %b\r\n" % (
        TOKEN.encode(),
        kind,
    )
    return head + b"Idempotency-Key: order-%d\r\nContent-Length: %d\r\n\r\n" % (first, len(body)) + body


def send(port: int, records: int, at_once: int) -> None:
    """All records over 64 connections."""
    requests = iter([request(first, at_once) for first in range(0, records, at_once)])

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ended = [loop.create_future() for _ in range(CONNECTIONS)]
        for one in ended:
            await loop.create_connection(lambda one=one: Sender(requests, one), "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.gather(*ended)

    asyncio.run(run())


def send_paced(port: int, count: int, per_second: float) -> list[float]:
    """Seconds to each answer, of requests that come by a clock, whatever became of those before."""

    async def one(number: int, begin_s: float) -> float:
        await asyncio.sleep(begin_s - time.perf_counter())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began_s = time.perf_counter()
        writer.write(request(number, 1))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        took_s = time.perf_counter() - began_s
        writer.close()
        return took_s

    async def run() -> list[float]:
        start_s = time.perf_counter() + 0.1
        return await asyncio.gather(*(one(number, start_s + number / per_second) for number in range(count)))

    return asyncio.run(run())


# -- sections ------------------------------------------------------------------------------------------------------


def cost_of(folder: str, records: int, at_once: int) -> dict[str, float]:
    with receiver(f"{folder}/log") as (process, port):
        send(port, 10 * CONNECTIONS, 1)  # warm
        before_s, began_s = cpu_s(process), time.perf_counter()
        sender = multiprocessing.get_context("spawn").Process(target=send, args=(port, records, at_once))
        sender.start()
        sender.join()
        assert sender.exitcode == 0
        spent_s, took_s = cpu_s(process) - before_s, time.perf_counter() - began_s
        segments = metric(port, "segments_total")
    return {"value": spent_s / records * 1e6, "records_a_second": records / took_s, "segments": segments}


def single(folder: str, records: int) -> dict[str, float]:
    return cost_of(folder, records, 1)


def many(folder: str, records: int) -> dict[str, float]:
    return cost_of(folder, 5 * records, 100)


def answers(folder: str, records: int) -> dict[str, float]:
    with receiver(f"{folder}/log", LINGER_S) as (_, port):
        times_s = sorted(send_paced(port, 1000, 200))
        put_s = metric(port, "segment_seconds_total") / metric(port, "segments_total")
    added = [1000 * (one - LINGER_S - put_s) for one in times_s]
    return {"value": added[500], "p99_ms": added[990], "put_ms": 1000 * put_s}


class CountingStore(MemoryStore):
    """Counts requests, by what they are."""

    requests = 0

    def _create(self, key: str, body: bytes) -> bool:
        self.requests += 1
        return super()._create(key, body)

    def _get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        self.requests += 1
        return super()._get_range(key, start, size_bytes)

    def _get(self, key: str) -> bytes | None:
        self.requests += 1
        return super()._get(key)

    def _list_page(self, prefix: str, start_after: str, max_entries: int) -> Any:
        self.requests += 1
        return super()._list_page(prefix, start_after, max_entries)


def claim(folder: str, records: int) -> dict[str, float]:
    store = CountingStore("memory://claim")
    location = WalLocation.create(store)
    old = PartitionWriter(location, 0, owner="old", id_window=0)
    old.claim()
    for number in range(2000):
        old.begin(NewRecords.of([NewRecord(b"%d" % number, 0)]))
        old.put()
    new = PartitionWriter(location, 0, owner="new", id_window=0)
    counted: list[int] = []
    recover = new._recover_ids

    def recovering(found: Any) -> Any:
        counted.append(store.requests)
        return recover(found)

    new._recover_ids = recovering  # type: ignore[method-assign]
    store.requests = 0
    new.claim()
    return {"value": counted[0], "with_ids": store.requests}


def start(folder: str, records: int) -> dict[str, float]:
    return start_at(f"{folder}/log")


def start_s3(folder: str, records: int) -> dict[str, float]:
    import boto3

    bucket = f"receive-{secrets.token_hex(4)}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return start_at(f"s3://{bucket}/log")


def start_at(location_of_log: str) -> dict[str, float]:
    store = open_object_store(location_of_log)
    location = WalLocation.create(store)
    writer = PartitionWriter(location, 0, owner="old", id_window=1_000_000)
    writer.claim()
    for first in range(0, 1_000_000, 500):
        ids = [b"order-%d" % number for number in range(first, first + 500)]
        new = [NewRecord(b"x", 0, stored_id(location.log_id, one), content_of(one), one) for one in ids]
        writer.begin(NewRecords.of(new))
        writer.put()
        writer.put_page()
    found: dict[str, float] = apart("receive:start_of", location_of_log)
    return found


def start_of(location: str) -> dict[str, float]:
    before_s, began_s = time.process_time(), time.perf_counter()
    writer = PartitionWriter(WalLocation.on(open_object_store(location)), 0, owner="new", id_window=1_000_000)
    writer.claim()
    assert len(writer.window) >= 999_000
    spent_s, took_s = time.process_time() - before_s, time.perf_counter() - began_s
    return {"value": spent_s, "seconds": took_s, "memory_mb": psutil.Process(os.getpid()).memory_info().rss / 1e6}


SECTIONS: dict[str, Callable[[str, int], dict[str, float]]] = {
    "single": single,
    "many": many,
    "answers": answers,
    "claim": claim,
    "start": start,
    "start-s3": start_s3,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=[one for one in SECTIONS if one not in NEED_A_SERVER]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--dir", help="where the log is, such as a folder in memory; a temporary folder else")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for name in given.only:
        rounds = []
        for _ in range(given.rounds):
            with tempfile.TemporaryDirectory(dir=given.dir) as folder:
                rounds.append(SECTIONS[name](folder, given.records))
        found = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        unit, bar = BARS[name]
        if given.json:
            print(json.dumps({"section": name, "unit": unit, "bar": bar, **found}))
        else:
            more = ", ".join(f"{key} {value:.4g}" for key, value in found.items() if key != "value")
            print(
                f"{name:8} {found['value']:8.2f} {unit}{'' if bar is None else f' (bar {bar:g})'}; {more}", flush=True
            )


if __name__ == "__main__":
    main()
