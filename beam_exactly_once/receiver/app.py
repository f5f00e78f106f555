"""From a request to its answer: ``POST /v1/records``, ``/healthz``, ``/readyz`` and ``/metrics``.

A request is checked from the cheap to the dear: path, size as it is said, sender, body, form. Then its records go to the log,
and the answer 200 is given when all of them are durable. Everything else is an answer that says whether to send it again; 503 and
no answer at all mean *unknown*: send it again with the same ids.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from beam_exactly_once.errors import BeamExactlyOnceError
from beam_exactly_once.receiver.access import Access
from beam_exactly_once.receiver.forms import Form, Records
from beam_exactly_once.receiver.metrics import Metrics
from beam_exactly_once.receiver.refusals import Refused, refusal_of
from beam_exactly_once.wal.writer import Appended

RECORDS_PATH = b"/v1/records"
_LOGGER = logging.getLogger(__name__)
_JSON, _TEXT = b"application/json", b"text/plain; version=0.0.4; charset=utf-8"


class Log(Protocol):
    """Where the records go."""

    def append(self, records: Records, on_settled: Callable[[Appended | BeamExactlyOnceError], None]) -> None:
        """Say when the records are durable, or why they are not. Raises errors of this library if nothing was taken."""
        ...

    def readiness(self) -> dict[str, Any]:
        """Whether records can be taken now, as ``ready``, and why not."""
        ...

    def gauges(self) -> dict[str, float]:
        """What is known of the log now."""
        ...


class Answering(Protocol):
    """Who waits for the answer."""

    def answer(self, incoming: Incoming, found: Refused | tuple[bytes, bytes]) -> None:
        """Send it: why not, or the type and the body of the answer 200."""
        ...


class Incoming:
    """A request on its way in. ``headers`` are by their names in small letters; those that come twice are joined by commas."""

    __slots__ = (
        *("certificate", "headers", "is_answered", "is_last", "method", "parts", "refused"),
        *("sender", "size_bytes", "target"),
    )

    def __init__(self, certificate: str | None = None) -> None:
        self.certificate = certificate
        self.method = b""
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []
        self.size_bytes = 0
        self.sender: bytes | None = None
        self.refused: Refused | None = None
        self.is_answered = False
        """It was refused before it was whole."""
        self.is_last = False
        """The connection is closed behind it."""


class ReceiverApp:
    """What is behind all connections; for one thread.

    Args:
        log: where the records go.
        access: who may send.
        form: how requests are read.
        max_request_bytes: the largest body.
        max_held_bytes: of all bodies that are on their way in.
    """

    def __init__(self, log: Log, access: Access, form: Form, *, max_request_bytes: int, max_held_bytes: int) -> None:
        self.metrics = Metrics()
        self.held_bytes = 0
        self._log = log
        self._access = access
        self._form = form
        self._max_request_bytes = max_request_bytes
        self._max_held_bytes = max_held_bytes

    def begin(self, incoming: Incoming) -> None:
        """Look at the head of a request.

        Raises:
            Refused: its body is not wanted.
        """
        if incoming.target != RECORDS_PATH:
            if incoming.target not in (b"/healthz", b"/readyz", b"/metrics"):
                raise Refused(404, "there is nothing here: records go to /v1/records.")
            if incoming.method not in (b"GET", b"HEAD"):
                raise Refused(405, "this can be read only.", allow=b"GET, HEAD")
            return
        headers = incoming.headers
        if incoming.method != b"POST":
            raise Refused(405, "records come by POST.", allow=b"POST")
        if int(headers.get(b"content-length", b"0")) > self._max_request_bytes:
            raise self._too_large()
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refused(415, "an encoded body cannot be taken: send it as it is.")
        if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise Refused(501, "a body comes as it is or in chunks: another transfer encoding cannot be taken.")
        if b"upgrade" in headers:  # the parser takes its body for another protocol
            raise Refused(400, "this connection stays what it is: send the request without Upgrade.")
        incoming.sender = self._access.by_headers(headers, incoming.certificate)

    def add(self, incoming: Incoming, part: bytes) -> None:
        """Take a part of a body.

        Raises:
            Refused: it is too large, or those of all together are. What was held of it is dropped.
        """
        incoming.parts.append(part)
        incoming.size_bytes += len(part)
        self.held_bytes += len(part)
        if incoming.size_bytes > self._max_request_bytes:
            self.drop(incoming)
            raise self._too_large()
        if self.held_bytes > self._max_held_bytes:
            self.drop(incoming)
            raise Refused(503, "too many large requests are on their way in. Nothing of this one was taken.")

    def drop(self, incoming: Incoming) -> None:
        """Hold no more of a body."""
        self.held_bytes -= incoming.size_bytes
        incoming.size_bytes = 0
        incoming.parts.clear()

    def take(self, incoming: Incoming, answering: Answering) -> None:
        """Answer a request that is whole, now or when its records are durable."""
        body = incoming.parts[0] if len(incoming.parts) == 1 else b"".join(incoming.parts)
        self.drop(incoming)
        try:
            if incoming.target == RECORDS_PATH:
                self._append(incoming, body, answering)
            else:
                answering.answer(incoming, self._look(incoming.target))
        except Refused as refused:
            answering.answer(incoming, refused)
        except BeamExactlyOnceError as error:
            answering.answer(incoming, refusal_of(error))
        except Exception as error:
            # Neither its text nor its frames' values: both may hold what was sent.
            _LOGGER.error("a request failed with %s", type(error).__name__)
            answering.answer(incoming, Refused(500, "the receiver failed; its log says more."))

    def _append(self, incoming: Incoming, body: bytes, answering: Answering) -> None:
        sender = incoming.sender
        if sender is None:
            sender = self._access.by_signature(incoming.headers, body)
        records = self._form.records(sender, incoming.headers, body)
        size_bytes = len(body)

        def on_settled(done: Appended | BeamExactlyOnceError) -> None:
            if isinstance(done, BeamExactlyOnceError):
                answering.answer(incoming, refusal_of(done))
                return
            metrics = self.metrics
            metrics.records += done.records
            metrics.duplicates += done.duplicates
            metrics.bytes += size_bytes
            said = (done.partition, done.offset or 0, done.records, done.duplicates)
            answering.answer(incoming, (_JSON, b'{"partition":%d,"offset":%d,"records":%d,"duplicates":%d}' % said))

        self._log.append(records, on_settled)

    def _look(self, target: bytes) -> tuple[bytes, bytes]:
        if target == b"/metrics":
            return _TEXT, self.metrics.text({**self._log.gauges(), "held_bytes": self.held_bytes})
        if target == b"/healthz":
            return _JSON, b'{"alive":true}'
        readiness = self._log.readiness()
        if not readiness["ready"]:
            raise Refused(503, "records cannot be taken now.", details=readiness)
        return _JSON, orjson.dumps(readiness)

    def _too_large(self) -> Refused:
        most = self._max_request_bytes
        return Refused(413, f"a request may have {most} bytes. Nothing of this one was taken: send it in parts.")
