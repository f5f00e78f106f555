"""Requests that are not taken, as their senders see them."""

from __future__ import annotations

from beam_exactly_once.errors import (
    BeamExactlyOnceError,
    IdReused,
    Retryable,
    UnfitRow,
)


class Refused(Exception):
    """A request that is not taken. Whatever it says is for its sender: nothing of other requests, no secret.

    Args:
        status: of HTTP.
        message: what is wrong, and the way out.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may be taken later."""
        return self.status in (408, 503)


def refusal_of(error: BeamExactlyOnceError) -> Refused:
    """What a sender is told of an error of the log."""
    if isinstance(error, IdReused):
        return Refused(422, str(error))
    if isinstance(error, UnfitRow):
        return Refused(413, str(error))
    if isinstance(error, Retryable):
        return Refused(503, str(error))
    return Refused(503, "another receiver writes this partition now. Send the request again with the same ids.")
