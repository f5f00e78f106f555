"""One connection: requests as they come over it, each answered in one piece and in its turn.

The parser is httptools'; uvicorn listens, and ends connections. What a connection may hold is bounded: the head of a request, its
body, requests behind one that is not answered yet, and the time until a request is whole. No task and no timer is made for a
request: a sweep looks at all connections once a second. Loaded with the HTTP server only.
"""

from __future__ import annotations

import asyncio
import http
from collections import deque
from collections.abc import Iterable
from typing import Any

import httptools

from beam_exactly_once.receiver.app import Incoming, ReceiverApp
from beam_exactly_once.receiver.refusals import Refused

MAX_HEAD_BYTES = 32 << 10
"""Of a request's line and headers."""
MAX_WAITING = 16
"""Requests on one connection that came before the one ahead was answered."""
KEEP_ALIVE_S = 30
"""An idle connection is closed after that."""
ENDING_S = 1.0
"""When the receiver ends, an idle connection is closed after that: what its sender has sent meanwhile is answered."""
SWEEP_INTERVAL_S = 1.0

_STATUS = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in http.HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TOO_LARGE = Refused(400, "the head of the request is too large, or too much came with it.")
_BROKEN = Refused(400, "this is no HTTP request.")


class _TooMuch(Exception):
    """Makes the parser stop."""


