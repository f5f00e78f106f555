"""A read-only Kafka broker that serves logs as a test writes them down: aborted and open transactions, control
records, holes that compaction left, a log that begins above zero, a corrupt offset.

It speaks just enough of the protocol for a consumer: ApiVersions, Metadata, ListOffsets, Fetch, FindCoordinator. A
:class:`ScriptedLog` is both what is served and the oracle: ``visible()`` says what a reader must see.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

_NO_ERROR, _OFFSET_OUT_OF_RANGE, _UNKNOWN_TOPIC, _COORDINATOR_NOT_AVAILABLE, _UNSUPPORTED_VERSION = 0, 1, 3, 15, 35
_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_LATEST, _EARLIEST = -1, -2
_READ_COMMITTED = 1
_NO_PRODUCER = -1

Headers = tuple[tuple[str, "bytes | None"], ...]


@dataclass(frozen=True)
class ScriptedRecord:
    """One record as a reader must see it."""

    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp_ms: int = 0
    headers: Headers = ()


@dataclass(frozen=True)
class _Batch:
    first_offset: int
    last_offset: int
    records: tuple[ScriptedRecord, ...]
    producer_id: int = _NO_PRODUCER
    control: bool = False
    wire_offset: int | None = None  # what the batch claims as its first offset when that is a lie


@dataclass(frozen=True)
class _Aborted:
    producer_id: int
    first_offset: int
    marker_offset: int


@dataclass
class ScriptedLog:
    """One partition, written from ``start_offset`` on."""

    start_offset: int = 0
    _batches: list[_Batch] = field(default_factory=list)
    _aborted: list[_Aborted] = field(default_factory=list)
    _open: dict[int, int] = field(default_factory=dict)
    _end: int = -1
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._end = self.start_offset

    def append(
        self,
        values: Sequence[bytes | None],
        *,
        producer_id: int = _NO_PRODUCER,
        keep: Iterable[int] | None = None,
        first_timestamp_ms: int = 1_000,
        headers: Headers = (),
        wire_offset: int | None = None,
    ) -> ScriptedLog:
        """One batch.

        ``keep`` are the indexes that compaction left of it, ``producer_id`` puts it into a transaction, and
        ``wire_offset`` is the first offset that it claims on the wire when that is a lie.
        """
        kept = range(len(values)) if keep is None else sorted(keep)
        first = self._end
        records = tuple(
            ScriptedRecord(
                first + index, values[index], b"key-%d" % (first + index), first_timestamp_ms + index, headers
            )
            for index in kept
        )
        if producer_id != _NO_PRODUCER:
            self._open.setdefault(producer_id, first)
        return self._write(_Batch(first, first + len(values) - 1, records, producer_id, wire_offset=wire_offset))

    def skip(self, count: int) -> ScriptedLog:
        """Offsets of which compaction left nothing at all."""
        self._end += count
        return self

    def commit(self, producer_id: int) -> ScriptedLog:
        """End this producer's transaction; takes one offset."""
        self._open.pop(producer_id)
        return self._write_marker(producer_id, committed=True)

    def abort(self, producer_id: int) -> ScriptedLog:
        """Abort this producer's transaction; takes one offset."""
        self._aborted.append(_Aborted(producer_id, self._open.pop(producer_id), self._end))
        return self._write_marker(producer_id, committed=False)

    @property
    def high_watermark(self) -> int:
        """The offset after the last one written."""
        return self._end

    @property
    def last_stable_offset(self) -> int:
        """The first offset of the oldest open transaction, or else the high watermark."""
        return min(self._open.values(), default=self._end)

    def end(self, read_committed: bool) -> int:
        """What a reader of this isolation level takes for the log's end."""
        return self.last_stable_offset if read_committed else self.high_watermark

    def visible(self, start: int = 0, stop: int | None = None, read_committed: bool = True) -> list[ScriptedRecord]:
        """The records that a reader of ``[start, stop)`` must see, in order."""
        end = self.end(read_committed)
        stop = end if stop is None else min(stop, end)
        return [
            record
            for batch in self._batches
            if not batch.control and not (read_committed and self._is_aborted(batch))
            for record in batch.records
            if start <= record.offset < stop
        ]

    def offset_for_time(self, timestamp_ms: int) -> int:
        """The first visible record at or after this time, or -1."""
        found = [record.offset for record in self.visible() if record.timestamp_ms >= timestamp_ms]
        return found[0] if found else -1

    def fetch(self, offset: int, read_committed: bool, max_bytes: int) -> tuple[bytes, list[_Aborted]]:
        """Whole batches from the one that holds ``offset`` on, and the aborted transactions among them."""
        end = self.end(read_committed)
        parts: list[bytes] = []
        size, upper = 0, offset
        for batch in self._batches:
            if batch.last_offset < offset or batch.first_offset >= end:
                continue
            encoded = _encode_batch(batch)
            if parts and size + len(encoded) > max_bytes:
                break
            parts.append(encoded)
            size, upper = size + len(encoded), batch.last_offset
        aborted = [a for a in self._aborted if a.marker_offset >= offset and a.first_offset <= upper]
        return b"".join(parts), aborted if read_committed else []

    def _is_aborted(self, batch: _Batch) -> bool:
        return any(
            aborted.producer_id == batch.producer_id
            and aborted.first_offset <= batch.first_offset < aborted.marker_offset
            for aborted in self._aborted
        )

    def _write_marker(self, producer_id: int, committed: bool) -> ScriptedLog:
        marker = ScriptedRecord(self._end, struct.pack(">hi", 0, 0), struct.pack(">hh", 0, int(committed)))
        return self._write(_Batch(self._end, self._end, (marker,), producer_id, control=True))

    def _write(self, batch: _Batch) -> ScriptedLog:
        with self.changed:
            self._batches.append(batch)
            self._end = batch.last_offset + 1
            self.changed.notify_all()
        return self


