"""Signatures of webhooks: an HMAC of the body, by a secret that sender and receiver share. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Protocol

from beam_exactly_once.errors import ConfigurationError

MAX_AGE_S = 300
"""How far the time in a signature may be from this machine's: who has caught a request cannot send it again for ever."""


class Signature(Protocol):
    """One way to sign."""

    header: bytes
    """The name of the header that has it, in small letters."""

    def is_by(self, secret: bytes, signature: bytes, body: bytes, now_s: float) -> bool:
        """Whether who knows ``secret`` has signed ``body``, and, where it says when, not long ago."""
        ...


class _OfBody:
    """The HMAC-SHA256 of the body, in hexadecimal digits or in base64; ``sha256=`` may stand before it."""

    def __init__(self, header: str) -> None:
        self.header = header.lower().encode()

    def is_by(self, secret: bytes, signature: bytes, body: bytes, now_s: float) -> bool:
        made = hmac.digest(secret, body, hashlib.sha256)
        given = signature.removeprefix(b"sha256=")
        in_hexadecimal = hmac.compare_digest(given.lower(), made.hex().encode())
        return hmac.compare_digest(given, base64.b64encode(made)) or in_hexadecimal


class _Stripe:
    """``t=TIME,v1=HMAC,…`` of the time, a dot and the body. There are several while its secret is exchanged."""

    header = b"stripe-signature"

    def is_by(self, secret: bytes, signature: bytes, body: bytes, now_s: float) -> bool:
        pairs = [part.strip().partition(b"=")[::2] for part in signature.split(b",")[:20]]
        time = next((value for name, value in pairs if name == b"t"), b"")
        if not time.isdigit() or len(time) > 15 or abs(int(time) - now_s) > MAX_AGE_S:
            return False
        made = hmac.digest(secret, time + b"." + body, hashlib.sha256).hex().encode()
        return any(hmac.compare_digest(value, made) for name, value in pairs if name == b"v1")


def signature_of(text: str) -> Signature:
    """What ``--signature`` says: ``github``, ``stripe`` or ``hmac-sha256:HEADER``.

    Raises:
        ConfigurationError: it says something else.
    """
    kind, _, header = text.partition(":")
    if text == "github":
        return _OfBody("X-Hub-Signature-256")
    if text == "stripe":
        return _Stripe()
    if kind == "hmac-sha256" and header:
        return _OfBody(header)
    raise ConfigurationError(f"--signature {text!r} is not known; use github, stripe or hmac-sha256:HEADER.")
