"""A receiver that really runs, as a process, and requests to it over sockets."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.wal.log import WalLog

TOKEN = "correct-horse-battery-staple"
PATIENCE_S = 180.0
_LISTENING = re.compile(r"^receives at (\S+):(\d+) into", re.MULTILINE)


class ReceiverProcess:
    """One process. ``log`` is what it has said, once it has ended."""

    def __init__(self, location: Path, *flags: str, port: int = 0, linger_s: float = 0.0) -> None:
        token = location.parent / "token"
        token.write_text(TOKEN)
        self.location = location
        self._said = location.parent / "said"
        with self._said.open("ab") as said:
            begin = said.tell()
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "beam_exactly_once", "wal", "receive", str(location)),
                    *("--listen", f"127.0.0.1:{port}", f"--linger-s={linger_s}"),
                    *(() if any("--tls-client-ca" in flag for flag in flags) else (f"--token=shop=${{file:{token}}}",)),
                    *flags,
                ],
                stderr=said,
            )
        self._begin = begin
        self.address: tuple[str, int]

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._said.read_bytes()[self._begin :].decode()

    def wait_until_it_listens(self) -> ReceiverProcess:
        while True:
            found = _LISTENING.search(self.log)
            if found is not None:
                self.address = found[1], int(found[2])
                return self
            try:
                code = self.process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"it ended with {code}: {self.log}")

    def memory_mb(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / (1 << 20)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE_S)

    def send(self, data: bytes) -> tuple[int, bytes]:
        """Status and the rest of the answer to these bytes, on a connection of their own."""
        with self.connect() as connection:
            connection.sendall(data)
            return answer_on(connection)

    def post(self, body: bytes, *lines: str, token: str = TOKEN) -> tuple[int, bytes]:
        return self.send(post(body, *lines, token=token))

    def end(self) -> int:
        """Ask it to, and give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def receiver_process(location: Path, *flags: str, linger_s: float = 0.0) -> Iterator[ReceiverProcess]:
    one = ReceiverProcess(location, *flags, linger_s=linger_s)
    try:
        yield one.wait_until_it_listens()
    finally:
        one.kill()


def post(body: bytes, *lines: str, token: str = TOKEN) -> bytes:
    """A request with this body, as it goes over a connection."""
    head = ("POST /v1/records HTTP/1.1", "Host: a", f"Authorization: Bearer {token}", *lines)
    return "\r\n".join((*head, f"Content-Length: {len(body)}", "", "")).encode() + body


def answer_on(connection: socket.socket) -> tuple[int, bytes]:
    """Status and the rest of the next answer; (0, what came) if there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = _received(connection)
        if not part:
            return 0, data
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    (size,) = re.findall(rb"content-length: (\d+)", head)
    while len(rest) < int(size):
        rest += connection.recv(1 << 16)
    return int(head.split()[1]), head + b"\r\n\r\n" + rest


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except ConnectionError:
        return b""


def values_in(location: Path | str, partition: int = 0) -> list[bytes]:
    """Of all records of a partition of the log, in order of their offsets."""
    place = TopicPartition("wal", partition)
    log = WalLog(open_object_store(str(location)), "wal")
    stop = log.bounds([place])[place].latest
    found: list[bytes] = []
    start = 0
    while start < stop:
        chunk = log.next_chunk(place, start, stop)
        found += [one.value or b"" for one in chunk.records()]
        start = chunk.stop
    return found