def _encode_batch(batch: _Batch) -> bytes:
    first_timestamp = batch.records[0].timestamp_ms if batch.records else 0
    attributes = (_CONTROL if batch.control else 0) | (_TRANSACTIONAL if batch.producer_id != _NO_PRODUCER else 0)
    body = struct.pack(
        ">hiqqqhii",
        attributes,
        batch.last_offset - batch.first_offset,
        first_timestamp,
        max((record.timestamp_ms for record in batch.records), default=0),
        batch.producer_id,
        0,
        0,
        len(batch.records),
    ) + b"".join(_encode_record(record, batch.first_offset, first_timestamp) for record in batch.records)
    no_crc, magic, leader_epoch = 0, 2, 0  # consumers check the CRC only when told to
    after_length = struct.pack(">ibI", leader_epoch, magic, no_crc) + body
    claimed = batch.first_offset if batch.wire_offset is None else batch.wire_offset
    return struct.pack(">qi", claimed, len(after_length)) + after_length


def _encode_record(record: ScriptedRecord, base_offset: int, base_timestamp: int) -> bytes:
    body = b"\0" + _varint(record.timestamp_ms - base_timestamp) + _varint(record.offset - base_offset)
    body += _varbytes(record.key) + _varbytes(record.value) + _varint(len(record.headers))
    for name, value in record.headers:
        body += _varbytes(name.encode()) + _varbytes(value)
    return _varint(len(body)) + body


def _varbytes(value: bytes | None) -> bytes:
    return _varint(-1) if value is None else _varint(len(value)) + value


def _varint(number: int) -> bytes:
    zigzag = (number << 1) ^ (number >> 63)
    encoded = bytearray()
    while zigzag > 0x7F:
        encoded.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    encoded.append(zigzag)
    return bytes(encoded)


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
    """Serves ``{topic: [log of partition 0, log of partition 1, …]}`` on a free loopback port; a context manager."""

    def __init__(self, topics: Mapping[str, Sequence[ScriptedLog]]) -> None:
        self.topics = topics
        self.fetches = 0
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
        self.fetches += 1
        body.number("i")  # replica id
        wait_ms, _, _, isolation = body.number("i"), body.number("i"), body.number("i"), body.number("b")
        asked: list[tuple[str, list[tuple[int, int, int]]]] = []
        for _ in range(body.number("i")):
            name = body.text()
            asked.append(
                (name, [(body.number("i"), body.number("q"), body.number("i")) for _ in range(body.number("i"))])
            )
        read_committed = isolation == _READ_COMMITTED
        self._wait_for_data(asked, wait_ms, read_committed)
        topics = (
            _text(name) + _array(self._fetch_partition(name, *entry, read_committed) for entry in entries)
            for name, entries in asked
        )
        return struct.pack(">i", 0) + _array(topics)

    def _wait_for_data(
        self, asked: list[tuple[str, list[tuple[int, int, int]]]], wait_ms: int, read_committed: bool
    ) -> None:
        logs = [(log, entry[1]) for name, entries in asked for entry in entries if (log := self._log(name, entry[0]))]
        if len(logs) != 1:
            return
        log, offset = logs[0]
        with log.changed:
            log.changed.wait_for(lambda: offset != log.end(read_committed) or self._stopping.is_set(), wait_ms / 1000)

    def _fetch_partition(self, name: str, partition: int, offset: int, max_bytes: int, read_committed: bool) -> bytes:
        log = self._log(name, partition)
        if log is None:
            return struct.pack(">ihqqii", partition, _UNKNOWN_TOPIC, -1, -1, 0, 0)
        if not log.start_offset <= offset <= log.high_watermark:
            return struct.pack(">ihqqii", partition, _OFFSET_OUT_OF_RANGE, -1, -1, 0, 0)
        records, aborted = log.fetch(offset, read_committed, max_bytes)
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
