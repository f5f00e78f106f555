"""A proxy before an HTTP server that lets chosen requests fail, as networks and overloaded servers do.

    with FaultProxy(server_url) as proxy:
        proxy.fail(Fault.ANSWER_LOST, method="PUT", target="commits/")

Faults are chosen by method, target and count, so the same sequence of requests always meets the same ones. Clients address
the proxy; the server sees the host that they named, so that signatures hold.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

SERVER_TIMEOUT_S = 60.0
LATE_S = 1.5
"""So much later a server sees a request that is late: whoever sent it has sent it again meanwhile."""
SEED = 7
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}


class Fault(Enum):
    """What happens to a request besides being answered by a status."""

    REQUEST_LOST = "the connection breaks before the server sees the request"
    ANSWER_LOST = "the server carries the request out, then the connection breaks"
    LATE = "the connection breaks, and the server sees the request after that"
    STALLED = "nobody answers, and the connection stays open"


@dataclass(frozen=True)
class Request:
    """One that reached the proxy.

    The target is the path with its query, unquoted, and behind it the keys that some requests name in their bodies:
    uploads of GCS and deletions of S3.
    """

    method: str
    target: str


@dataclass
class Rule:
    """Which requests fail, and how.

    Args:
        fault: what happens; a number is the status of an answer that the server did not give.
        matches: whether a request is one of those that count.
        skip: how many of those go well first.
        share: how many of the others fail; which ones, is drawn from a seed, the same at every run.
        times: how many fail in all; None means that there is no end.
        then_all: after the first of them every request fails, whatever it is, and counts.
    """

    fault: Fault | int
    matches: Callable[[Request], bool]
    skip: int
    share: float
    times: int | None
    then_all: bool
    seen: int = 0
    failed: list[Request] = field(default_factory=list)
    _drawn: random.Random = field(default_factory=lambda: random.Random(SEED))

    def takes(self, request: Request) -> bool:
        """Count a request; say whether it fails."""
        if len(self.failed) == self.times:
            return False
        if not (self.then_all and self.failed):
            if not self.matches(request):
                return False
            self.seen += 1
            if self.seen <= self.skip or self._drawn.random() >= self.share:
                return False
        self.failed.append(request)
        return True


class FaultProxy:
    """A running proxy on a free port of the loopback interface; a context manager."""

    def __init__(self, server_url: str) -> None:
        self._server = urlsplit(server_url)
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._stopping = threading.Event()
        self.requests: list[Request] = []
        """All of them, in the order in which they came."""
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._listener.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._listener.server_port}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def fail(
        self,
        fault: Fault | int,
        *,
        method: str = "",
        target: str = "",
        skip: int = 0,
        share: float = 1.0,
        times: int | None = 1,
        then_all: bool = False,
    ) -> Rule:
        """Let requests fail from now on; of several rules, the first that takes a request decides.

        Args:
            method, target: regular expressions that a request's must contain.
            fault, skip, share, times, then_all: as of :class:`Rule`.
        """

        def matches(request: Request) -> bool:
            return bool(re.search(method, request.method) and re.search(target, request.target))

        rule = Rule(fault, matches, skip, share, times, then_all)
        with self._lock:
            self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """Let no request fail any more."""
        with self._lock:
            self._rules.clear()

    def _fault_of(self, request: Request) -> Fault | int | None:
        with self._lock:
            self.requests.append(request)
            return next((rule.fault for rule in self._rules if rule.takes(request)), None)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                self.close_connection = True
                with contextlib.suppress(OSError):  # whoever asks was killed
                    self.raw_requestline = self.rfile.readline(65537)
                    if self.raw_requestline and self.parse_request():
                        proxy._handle(self)

        return Handler

    def _handle(self, client: BaseHTTPRequestHandler) -> None:
        body = _body_of(client)
        fault = self._fault_of(Request(client.command, _target(client, body)))
        if isinstance(fault, int):
            _answer(client, fault, [], b"")
            return
        if fault is Fault.STALLED:
            self._stopping.wait()
        if fault in (Fault.REQUEST_LOST, Fault.STALLED):
            _cut(client)
            return
        if fault is Fault.LATE:
            _cut(client)
            self._stopping.wait(LATE_S)
        status, headers, answer = self._forward(client, body)
        if fault is Fault.LATE:
            return
        if fault is Fault.ANSWER_LOST:
            _cut(client)
            return
        _answer(client, status, headers, answer)

    def _forward(self, client: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        server = http.client.HTTPConnection(self._server.netloc, timeout=SERVER_TIMEOUT_S)
        try:
            server.putrequest(client.command, client.path, skip_host=True, skip_accept_encoding=True)
            for name, value in client.headers.items():
                if name.lower() not in _OF_ONE_CONNECTION:
                    server.putheader(name, value)
            server.putheader("Content-Length", str(len(body)))
            server.endheaders(body)
            answer = server.getresponse()
            headers = [
                # Where an upload goes on: by the proxy again.
                (name, value.replace(self._server.geturl(), self.url) if name.lower() == "location" else value)
                for name, value in answer.getheaders()
                if name.lower() not in _OF_ONE_CONNECTION or (client.command == "HEAD" and name == "Content-Length")
            ]
            return answer.status, headers, answer.read()
        finally:
            server.close()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()


def _body_of(client: BaseHTTPRequestHandler) -> bytes:
    if client.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return client.rfile.read(int(client.headers.get("Content-Length") or 0))
    parts = []
    while size := int(client.rfile.readline().split(b";")[0], 16):
        parts.append(client.rfile.read(size))
        client.rfile.readline()
    client.rfile.readline()
    return b"".join(parts)


def _target(client: BaseHTTPRequestHandler, body: bytes) -> str:
    target = unquote(client.path)
    if client.command == "POST" and "uploadType=" in target:
        named = re.findall(rb'"name": ?"([^"]+)"', body)[:1]  # behind it comes content
    elif client.command == "POST" and target.endswith("?delete"):
        named = re.findall(rb"<Key>([^<]+)</Key>", body)
    else:
        named = []
    return " ".join([target, *(name.decode() for name in named)])


def _answer(client: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    client.send_response_only(status)
    for name, value in headers:
        client.send_header(name, value)
    if client.command != "HEAD":
        client.send_header("Content-Length", str(len(body)))
    client.end_headers()
    if client.command != "HEAD":
        client.wfile.write(body)
        client.wfile.flush()


def _cut(client: BaseHTTPRequestHandler) -> None:
    client.close_connection = True
    client.connection.shutdown(socket.SHUT_RDWR)
