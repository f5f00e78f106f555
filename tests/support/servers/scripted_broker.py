"""A read-only Kafka broker that serves :class:`ScriptedLog`, a log as a test writes it down.

It speaks just enough of the protocol for a consumer: ApiVersions, Metadata, ListOffsets, Fetch, FindCoordinator.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from support.servers.scripted_log import ScriptedLog

_NO_ERROR, _OFFSET_OUT_OF_RANGE, _UNKNOWN_TOPIC, _COORDINATOR_NOT_AVAILABLE, _UNSUPPORTED_VERSION = 0, 1, 3, 15, 35
_LATEST, _EARLIEST = -1, -2
_READ_COMMITTED = 1


class _Body:
    """Reads a request."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from(">" + code, self._data, self._at)
        self._at += struct.calcsize(">" + code)
        return int(value)

    def text(self) -> str:
        size = self.number("h")
        if size < 0:
            return ""
        self._at += size
        return self._data[self._at - size : self._at].decode()


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def _array(items: Iterable[bytes]) -> bytes:
    encoded = list(items)
    return struct.pack(">i", len(encoded)) + b"".join(encoded)


class ScriptedBroker:
    """Serves ``{topic: [log of partition 0, log of partition 1, …]}`` on a free loopback port; a context manager.

    With ``throttle_ms`` a quota holds each answer to a fetch back for so long, and lets no record pass.
    """

    def __init__(self, topics: Mapping[str, Sequence[ScriptedLog]], *, throttle_ms: int = 0) -> None:
        self.topics = topics
        self._throttle_ms = throttle_ms
        self.waits_ms: list[int] = []
        """How long each fetch was ready to wait."""
        self._stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        broker = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                broker._serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self.bootstrap_servers = f"127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> ScriptedBroker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        for connection in list(self._connections):
            with suppress(OSError):  # its client went first
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def _serve(self, connection: socket.socket) -> None:
        self._connections.add(connection)
        handlers = {
            1: self._fetch,
            2: self._list_offsets,
            3: self._metadata,
            10: self._find_coordinator,
            18: self._api_versions,
        }
        try:
            while not self._stopping.is_set():
                (size,) = struct.unpack(">i", _read_exactly(connection, 4))
                body = _Body(_read_exactly(connection, size))
                api, version, correlation_id = body.number("h"), body.number("h"), body.number("i")
                body.text()  # client id
                answer = struct.pack(">i", correlation_id) + handlers[api](body, version)
                connection.sendall(struct.pack(">i", len(answer)) + answer)
        except OSError:
            return  # the client went, or the test ended
        finally:
            self._connections.discard(connection)

    def _api_versions(self, body: _Body, version: int) -> bytes:
        # Produce is named, though never served: a client believes in the record format only with it.
        versions = [(0, 3, 3), (1, 4, 4), (2, 2, 2), (3, 4, 4), (10, 0, 0), (18, 0, 0)]
        error = _NO_ERROR if version == 0 else _UNSUPPORTED_VERSION  # the client then asks again with version 0
        return struct.pack(">h", error) + _array(struct.pack(">hhh", *entry) for entry in versions)

    def _metadata(self, body: _Body, version: int) -> bytes:
        count = body.number("i")
        names = list(self.topics) if count < 0 else [body.text() for _ in range(count)]
        broker = struct.pack(">i", 0) + _text("127.0.0.1") + struct.pack(">ih", self._port, -1)
        head = struct.pack(">i", 0) + _array([broker]) + struct.pack(">hi", -1, 0)
        return head + _array(self._topic_metadata(name) for name in names)

    def _topic_metadata(self, name: str) -> bytes:
        logs = self.topics.get(name)
        error = _UNKNOWN_TOPIC if logs is None else _NO_ERROR
        partitions = (struct.pack(">hiiiiii", 0, index, 0, 1, 0, 1, 0) for index in range(len(logs or [])))
        return struct.pack(">h", error) + _text(name) + b"\0" + _array(partitions)

    def _list_offsets(self, body: _Body, version: int) -> bytes:
        body.number("i")  # replica id
        read_committed = body.number("b") == _READ_COMMITTED
        topics: list[bytes] = []
        for _ in range(body.number("i")):
            name = body.text()
            partitions: list[bytes] = []
            for _ in range(body.number("i")):
                partition, timestamp = body.number("i"), body.number("q")
                log = self._log(name, partition)
                offset = -1 if log is None else _offset_at(log, timestamp, read_committed)
                error = _UNKNOWN_TOPIC if log is None else _NO_ERROR
                partitions.append(struct.pack(">ihqq", partition, error, -1, offset))
            topics.append(_text(name) + _array(partitions))
        return struct.pack(">i", 0) + _array(topics)

    def _fetch(self, body: _Body, version: int) -> bytes:
        body.number("i")  # replica id
        wait_ms, _, _, isolation = body.number("i"), body.number("i"), body.number("i"), body.number("b")
        self.waits_ms.append(wait_ms)
        asked: list[tuple[str, list[tuple[int, int, int]]]] = []
        for _ in range(body.number("i")):
            name = body.text()
            asked.append(
                (name, [(body.number("i"), body.number("q"), body.number("i")) for _ in range(body.number("i"))])
            )
        read_committed = isolation == _READ_COMMITTED
        self._wait_for_data(asked, wait_ms, read_committed)
        topics = (
            _text(name) + _array(self._fetch_partition(name, *entry, read_committed, wait_ms) for entry in entries)
            for name, entries in asked
        )
        return struct.pack(">i", self._throttle_ms) + _array(topics)

    def _wait_for_data(
        self, asked: list[tuple[str, list[tuple[int, int, int]]]], wait_ms: int, read_committed: bool
    ) -> None:
        logs = [(log, entry[1]) for name, entries in asked for entry in entries if (log := self._log(name, entry[0]))]
        if len(logs) != 1:
            return
        log, offset = logs[0]
        with log.changed:
            log.changed.wait_for(lambda: offset != log.end(read_committed) or self._stopping.is_set(), wait_ms / 1000)

    def _fetch_partition(
        self, name: str, partition: int, offset: int, max_bytes: int, read_committed: bool, wait_ms: int
    ) -> bytes:
        log = self._log(name, partition)
        if log is None:
            return struct.pack(">ihqqii", partition, _UNKNOWN_TOPIC, -1, -1, 0, 0)
        if not log.start_offset <= offset <= log.high_watermark:
            return struct.pack(">ihqqii", partition, _OFFSET_OUT_OF_RANGE, -1, -1, 0, 0)
        is_near = offset >= log.remote_below or wait_ms >= log.remote_ms
        passes = is_near and not self._throttle_ms
        records, aborted = log.fetch(offset, read_committed, max_bytes) if passes else (b"", [])
        head = struct.pack(">ihqq", partition, _NO_ERROR, log.high_watermark, log.last_stable_offset)
        transactions = _array(struct.pack(">qq", entry.producer_id, entry.first_offset) for entry in aborted)
        return head + transactions + struct.pack(">i", len(records)) + records

    def _find_coordinator(self, body: _Body, version: int) -> bytes:
        return struct.pack(">hi", _COORDINATOR_NOT_AVAILABLE, -1) + _text("") + struct.pack(">i", -1)

    def _log(self, name: str, partition: int) -> ScriptedLog | None:
        logs = self.topics.get(name, [])
        return logs[partition] if 0 <= partition < len(logs) else None


def _offset_at(log: ScriptedLog, timestamp: int, read_committed: bool) -> int:
    if timestamp == _EARLIEST:
        return log.start_offset
    if timestamp == _LATEST:
        return log.end(read_committed)
    return log.offset_for_time(timestamp)


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the client closed the connection")
        data += part
    return bytes(data)
