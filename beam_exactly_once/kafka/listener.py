"""What a broker's port says for itself. The client only says that it could not connect; who must act depends on why.

No secret is sent: a TLS handshake, and Kafka's question for SASL mechanisms, which comes before any login.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from dataclasses import dataclass

_SASL_HANDSHAKE, _VERSION, _CORRELATION = 17, 1, 1
_ILLEGAL_SASL_STATE = 34  # the answer of a port without SASL
_MAX_ANSWER_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Listener:
    """One port of a broker.

    Args:
        speaks_tls: Whether connections are TLS.
        certificate_fault: Why its certificate cannot be trusted, if it cannot.
        mechanisms: SASL mechanisms it takes; empty: it wants no login; None: it did not say.
    """

    speaks_tls: bool
    certificate_fault: str | None = None
    mechanisms: tuple[str, ...] | None = None

    def contradiction(self, protocol: str) -> str | None:
        """How a client's ``security.protocol`` is wrong for this port, or None."""
        wants_login, wants_tls = protocol.startswith("SASL_"), protocol.endswith("SSL")
        has_login = wants_login if self.mechanisms is None else bool(self.mechanisms)
        if (has_login, self.speaks_tls) == (wants_login, wants_tls):
            return None
        spoken = ("SASL_" if has_login else "") + ("SSL" if self.speaks_tls else "PLAINTEXT")
        taken = f", mechanisms {', '.join(self.mechanisms)}" if self.mechanisms else ""
        return f"the port speaks {spoken}{taken}, and security.protocol says {protocol}"


def ask_listener(address: str, trusted: ssl.SSLContext, timeout_s: float) -> Listener | None:
    """Ask ``host:port`` what it is; None if it does not say.

    Args:
        address: ``host:port``, IPv6 in brackets; a protocol in front of it is passed over.
        trusted: Whom the client trusts, and whether it checks names.
        timeout_s: Longest wait for each answer.
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    place = (host.strip("[]"), int(port)) if port.isdigit() else (address, 9092)
    certificate_fault = None
    for context in (trusted, _trusting_all(), None):
        try:
            with _connection(place, context, timeout_s) as connection:
                mechanisms = _mechanisms(connection)
                if context is not None or mechanisms is not None:
                    return Listener(context is not None, certificate_fault, mechanisms)
        except ssl.SSLCertVerificationError as error:
            certificate_fault = error.verify_message.rstrip(".")
        except (OSError, ValueError, OverflowError):  # nobody there, or no address at all
            continue
    return None


def _trusting_all() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _connection(place: tuple[str, int], context: ssl.SSLContext | None, timeout_s: float) -> socket.socket:
    connection = socket.create_connection(place, timeout_s)
    if context is None:
        return connection
    try:
        return context.wrap_socket(connection, server_hostname=place[0])
    except BaseException:
        connection.close()
        raise


def _mechanisms(connection: socket.socket) -> tuple[str, ...] | None:
    """Ask for a mechanism that does not exist; the refusal names those that do."""
    request = struct.pack(">hhihh", _SASL_HANDSHAKE, _VERSION, _CORRELATION, -1, 0)
    with contextlib.suppress(OSError, struct.error, UnicodeDecodeError):
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _receive(connection, 4))
        if not 10 <= size <= _MAX_ANSWER_BYTES:
            return None
        answer = _receive(connection, size)
        correlation, code, count = struct.unpack_from(">ihi", answer)
        if correlation != _CORRELATION:
            return None
        if code == _ILLEGAL_SASL_STATE:
            return ()
        names, at = [], 10
        for _ in range(count):
            (length,) = struct.unpack_from(">h", answer, at)
            names.append(answer[at + 2 : at + 2 + length].decode())
            at += 2 + length
        return tuple(sorted(names))
    return None


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise OSError("the connection ended")
        received += part
    return received
