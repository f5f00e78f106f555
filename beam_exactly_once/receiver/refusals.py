"""Requests that are not taken, as their senders see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from beam_exactly_once.errors import BeamExactlyOnceError, IdReused, Retryable, UnfitRow


class Refused(Exception):
    """A request that is not taken. Whatever it says is for its sender: nothing of other requests, no secret.

    Args:
        status: of HTTP.
        message: what is wrong, and the way out.
        allow: the methods that are possible.
        details: what else it says.
    """

    def __init__(
        self, status: int, message: str, *, allow: bytes = b"", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.is_retryable = status in (408, 500, 503)
        """Whether the same request may be taken later."""
        self._said = {"error": message, "retry": self.is_retryable, **(details or {})}
        self._allow = allow

    def answer(self) -> tuple[bytes, bytes]:
        """Its type, and its body."""
        return b"application/json", orjson.dumps(self._said)

    def headers(self) -> bytes:
        """Those that go with its status."""
        if self.status == 503:
            return b"retry-after: 1\r\n"
        if self.status == 401:
            return b"www-authenticate: Bearer\r\n"
        return b"allow: %b\r\n" % self._allow if self._allow else b""


def refusal_of(error: BeamExactlyOnceError) -> Refused:
    """What a sender is told of an error of the log."""
    if isinstance(error, IdReused):
        return Refused(422, str(error))
    if isinstance(error, UnfitRow):
        return Refused(413, str(error))
    if isinstance(error, Retryable):
        return Refused(503, str(error))
    return Refused(503, "another receiver writes this partition now. Send the request again with the same ids.")
