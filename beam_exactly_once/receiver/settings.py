"""What a receiver is told, checked."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any

from beam_exactly_once.arguments import location_of, one_of, seconds, whole_number
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.receiver.access import NamedSecret
from beam_exactly_once.receiver.keeper import ClaimAt
from beam_exactly_once.wal.writer import MAX_RECORD_BYTES

MAX_REQUEST_BYTES = 8_000_000
"""About what a segment takes; it says exactly what does not fit."""


@dataclass(frozen=True)
class ReceiverSettings:
    """All that a receiver is told. The flags of ``beam-exactly-once wal receive`` are these names.

    Args:
        location: the log's.
        listen: host and port, such as ``0.0.0.0:8443``; port 0 takes a free one.
        partition: which one.
        token: what ``Authorization: Bearer`` may say.
        signature: ``github``, ``stripe`` or ``hmac-sha256:HEADER``.
        signature_secret: what requests may be signed with.
        anyone: whether everybody may send.
        tls_cert: file of the certificate of this receiver, and of those above it.
        tls_key: file of its key.
        tls_client_ca: file of what has signed the certificates of clients; connections without one are closed.
        linger_s: how long a segment waits for more records.
        id_header: name of the header that holds the id of a request.
        id_json_field: name of the field that holds the id of a record, instead.
        keep_header: names of headers that become headers of the records.
        max_record_bytes: the largest record.
        max_request_bytes: the largest request.
        max_pending_bytes: what may wait for the store; and as much of requests that are on their way in.
        max_connections: at any time.
        ack_timeout_s: how long a request waits for the store before it is answered with 503.
        request_timeout_s: how long a request may take to come.
        id_window: among how many of the last offsets an id is recognised.
        claim: when to claim the partition.
        takeover_after_s: so long the log must stand still before one that stands by claims it.
        storage_options: of the store.
    """

    location: str
    listen: str = "127.0.0.1:8080"
    partition: int = 0
    token: tuple[NamedSecret, ...] = ()
    signature: str | None = None
    signature_secret: tuple[NamedSecret, ...] = ()
    anyone: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    linger_s: float = 0.05
    id_header: str = "Idempotency-Key"
    id_json_field: str | None = None
    keep_header: tuple[str, ...] = ()
    max_record_bytes: int = MAX_RECORD_BYTES
    max_request_bytes: int = MAX_REQUEST_BYTES
    max_pending_bytes: int = 64 << 20
    max_connections: int = 10_000
    ack_timeout_s: float = 10.0
    request_timeout_s: float = 30.0
    id_window: int = 1_000_000
    claim: ClaimAt = "at-start"
    takeover_after_s: float = 5.0
    storage_options: dict[str, Any] | None = field(default=None)

    def __post_init__(self) -> None:
        location_of("location", self.location, "a log")
        one_of("claim", self.claim, ("at-start", "at-first-request"))
        whole_number("max_record_bytes", self.max_record_bytes, most=MAX_RECORD_BYTES)
        whole_number("max_request_bytes", self.max_request_bytes, most=MAX_REQUEST_BYTES)
        whole_number("max_connections", self.max_connections)
        seconds("ack_timeout_s", self.ack_timeout_s)
        seconds("request_timeout_s", self.request_timeout_s)
        seconds("takeover_after_s", self.takeover_after_s)
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_client_ca and self.tls_cert is None):
            raise ConfigurationError("--tls-cert and --tls-key belong together, and --tls-client-ca needs both.")
        self.address  # noqa: B018 # is checked

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen at.

        Raises:
            ConfigurationError: ``listen`` does not say them.
        """
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65_535:
            raise ConfigurationError(f"--listen {self.listen!r} must be HOST:PORT, such as 0.0.0.0:8443 or [::]:8443.")
        return host.strip("[]"), int(port)

    def tls(self) -> ssl.SSLContext | None:
        """How connections are encrypted; None: they are not.

        Raises:
            ConfigurationError: a file cannot be used.
        """
        if self.tls_cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key)
            if self.tls_client_ca is not None:
                context.load_verify_locations(self.tls_client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"--tls-cert {self.tls_cert!r}, --tls-key {self.tls_key!r} and --tls-client-ca {self.tls_client_ca!r} cannot be "
                f"used: {error}. Give files in PEM form that this user can read."
            ) from None
        return context