class Connection(asyncio.Protocol):
    """One connection. Uvicorn makes it; the class attributes are set before the server starts."""

    app: ReceiverApp
    max_connections = 10_000
    max_raw_bytes = 64 << 20
    """Of a request with all that is around its body. Chunks may be much smaller than what says how large they are."""
    ticks = 0
    """Counts sweeps: a clock that costs nothing to read."""

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        self._connections = server_state.connections
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._certificate: str | None = None
        self._incoming: Incoming | None = None
        """The request that is coming."""
        self._current: Incoming | None = None
        """The one that waits for its answer; others wait behind it."""
        self._behind: deque[Incoming] = deque()
        self._in_head = False
        self._head_bytes = 0
        self._raw_bytes = 0
        self._is_ending = False
        self._is_full = False
        self.began = Connection.ticks
        """When the request began that is coming, or when the last one was answered."""

    # -- the connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Take it, or say that there are too many."""
        self._transport = transport
        self._connections.add(self)
        self._certificate = _name_in(transport.get_extra_info("peercert"))
        if len(self._connections) > self.max_connections:
            self._write(None, Refused(503, "there are too many connections."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it. What was taken goes to the log all the same."""
        self._connections.discard(self)
        for one in (self._incoming, *self._behind):
            if one is not None:
                self.app.drop(one)
        self._incoming, self._parser = None, None
        self._behind.clear()

    def eof_received(self) -> bool:
        """A sender that sends no more may still wait for answers."""
        self._is_ending = True
        return self._current is not None

    def pause_writing(self) -> None:
        """Who does not read answers gets no more of them."""
        self._is_full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The answers were read."""
        self._is_full = False
        if not self._behind:
            self._transport.resume_reading()

    def shutdown(self) -> None:
        """Answer what is there or on its way, and close. An idle connection waits for :meth:`look`: to close it now would leave
        a request without an answer that its sender has sent already.
        """
        self._is_ending = True
        if self._current is None and self._incoming is None:
            self.began = Connection.ticks

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._parser is None or self._transport.is_closing():
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._is_ending = True  # it was taken as the request that it also is; what follows is no HTTP
        except httptools.HttpParserError as error:
            self._refuse_rest(_TOO_LARGE if isinstance(error.__context__, _TooMuch) else _BROKEN)
            return
        self._raw_bytes += len(data)
        if self._raw_bytes > (MAX_HEAD_BYTES if self._in_head else self.max_raw_bytes):
            self._refuse_rest(_TOO_LARGE)

    def _refuse_rest(self, refused: Refused) -> None:
        """What comes cannot be told apart any more: close, behind the answers that are owed."""
        if self._incoming is not None:
            self.app.drop(self._incoming)
            self._incoming = None
        self._is_ending, self._parser = True, None
        if self._current is None:
            self._write(None, refused)

    # -- what the parser finds -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self._behind) >= MAX_WAITING:
            raise _TooMuch
        self._incoming = Incoming(self._certificate)
        self._in_head = True
        self._head_bytes = self._raw_bytes = 0
        self.began = Connection.ticks

    def on_url(self, url: bytes) -> None:
        """A part of the request's line."""
        assert self._incoming is not None
        self._count_head(len(url))
        self._incoming.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or one behind a body in chunks. What comes twice is a list, as for any proxy before this receiver: were one
        of the two taken, they could differ in which.
        """
        if self._incoming is not None and self._in_head:
            self._count_head(len(name) + len(value))
            headers, name = self._incoming.headers, name.lower()
            headers[name] = headers[name] + b", " + value if name in headers else value

    def _count_head(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _TooMuch

    def on_headers_complete(self) -> None:
        """The body comes next, if it is wanted."""
        self._in_head = False
        incoming = self._incoming
        assert incoming is not None
        incoming.method = self._parser.get_method()
        incoming.is_last = not self._parser.should_keep_alive()
        try:
            self.app.begin(incoming)
        except Refused as refused:
            self._refuse(incoming, refused)
            return
        if incoming.headers.get(b"expect", b"").lower() == b"100-continue" and self._current is None:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        incoming = self._incoming
        if incoming is not None and incoming.refused is None:
            try:
                self.app.add(incoming, body)
            except Refused as refused:
                self._refuse(incoming, refused)

    def on_message_complete(self) -> None:
        """The request is whole."""
        incoming, self._incoming = self._incoming, None
        if incoming is None or incoming.is_answered:
            return
        if self._current is not None:
            self._behind.append(incoming)
            self._transport.pause_reading()
        else:
            self._take(incoming)

    def _refuse(self, incoming: Incoming, refused: Refused) -> None:
        """Say so now, unless others are to be answered before. What comes of its body is dropped, if that has an end in sight."""
        incoming.refused = refused
        incoming.is_last |= refused.status == 413 or not incoming.headers.keys().isdisjoint(
            (b"transfer-encoding", b"expect", b"upgrade")
        )
        if self._current is None:
            incoming.is_answered = True
            self._write(incoming, refused)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _take(self, incoming: Incoming) -> None:
        self._current = incoming
        if incoming.refused is not None:
            self.answer(incoming, incoming.refused)
        else:
            self.app.take(incoming, self)

    def answer(self, incoming: Incoming, found: Refused | tuple[bytes, bytes]) -> None:
        """Answer the request whose turn it is.

        Args:
            incoming: the request.
            found: why not; or the type and the body of the answer 200.
        """
        self._current = None
        self.began = Connection.ticks
        if self._transport.is_closing():
            return
        self._write(incoming, found)
        if self._behind:
            was_paused = len(self._behind) == 1 and not self._is_full
            self._take(self._behind.popleft())
            if was_paused and not self._transport.is_closing():
                self._transport.resume_reading()

    def _write(self, incoming: Incoming | None, found: Refused | tuple[bytes, bytes]) -> None:
        if isinstance(found, Refused):
            status, (kind, body), more = found.status, found.answer(), found.headers()
        else:
            status, (kind, body), more = 200, found, b""
        self.app.metrics.requests[status] += 1
        is_last = incoming is None or incoming.is_last or (self._is_ending and not self._behind)
        head = b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n" % (
            _STATUS[status],
            kind,
            len(body),
            more,
            b"connection: close\r\n" if is_last else b"",
        )
        self._transport.write(head if incoming is not None and incoming.method == b"HEAD" else head + body)
        if is_last:
            self._transport.close()

    # -- time ----------------------------------------------------------------------------------------------------------

    def look(self, request_timeout_s: float) -> None:
        """Close a connection whose request does not become whole in time, or that has been idle."""
        idle_s = ENDING_S if self._is_ending else min(KEEP_ALIVE_S, request_timeout_s)
        age_s = (Connection.ticks - self.began) * SWEEP_INTERVAL_S
        if self._current is not None or self._transport.is_closing():
            return
        if self._incoming is not None and self._incoming.is_answered and age_s > request_timeout_s:
            self._transport.close()
        elif self._incoming is not None and age_s > request_timeout_s:
            self._refuse_rest(Refused(408, "the request took too long to come."))
        elif self._incoming is None and age_s > idle_s:
            self._transport.close()


async def sweep(connections: Iterable[Any], request_timeout_s: float) -> None:
    """Look at all connections, again and again, for ever.

    Args:
        connections: all of a server.
        request_timeout_s: from a request's first byte to its last one; and until the first one of a new connection.
    """
    while True:
        await asyncio.sleep(SWEEP_INTERVAL_S)
        Connection.ticks += 1
        for one in list(connections):
            one.look(request_timeout_s)


def _name_in(certificate: dict[str, Any] | None) -> str | None:
    """The common name of the subject."""
    for part in (certificate or {}).get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return None
