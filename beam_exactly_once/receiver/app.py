"""The application behind the HTTP server: ``POST /v1/records``, ``/healthz``, ``/readyz`` and ``/metrics``. ASGI, as it is.

A request is checked from the cheap to the dear: path, size as it is said, sender, body, form. Then its records go to the log,
and the answer 200 is given when all of them are durable. Everything else is an answer that says whether to send it again; 503 and
no answer at all mean *unknown*: send it again with the same ids.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeAlias

import orjson

from beam_exactly_once.errors import BeamExactlyOnceError
from beam_exactly_once.receiver.access import Access
from beam_exactly_once.receiver.forms import Form, Records
from beam_exactly_once.receiver.metrics import Metrics
from beam_exactly_once.receiver.refusals import Refused, refusal_of
from beam_exactly_once.wal.writer import Appended

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

RECORDS_PATH = "/v1/records"
_LOGGER = logging.getLogger(__name__)
_JSON, _TEXT = b"application/json", b"text/plain; version=0.0.4; charset=utf-8"


class Log(Protocol):
    """Where the records go."""

    async def append(self, records: Records) -> Appended:
        """Return when the records are durable. Raises errors of this library."""
        ...

    def readiness(self) -> dict[str, Any]:
        """Whether records can be taken now, as ``ready``, and why not."""
        ...

    def gauges(self) -> dict[str, float]:
        """What is known of the log now."""
        ...


class _Gone(Exception):
    """The sender is gone before its request was whole."""


class ReceiverApp:
    """An ASGI application.

    Args:
        log: where the records go.
        access: who may send.
        form: how requests are read.
        max_request_bytes: the largest body.
        max_held_bytes: of all bodies that are on their way in.
    """

    def __init__(self, log: Log, access: Access, form: Form, *, max_request_bytes: int, max_held_bytes: int) -> None:
        self.metrics = Metrics()
        self._log = log
        self._access = access
        self._form = form
        self._max_request_bytes = max_request_bytes
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        content_type, extra = _JSON, []
        try:
            if scope["path"] == RECORDS_PATH:
                status, body = 200, await self._take(scope, receive)
            else:
                status, content_type, body = self._look(scope)
        except _Gone:
            return
        except Refused as refused:
            status = refused.status
            body = orjson.dumps({"error": refused.message, "retry": refused.is_retryable})
            extra = _headers_of(refused, scope)
        except Exception as error:
            # Neither its text nor its frames' values: both may hold what was sent.
            _LOGGER.error("a request failed with %s", type(error).__name__)
            status, body = 500, b'{"error":"the receiver failed; see its log.","retry":true}'
        self.metrics.requests[status] += 1
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *extra]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _look(self, scope: Scope) -> tuple[int, bytes, bytes]:
        if scope["path"] not in ("/healthz", "/readyz", "/metrics"):
            raise Refused(404, f"there is nothing here: records go to {RECORDS_PATH}.")
        if scope["method"] not in ("GET", "HEAD"):
            raise Refused(405, "this can be read only.")
        if scope["path"] == "/metrics":
            return 200, _TEXT, self.metrics.text({**self._log.gauges(), "held_bytes": self._held_bytes})
        if scope["path"] == "/healthz":
            return 200, _JSON, b'{"alive":true}'
        readiness = self._log.readiness()
        return 200 if readiness["ready"] else 503, _JSON, orjson.dumps(readiness)

    async def _take(self, scope: Scope, receive: Receive) -> bytes:
        if scope["method"] != "POST":
            raise Refused(405, "records come by POST.")
        headers = dict(scope["headers"])
        said_bytes = headers.get(b"content-length")
        if said_bytes is not None and int(said_bytes) > self._max_request_bytes:
            raise self._too_large()
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refused(415, "an encoded body cannot be taken: send it as it is.")
        sender = self._access.by_headers(headers, scope.get("client_certificate"))
        body = await self._body(receive)
        if sender is None:
            sender = self._access.by_signature(headers, body)
        records = self._form.records(sender, headers, body)
        try:
            done = await self._log.append(records)
        except BeamExactlyOnceError as error:
            raise refusal_of(error) from None
        self.metrics.records += done.records
        self.metrics.duplicates += done.duplicates
        self.metrics.bytes += len(body)
        return b'{"partition":%d,"offset":%d,"records":%d,"duplicates":%d}' % (
            done.partition,
            done.offset or 0,
            done.records,
            done.duplicates,
        )

    async def _body(self, receive: Receive) -> bytes:
        message = await receive()
        if message["type"] != "http.request":
            raise _Gone
        body: bytes = message["body"]
        if not message["more_body"]:
            if len(body) > self._max_request_bytes:
                raise self._too_large()
            return body
        return await self._long_body(body, receive)

    async def _long_body(self, first: bytes, receive: Receive) -> bytes:
        parts, size, more = [first], len(first), True
        self._held_bytes += size
        try:
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise _Gone
                part, more = message["body"], message["more_body"]
                parts.append(part)
                size += len(part)
                self._held_bytes += len(part)
                if size > self._max_request_bytes:
                    raise self._too_large()
                if self._held_bytes > self._max_held_bytes:
                    raise Refused(503, "too many large requests are on their way in. Nothing of this one was taken.")
            return b"".join(parts)
        finally:
            self._held_bytes -= size

    def _too_large(self) -> Refused:
        return Refused(
            413, f"a request may have {self._max_request_bytes} bytes. Nothing of this one was taken: send it in parts."
        )


def _headers_of(refused: Refused, scope: Scope) -> list[tuple[bytes, bytes]]:
    headers = {401: [(b"www-authenticate", b"Bearer")], 503: [(b"retry-after", b"1")]}.get(refused.status, [])
    if refused.status == 405:
        headers = [(b"allow", b"POST" if scope["path"] == RECORDS_PATH else b"GET, HEAD")]
    sent = dict(scope["headers"])
    if b"transfer-encoding" in sent or b"expect" in sent or refused.status == 413:
        headers = [*headers, (b"connection", b"close")]  # what comes of the body would have to be read to its end
    return headers
