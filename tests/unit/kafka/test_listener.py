"""What a port says of itself, from ports that answer as brokers, other programs and broken ones do."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from beam_exactly_once.kafka.listener import Listener, ask_listener

TIMEOUT_S = 60.0
Answer = Callable[[socket.socket, bytes], None]


@contextmanager
def port(answer: Answer) -> Iterator[str]:
    """A port that reads a request and answers it so, for each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(TIMEOUT_S)
                    answer(connection, connection.recv(1024))

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def ask(address: str) -> Listener | None:
    return ask_listener(address, ssl.create_default_context(), TIMEOUT_S)


def handshake(code: int, mechanisms: list[str]) -> bytes:
    """As a broker answers the question for mechanisms."""
    names = b"".join(struct.pack(">h", len(name)) + name.encode() for name in mechanisms)
    body = struct.pack(">ihi", 1, code, len(mechanisms)) + names
    return struct.pack(">i", len(body)) + body


def to_plain_requests(reply: bytes) -> Answer:
    """Hangs up on TLS, as a broker does: a greeting of TLS looks to it like a request of absurd size."""

    def answer(connection: socket.socket, request: bytes) -> None:
        if request == struct.pack(">ihhihh", 12, 17, 1, 1, -1, 0):
            for part in (reply[:3], reply[3:]):
                connection.sendall(part)

    return answer


def test_a_port_with_logins_names_its_mechanisms() -> None:
    with port(to_plain_requests(handshake(33, ["SCRAM-SHA-512", "PLAIN"]))) as address:
        assert ask(address) == Listener(False, None, ("PLAIN", "SCRAM-SHA-512"))


def test_a_port_without_logins_says_so() -> None:
    with port(to_plain_requests(handshake(34, []))) as address:
        assert ask(address) == ask(f"PLAINTEXT://{address}") == Listener(False, None, ())


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        handshake(33, ["PLAIN"])[:-2],
        struct.pack(">iihi", 10, 2, 33, 0),
        struct.pack(">iihi", 10, 1, 33, 7),
        struct.pack(">i", 2**31 - 1),
    ],
)
def test_a_port_that_is_no_broker_says_nothing(reply: bytes) -> None:
    with port(to_plain_requests(reply)) as address:
        assert ask(address) is None


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "[::1]:1", "no.such.host.invalid:1", "", "a:b", "127.0.0.1:99999", f"{'a' * 70}:1"]
)
def test_an_address_where_nobody_is_says_nothing(address: str) -> None:
    assert ask(address) is None


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
def test_only_the_ports_own_protocol_is_no_contradiction(protocol: str) -> None:
    ports = {
        "PLAINTEXT": Listener(False, None, ()),
        "SSL": Listener(True, None, ()),
        "SASL_PLAINTEXT": Listener(False, None, ("PLAIN",)),
        "SASL_SSL": Listener(True, "expired", ("PLAIN",)),
    }
    assert {spoken: one.contradiction(protocol) is None for spoken, one in ports.items()} == {
        spoken: spoken == protocol for spoken in ports
    }
    assert ports["SASL_PLAINTEXT"].contradiction("SSL") == (
        "the port speaks SASL_PLAINTEXT, mechanisms PLAIN, and security.protocol says SSL"
    )


def test_what_a_port_does_not_say_contradicts_nothing() -> None:
    assert Listener(True, None, None).contradiction("SASL_SSL") is None
    assert Listener(True, None, None).contradiction("SSL") is None
    assert Listener(True, None, None).contradiction("SASL_PLAINTEXT") is not None
