"""Who may send, and under which name: by tokens, by signatures, or by certificates of clients.

A name is a part of the ids of records. Several secrets may share one, so that one of them can take the place of another while a
sender still tries again. Secrets are compared in a time that does not tell how much of them was right.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.receiver.refusals import Refused
from beam_exactly_once.receiver.signatures import signature_of
from beam_exactly_once.secrets import Secret, referenced

MIN_TOKEN_BYTES = 16
MAX_NAME_BYTES = 100


@dataclass(frozen=True)
class NamedSecret:
    """A secret by reference, and the name of who has it."""

    name: str
    secret: Secret


def named_secret(argument: str, text: str) -> NamedSecret:
    """``NAME=${file:…}``, or ``${file:…}`` with the empty name.

    Args:
        argument: what it was given as, for messages.
        text: what was given. It is never shown: it may be the secret itself.

    Raises:
        ConfigurationError: it is no reference.
    """
    name, found = "", referenced(text)
    if not isinstance(found, Secret):
        name, separator, reference = text.partition("=")
        found = referenced(reference) if separator else ""
    if not isinstance(found, Secret) or len(name.encode()) > MAX_NAME_BYTES:
        raise ConfigurationError(
            f"{argument} must say where a secret is, never what it is: NAME=${{file:/path}}, NAME=${{env:VARIABLE}}, or one of "
            "the two without a name."
        )
    return NamedSecret(name, found)


class Access:
    """Decides who may send. A token or a signature is enough; where certificates are asked for, the connection has shown one.

    Args:
        tokens: what ``Authorization: Bearer`` may say; at least 16 bytes each.
        signature: ``github``, ``stripe`` or ``hmac-sha256:HEADER``; None: there are none.
        signature_secrets: what requests may be signed with.
        certificates: whether connections show certificates. They alone are enough if there are no secrets.
        anyone: whether everybody may send.
        clock: tells how old a signature is.

    Raises:
        ConfigurationError: nobody may send, or a secret cannot be read.
    """

    def __init__(
        self,
        *,
        tokens: Sequence[NamedSecret] = (),
        signature: str | None = None,
        signature_secrets: Sequence[NamedSecret] = (),
        certificates: bool = False,
        anyone: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if (signature is None) != (not signature_secrets):
            raise ConfigurationError("signature and signature_secret belong together: give both, or none of them.")
        if anyone == bool(tokens or signature_secrets or certificates):
            raise ConfigurationError(
                "say who may send: give token, signature or tls_client_ca; or anyone, if what stands before this receiver "
                "lets nobody else through."
            )
        self._tokens = [(_read("token", one, MIN_TOKEN_BYTES), one.name.encode()) for one in tokens]
        self._signature = None if signature is None else signature_of(signature)
        self._signed_with = [(_read("signature_secret", one, 1), one.name.encode()) for one in signature_secrets]
        self._certificates = certificates and not tokens and signature is None
        self._anyone = anyone
        self._clock = clock

    def by_headers(self, headers: dict[bytes, bytes], certificate: str | None) -> bytes | None:
        """Who sends, as far as it can be told before the body is there.

        Args:
            headers: of the request, by their names in small letters.
            certificate: the name in the one that the connection has shown.

        Returns:
            The name; None: only the signature of the body can tell.

        Raises:
            Refused: nobody that may.
        """
        if self._anyone:
            return b""
        if self._certificates and certificate:
            return certificate.encode()
        given = headers.get(b"authorization", b"")
        if self._tokens and given[:7].lower() == b"bearer ":
            names = [name for token, name in self._tokens if hmac.compare_digest(token, given[7:])]
            if names:
                return names[0]
        if self._signature is None or self._signature.header not in headers:
            raise Refused(401, "no token, signature or certificate that this receiver knows came with the request.")
        return None

    def by_signature(self, headers: dict[bytes, bytes], body: bytes) -> bytes:
        """Who has signed a body.

        Raises:
            Refused: nobody that may.
        """
        assert self._signature is not None
        given, now_s = headers[self._signature.header], self._clock.utc_now().timestamp()
        by = [name for secret, name in self._signed_with if self._signature.is_by(secret, given, body, now_s)]
        if not by:
            raise Refused(401, "the signature does not belong to this body and to a secret that this receiver knows.")
        return by[0]


def _read(argument: str, one: NamedSecret, least_bytes: int) -> bytes:
    secret = one.secret.resolve().strip().encode()
    if len(secret) < least_bytes:
        raise ConfigurationError(
            f"the {argument} in {one.secret.name} has {len(secret)} bytes, which is too short: {least_bytes} are the least."
        )
    return secret
