"""Uvicorn's HTTP protocol with bounds on what one connection may hold and how long a request may take to come.

Loaded with the HTTP server only.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32 << 10
"""Of a request's line, headers and trailers."""
MAX_PIPELINED = 16
SWEEP_INTERVAL_S = 1.0


def _whole(status: bytes, error: bytes, *headers: bytes) -> bytes:
    """An answer behind which the connection is closed."""
    body = b'{"error":"%b","retry":true}' % error
    lines = (b"HTTP/1.1 " + status, *headers, b"connection: close", b"content-type: application/json")
    return b"\r\n".join((*lines, b"content-length: %d" % len(body), b"", body))


_BUSY = _whole(b"503 Service Unavailable", b"there are too many connections.", b"retry-after: 1")
_SLOW = _whole(b"408 Request Timeout", b"the request took too long.")


class _TooMuch(Exception):
    """Makes the parser refuse what comes: the connection gets 400 and is closed."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Its class attributes are set once, before the server starts."""

    max_connections = 10_000
    ticks = 0
    """Counts sweeps: a clock that costs nothing to read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Take a connection, or say that there are too many."""
        super().connection_made(transport)
        self.certificate = _name_in(transport.get_extra_info("peercert"))
        self.began: int | None = type(self).ticks
        """When the request began that is not whole yet."""
        self._head_bytes = 0
        self._in_head = True
        if len(self.connections) > self.max_connections:
            transport.write(_BUSY)
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Take what has come, unless it is more than a head may be."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _TooMuch
        super().on_message_begin()
        self.began = type(self).ticks
        self._head_bytes = 0
        self._in_head = True
        if self.certificate:
            self.scope["client_certificate"] = self.certificate  # type: ignore[typeddict-unknown-key] # for our application

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is there, or one behind a body in chunks."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _TooMuch
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body comes next."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.began = None
        super().on_message_complete()


async def sweep_slow(connections: set[Any], request_timeout_s: float) -> None:
    """Close connections whose request does not become whole in time, for ever.

    Args:
        connections: all of a server.
        request_timeout_s: from a request's first byte to its last one; and until the first one of a new connection.
    """
    while True:
        await asyncio.sleep(SWEEP_INTERVAL_S)
        BoundedProtocol.ticks += 1
        oldest = BoundedProtocol.ticks - request_timeout_s / SWEEP_INTERVAL_S
        for one in list(connections):
            if one.began is not None and one.began < oldest and not one.transport.is_closing():
                if one.cycle is None or not one.cycle.response_complete:  # else it was answered before its body came
                    one.transport.write(_SLOW)
                one.transport.close()


def _name_in(certificate: dict[str, Any] | None) -> str | None:
    """The common name of the subject."""
    for part in (certificate or {}).get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return None
